"""Convolutions across channels: matrix products or, else, custom gradients.

XLA:CPU has one fast convolution: NHWC x HWIO -> NHWC, kernel not reversed, one group.
The gradients that JAX derives have other layouts. Inside a loop, where training steps
always run, XLA does not transpose them to this layout but uses naive code, which is up
to several hundred times slower. The gradients here are therefore written as the fast
convolution.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from cifar_flax.ops import winograd
from cifar_flax.ops.window import CANONICAL, Window, pad, shifted, spread

_PIXELS = 1 << 13  # of the images whose filter gradient is computed at once


def as_dot(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
  """Convolves by a matrix product, for a kernel of one pixel or of the image's size.

  No custom gradient is needed: JAX derives matrix products again, which are fast.

  Args:
    x: `[batch, height, width, in_channels]`.
    kernel: `[height, width, in_channels, out_channels]`: 1x1, or the image's size
      with a window without padding and dilation.
    window: a window with one group.

  Returns:
    `[batch, height, width, out_channels]`.
  """
  size = window.output_size(x.shape, kernel.shape)
  if kernel.shape[:2] == (1, 1):
    x = next(shifted(pad(x, window), kernel.shape, window, size))
  matrix = kernel.reshape(-1, kernel.shape[3])
  product = jnp.dot(x.reshape(-1, matrix.shape[0]), matrix, precision=window.precision)
  return product.reshape(x.shape[0], *size, kernel.shape[3])


def grouped(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
  """Convolves each group separately.

  Equivalent to `lax.conv_general_dilated` with `feature_group_count`, for which XLA:CPU
  computes JAX's filter gradient with naive code.

  Args:
    x: `[batch, height, width, in_channels]`.
    kernel: `[height, width, in_channels / groups, out_channels]`.
    window: strides, padding, dilation, groups.

  Returns:
    `[batch, height, width, out_channels]`.
  """
  images = jnp.split(x, window.groups, axis=3)
  kernels = jnp.split(kernel, window.groups, axis=3)
  one_group = window._replace(groups=1)
  outputs = [convolve(*pair, one_group) for pair in zip(images, kernels, strict=True)]
  return jnp.concatenate(outputs, axis=3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
  """Computes a two-dimensional convolution of one group.

  Args:
    x: `[batch, height, width, in_channels]`.
    kernel: `[height, width, in_channels, out_channels]`.
    window: strides, padding, dilation.

  Returns:
    `[batch, height, width, out_channels]`.
  """
  if winograd.suits(x, kernel, window):
    return winograd.convolve(x, kernel, window)
  return lax.conv_general_dilated(
    x,
    kernel,
    window.strides,
    window.padding,
    rhs_dilation=window.dilation,
    dimension_numbers=CANONICAL,
    precision=window.precision,
  )


def _forward(x, kernel, window):
  return convolve(x, kernel, window), (x, kernel)


def _backward(window, residuals, gradient):
  x, kernel = residuals
  rotated = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
  spread_gradient, moving = spread(gradient, x.shape, kernel.shape, window)
  input_gradient = convolve(spread_gradient, rotated, moving)
  return input_gradient, _filter_gradient(gradient, x, kernel, window)


def _filter_gradient(gradient, x, kernel, window):
  """Computes the filter gradient as a convolution of the input with the gradient.

  The gradient of a tap is a sum over images and positions: input pixel times gradient
  of the output pixel it contributed to. This is a convolution with the roles of images
  and channels exchanged, the output's gradient as kernel, and strides and dilation
  exchanged. It is faster than one product per tap over shifted slices. It is computed
  for about `_PIXELS` pixels at a time, so that transposing them stays within the cache;
  transposing 64 channels of 32x32 pixels for the whole batch takes as long as the
  convolution. The loop slices the images that the forward convolution and the input
  gradient read too. If it were given them in another shape, XLA would compute the
  operations before them twice, once for each shape.
  """
  height, width = kernel.shape[:2]
  swapped = window._replace(strides=window.dilation, dilation=window.strides)
  wide = jnp.promote_types(x.dtype, jnp.float32)
  fitting = _PIXELS // (x.shape[1] * x.shape[2])
  together = math.gcd(len(x), 1 << max(0, fitting.bit_length() - 1))

  def add(total, number):
    some_x, some_gradient = (
      lax.dynamic_slice_in_dim(images, number * together, together).astype(wide)
      for images in (x, gradient)
    )
    taps = convolve(
      some_x.transpose(3, 1, 2, 0), some_gradient.transpose(1, 2, 0, 3), swapped
    )
    # With strides, unused rows and columns of the input give extra taps: drop them.
    return total + taps[:, :height, :width], None

  total = jnp.zeros((x.shape[3], height, width, kernel.shape[3]), wide)
  total, _ = lax.scan(add, total, jnp.arange(len(x) // together))
  return total.transpose(1, 2, 0, 3).astype(kernel.dtype)


convolve.defvjp(_forward, _backward)
