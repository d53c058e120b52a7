"""Winograd's algorithm for kernels of three rows: half the multiplications."""

import functools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from cifar_flax.ops.window import CANONICAL, Window

# F(4, 3) of Lavin and Gray 2016, "Fast algorithms for convolutional neural networks":
# four outputs of a three-tap filter k over six inputs x are A ((G k) * (B x)).
_B = (
  (4, 0, -5, 0, 1, 0),
  (0, -4, -4, 1, 1, 0),
  (0, 4, -4, -1, 1, 0),
  (0, -2, -1, 2, 1, 0),
  (0, 2, -1, -2, 1, 0),
  (0, 4, 0, -5, 0, 1),
)
_G = (
  (1 / 4, 0, 0),
  (-1 / 6, -1 / 6, -1 / 6),
  (-1 / 6, 1 / 6, -1 / 6),
  (1 / 24, 1 / 12, 1 / 6),
  (1 / 24, -1 / 12, 1 / 6),
  (0, 0, 1),
)
_A = (
  (1, 1, 1, 1, 1, 0),
  (0, 1, -1, 2, -2, 0),
  (0, 1, 1, 4, 4, 0),
  (0, 1, -1, 8, -8, 1),
)


def suits(x: jax.Array, kernel: jax.Array, window: Window) -> bool:
  """Returns whether `convolve` supports this convolution and is faster than lax.

  With few channels, the additional sums over pixels cost more than the products they
  save. In bfloat16, the sums would be rounded, and their errors grow eightfold.
  """
  return (
    kernel.shape[:2] == (3, 3)
    and kernel.shape[2] * kernel.shape[3] >= 48 * 64
    and window.strides[0] == window.dilation[0] == 1
    and jnp.finfo(x.dtype).bits >= 32
  )


def convolve(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
  """Computes four rows of the result by six convolutions with kernels of one row.

  Equivalent to `lax.conv_general_dilated`, within 1e-5 of the largest value of the
  result in float32. Six products for four rows replace twelve. Transforming rows and
  columns (36 products instead of 144) is not faster here, because it reads and writes
  much more memory.

  Args:
    x: `[batch, height, width, in_channels]`.
    kernel: `[3, width, in_channels, out_channels]`.
    window: a window with one group, and vertical stride and dilation 1.

  Returns:
    `[batch, height, width, out_channels]`.
  """
  (top, bottom), sides = window.padding
  height = x.shape[1] + top + bottom - 2
  strips = -(-height // 4)
  bottom += 4 * strips - height
  x = jnp.pad(x, ((0, 0), (top, bottom), (0, 0), (0, 0)))
  rows = [x[:, i : i + 4 * strips - 3 : 4] for i in range(6)]
  taps = list(kernel[:, None])

  def products(a):
    return lax.conv_general_dilated(
      _combine(_B[a], rows),
      _combine(_G[a], taps),
      window.strides,
      ((0, 0), sides),
      rhs_dilation=window.dilation,
      dimension_numbers=CANONICAL,
      precision=window.precision,
    )

  six = [products(a) for a in range(6)]
  four = jnp.stack([_combine(row, six) for row in _A], axis=2)
  return four.reshape(x.shape[0], 4 * strips, *four.shape[3:])[:, :height]


def _combine(weights: Sequence[float], arrays: Iterable[jax.Array]) -> jax.Array:
  """Returns the weighted sum of arrays, skipping weights of zero."""
  pairs = zip(weights, arrays, strict=True)
  return functools.reduce(jnp.add, (w * array for w, array in pairs if w))
