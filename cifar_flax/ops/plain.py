"""Convolutions that mix channels: as dots where possible, else with written gradients.

XLA:CPU has one fast convolution: NHWC x HWIO -> NHWC, kernel not reversed, one group.
The gradients JAX derives have other layouts, and inside a loop (a training step always
lives in one) nothing brings them back: they fall to naive code, up to several hundred
times slower. So each gradient is written here as the fast convolution or as dots.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from cifar_flax.ops.window import (
  Window,
  map_over_images,
  pad,
  shifted,
  spread,
  sum_over_images,
)

_CANONICAL = ("NHWC", "HWIO", "NHWC")
# Shifted copies of so many pixels stay in a cache of 1-2 MB; the whole batch at once
# takes 1.4 to 2.5 times as long.
_PIXELS_AT_A_TIME = 4096


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
  """Any two-dimensional convolution, plain or grouped.

  Args:
    x: `[batch, height, width, in_channels]`.
    kernel: `[height, width, in_channels / groups, out_channels]`.
    window: strides, padding, dilation, groups.

  Returns:
    `[batch, height, width, out_channels]`.
  """
  run = functools.partial(
    lax.conv_general_dilated,
    rhs=kernel,
    window_strides=window.strides,
    padding=window.padding,
    rhs_dilation=window.dilation,
    dimension_numbers=_CANONICAL,
    feature_group_count=window.groups,
    precision=window.precision,
  )
  if window.padding == ((0, 0), (0, 0)):
    # XLA:CPU takes 1.6 to 2.5 times as long for the whole batch without a border.
    return map_over_images(run, _images_at_a_time(x.shape), x)
  return run(x)


def _images_at_a_time(image):
  return max(1, _PIXELS_AT_A_TIME // (image[1] * image[2]))


def _forward(x, kernel, window):
  return convolve(x, kernel, window), (x, kernel)


def _backward(window, residuals, gradient):
  x, kernel = residuals
  return (
    _input_gradient(gradient, x, kernel, window),
    _filter_gradient(gradient, x, kernel, window),
  )


def _input_gradient(gradient, x, kernel, window):
  height, width, inputs, outputs = kernel.shape
  grouped = kernel[::-1, ::-1].reshape(height, width, inputs, window.groups, -1)
  rotated = grouped.transpose(0, 1, 4, 3, 2).reshape(
    height, width, outputs // window.groups, window.groups * inputs
  )
  spread_gradient, moving = spread(gradient, x.shape, kernel.shape, window)
  return convolve(spread_gradient, rotated, moving)


def _filter_gradient(gradient, x, kernel, window):
  """One product per tap: the pixels it met, times the gradients they went to."""
  size = gradient.shape[1:3]

  def products(x, gradient):
    right = gradient.reshape(-1, window.groups, gradient.shape[3] // window.groups)
    return [
      _product(pixels.reshape(*right.shape[:2], -1), right, window.precision)
      for pixels in shifted(x, kernel.shape, window, size)
    ]

  chunk = _images_at_a_time(gradient.shape)
  taps = sum_over_images(products, chunk, pad(x, window), gradient)
  # [taps, groups, in, out] -> HWIO, whose last axis is (group, out).
  stacked = jnp.stack(taps).transpose(0, 2, 1, 3)
  return stacked.reshape(kernel.shape).astype(kernel.dtype)


def _product(left, right, precision):
  """Sum over rows of `[rows, groups, in]` x `[rows, groups, out]`."""
  wide = jnp.promote_types(left.dtype, jnp.float32)
  if left.shape[1] == 1:
    numbers = (((0,), (0,)), ((), ()))
    left, right = left[:, 0], right[:, 0]
  else:
    numbers = (((0,), (0,)), ((1,), (1,)))
  product = lax.dot_general(
    left, right, numbers, precision=precision, preferred_element_type=wide
  )
  return product.reshape(-1, *product.shape[-2:])


convolve.defvjp(_forward, _backward)
