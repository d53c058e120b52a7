"""A `lax.conv_general_dilated` that chooses the fastest form on a CPU."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cifar_flax.ops import compiler, depthwise, plain
from cifar_flax.ops.forward_mode import reverse_only
from cifar_flax.ops.window import CANONICAL, Window


@reverse_only
def conv_general_dilated(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  batch_group_count: int = 1,
  precision: Any = None,
  preferred_element_type: Any = None,
) -> jax.Array:
  """Replaces `lax.conv_general_dilated`, except in forward-mode differentiation.

  It takes the same arguments and gives the same result up to rounding. On a CPU,
  two-dimensional convolutions of NHWC images with HWIO kernels use the fast forms. They
  work under `jax.jit`, `jax.vmap`, `jax.checkpoint` and reverse-mode differentiation of
  any order, but not under `jax.jvp` and what is built on it. All other convolutions,
  and arguments that do not fit together, are passed to `lax.conv_general_dilated`
  unchanged.

  Args:
    lhs: images `[batch, height, width, in_channels]`.
    rhs: kernel `[kernel height, kernel width, in_channels / groups, out_channels]`.
    window_strides: (vertical, horizontal).
    padding: 'SAME', 'VALID' or ((top, bottom), (left, right)).
    lhs_dilation: as in lax; the fast forms require None or ones.
    rhs_dilation: (vertical, horizontal) distance of neighbouring taps.
    dimension_numbers: as in lax; the fast forms require NHWC, HWIO, NHWC.
    feature_group_count: number of groups.
    batch_group_count: as in lax; the fast forms require 1.
    precision: as in lax.
    preferred_element_type: as in lax; the fast forms require None.

  Returns:
    `[batch, height, width, out_channels]`.

  Raises:
    TypeError: forward-mode differentiation of a fast form (`forward_mode.ADVICE`), or
      what `lax.conv_general_dilated` raises.
  """
  canonical = (
    compiler.platform() == "cpu"
    and lhs.ndim == rhs.ndim == 4
    and _is_canonical(lhs.shape, rhs.shape, dimension_numbers)
    and lhs.dtype == rhs.dtype
    and jnp.issubdtype(lhs.dtype, jnp.floating)
    and (lhs_dilation is None or tuple(lhs_dilation) == (1, 1))
    and all(
      len(n) == 2 and min(n) >= 1 for n in (window_strides, rhs_dilation or (1, 1))
    )
    and (isinstance(padding, str) or [len(pair) for pair in padding] == [2, 2])
    and batch_group_count == 1
    and preferred_element_type is None
  )
  if canonical:
    dilation = tuple(rhs_dilation or (1, 1))
    window = _window(lhs, rhs, window_strides, padding, dilation)
    window = window._replace(groups=feature_group_count, precision=precision)
    if _fits(window, lhs.shape, rhs.shape):
      return _choose(window, lhs.shape, rhs.shape)(lhs, rhs, window)
  return lax.conv_general_dilated(
    lhs,
    rhs,
    window_strides,
    padding,
    lhs_dilation=lhs_dilation,
    rhs_dilation=rhs_dilation,
    dimension_numbers=dimension_numbers,
    feature_group_count=feature_group_count,
    batch_group_count=batch_group_count,
    precision=precision,
    preferred_element_type=preferred_element_type,
  )


def _is_canonical(image, kernel, dimension_numbers):
  """Returns whether the dimension numbers mean NHWC, HWIO, NHWC."""
  canonical = lax.conv_dimension_numbers(image, kernel, CANONICAL)
  return lax.conv_dimension_numbers(image, kernel, dimension_numbers) == canonical


def _window(lhs, rhs, strides, padding, dilation):
  """Returns the window with numeric padding, one group and default precision."""
  window = Window(tuple(strides), ((0, 0), (0, 0)), dilation, 1, None)
  if isinstance(padding, str):
    extent = window.extent(rhs.shape)
    padding = lax.padtype_to_pads(lhs.shape[1:3], extent, strides, padding)
  (top, bottom), (left, right) = padding
  return window._replace(padding=((int(top), int(bottom)), (int(left), int(right))))


def _fits(window, image, kernel):
  """Returns whether the shapes agree, nothing is empty and no padding is negative."""
  return (
    image[3] == kernel[2] * window.groups
    and kernel[3] % window.groups == 0
    and min(*image, *kernel) > 0
    and min(min(pads) for pads in window.padding) >= 0
    and min(window.output_size(image, kernel)) > 0
  )


def _choose(window, image, kernel):
  """Returns the function that computes this convolution."""
  if window.groups > 1:
    return depthwise.convolve if window.groups == image[3] else plain.grouped
  covers = (
    kernel[:2] == image[1:3]
    and window.padding == ((0, 0), (0, 0))
    and window.dilation == (1, 1)
  )
  return plain.as_dot if covers or kernel[:2] == (1, 1) else plain.convolve
