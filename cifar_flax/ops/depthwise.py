"""Depthwise convolution as shifted multiply-adds, with gradients of the same form."""

import functools

import jax
import jax.numpy as jnp

from cifar_flax.ops.window import Window, pad, shifted, spread


def convolve(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
  """Convolves each channel with its own kernels.

  Equivalent to `lax.conv_general_dilated` with `feature_group_count` = channels, which
  for 3x3, 64 channels, 30x30 on XLA:CPU takes 193 / 385 / 319 ms for forward / input
  gradient / filter gradient. (XLA computes the filter gradient for all pairs of
  channels and then masks it.)

  Args:
    x: `[batch, height, width, channels]`.
    kernel: `[height, width, 1, channels * multiplier]`; output channel
      c * multiplier + m comes from input channel c.
    window: the window, with `groups` equal to the number of channels.

  Returns:
    `[batch, height, width, channels * multiplier]`.
  """
  channels = x.shape[3]
  taps = kernel.reshape(*kernel.shape[:2], channels, -1)
  images = [_convolve(x, taps[..., m], window) for m in range(taps.shape[3])]
  if len(images) == 1:
    return images[0]
  return jnp.stack(images, axis=-1).reshape(*images[0].shape[:3], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x, kernel, window):
  """Convolves `[batch, height, width, channels]` with `[height, width, channels]`."""
  wide = jnp.promote_types(x.dtype, jnp.float32)
  size = window.output_size(x.shape, kernel.shape)
  taps = kernel.astype(wide).reshape(-1, 1, 1, 1, kernel.shape[2])
  pixels = shifted(pad(x, window), kernel.shape, window, size)
  total = sum(image.astype(wide) * tap for image, tap in zip(pixels, taps, strict=True))
  return jnp.asarray(total, x.dtype)


def _forward(x, kernel, window):
  return _convolve(x, kernel, window), (x, kernel)


def _backward(window, residuals, gradient):
  x, kernel = residuals
  spread_gradient, moving = spread(gradient, x.shape, kernel.shape, window)
  input_gradient = _convolve(spread_gradient, kernel[::-1, ::-1], moving)
  return input_gradient, _filter_gradient(gradient, x, kernel, window)


def _filter_gradient(gradient, x, kernel, window):
  """Sums products image by image, one total per tap, and reduces the totals last.

  The totals stay in the processor's cache. One reduction per tap over the whole batch
  takes three to six times as long.
  """
  wide = jnp.promote_types(x.dtype, jnp.float32)
  size = gradient.shape[1:3]

  def add(totals, image):
    x, gradient = image
    pixels = shifted(x[None], kernel.shape, window, size)
    products = [image[0].astype(wide) * gradient.astype(wide) for image in pixels]
    return [t + p for t, p in zip(totals, products, strict=True)], None

  zeros = [jnp.zeros(gradient.shape[1:], wide)] * (kernel.shape[0] * kernel.shape[1])
  totals = jax.lax.scan(add, zeros, (pad(x, window), gradient))[0]
  sums = [jnp.sum(total, axis=(0, 1)) for total in totals]
  return jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)


_convolve.defvjp(_forward, _backward)
