"""Convolutions that mix channels: products where possible, else with written gradients.

XLA:CPU has one fast convolution: NHWC x HWIO -> NHWC, kernel not reversed, one group.
The gradients JAX derives have other layouts, and inside a loop (a training step always
lives in one) nothing brings them back: they fall to naive code, up to several hundred
times slower. So each gradient is written here as the fast convolution.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from cifar_flax.ops import winograd
from cifar_flax.ops.window import CANONICAL, Window, pad, shifted, spread

_CHUNK = 16  # images whose filter gradient is computed at once


def as_dot(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
  """A kernel of one pixel, or as large as the image, as a product of matrices.

  JAX's own gradients of a product are products, and fast.

  Args:
    x: `[batch, height, width, in_channels]`.
    kernel: `[height, width, in_channels, out_channels]`: 1x1, or the image's size
      under a window without border and dilation.
    window: of one group.

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
  """A convolution of its own for each group.

  Equivalent to `lax.conv_general_dilated` with `feature_group_count`, whose filter
  gradient, as JAX derives it, XLA:CPU computes by naive code.

  Args:
    x: `[batch, height, width, in_channels]`.
    kernel: `[height, width, in_channels / groups, out_channels]`.
    window: strides, padding, dilation, groups.

  Returns:
    `[batch, height, width, out_channels]`.
  """
  images = jnp.split(x, window.groups, axis=3)
  kernels = jnp.split(kernel, window.groups, axis=3)
  alone = window._replace(groups=1)
  parts = [convolve(*pair, alone) for pair in zip(images, kernels, strict=True)]
  return jnp.concatenate(parts, axis=3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
  """A two-dimensional convolution of one group.

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
  """The input seen through the output's gradient, with images as channels.

  A tap's gradient is the sum over images and positions of the pixel it met times the
  gradient it went to: a convolution whose images are the input's channels, whose
  channels are the images, and whose kernel is the output's gradient. Strides and
  dilation change places. Faster than a product for each tap, over shifted slices.
  Some images at a time, so that they are transposed within the cache: all at once,
  64 channels of 32x32 pixels take as long to transpose as to convolve.
  """
  height, width = kernel.shape[:2]
  swapped = window._replace(strides=window.dilation, dilation=window.strides)
  wide = jnp.promote_types(x.dtype, jnp.float32)

  def add(total, chunk):
    x, gradient = (array.astype(wide) for array in chunk)
    taps = convolve(x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3), swapped)
    # Rows and columns that a stride left over would count as further taps.
    return total + taps[:, :height, :width], None

  chunks = [_chunks(array, math.gcd(len(x), _CHUNK)) for array in (x, gradient)]
  total = jnp.zeros((x.shape[3], height, width, kernel.shape[3]), wide)
  total, _ = lax.scan(add, total, tuple(chunks))
  return total.transpose(1, 2, 0, 3).astype(kernel.dtype)


def _chunks(images, size):
  return images.reshape(-1, size, *images.shape[1:])


convolve.defvjp(_forward, _backward)
