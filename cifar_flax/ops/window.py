"""The window of a convolution, and the shifted images that its taps read."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

CANONICAL = ("NHWC", "HWIO", "NHWC")  # images, kernel, result
Pads = tuple[tuple[int, int], tuple[int, int]]


class Window(NamedTuple):
  """The static parameters of a two-dimensional convolution, except for its shapes.

  Attributes:
    strides: (vertical, horizontal), in pixels.
    padding: ((top, bottom), (left, right)), in pixels.
    dilation: (vertical, horizontal) distance of neighbouring taps, in pixels.
    groups: number of groups the input channels are split into.
    precision: as in `lax.conv_general_dilated`.
  """

  strides: tuple[int, int]
  padding: Pads
  dilation: tuple[int, int]
  groups: int
  precision: Any

  def extent(self, kernel: Sequence[int]) -> tuple[int, int]:
    """Returns height and width in pixels that a kernel of this shape covers."""
    (height, width), (down, right) = kernel[:2], self.dilation
    return (height - 1) * down + 1, (width - 1) * right + 1

  def output_size(self, image: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
    """Returns height and width of the result for `[batch, height, width, ...]`."""
    height, width = (
      (size + sum(pads) - reach) // stride + 1
      for size, pads, reach, stride in zip(
        image[1:3], self.padding, self.extent(kernel), self.strides, strict=True
      )
    )
    return height, width


def pad(x: jax.Array, window: Window) -> jax.Array:
  """Pads `[batch, height, width, channels]` with zeros, by `window.padding`."""
  if window.padding == ((0, 0), (0, 0)):
    return x
  return jnp.pad(x, ((0, 0), *window.padding, (0, 0)))


def shifted(
  padded: jax.Array, kernel: Sequence[int], window: Window, size: tuple[int, int]
) -> Iterator[jax.Array]:
  """Yields, for each tap of the kernel, the pixels that it is multiplied with.

  Args:
    padded: images with their padding, `[batch, height, width, channels]`.
    kernel: shape of the kernel, height and width first.
    window: strides and dilation.
    size: height and width of the convolution's result.

  Yields:
    `[batch, *size, channels]`, tap by tap in row-major order.
  """
  for i in range(kernel[0]):
    for j in range(kernel[1]):
      top, left = i * window.dilation[0], j * window.dilation[1]
      bottom = top + (size[0] - 1) * window.strides[0] + 1
      right = left + (size[1] - 1) * window.strides[1] + 1
      yield lax.slice(
        padded,
        (0, top, left, 0),
        (padded.shape[0], bottom, right, padded.shape[3]),
        (1, *window.strides, 1),
      )


def spread(
  gradient: jax.Array, image: Sequence[int], kernel: Sequence[int], window: Window
) -> tuple[jax.Array, Window]:
  """Prepares the output's gradient, so that a convolution gives the input's gradient.

  That convolution has stride 1 and the kernel rotated by half a turn. The output's
  gradient gets stride - 1 zeros between its pixels, and so much padding that every tap
  reaches every pixel.

  Args:
    gradient: gradient of the output, `[batch, height, width, channels]`.
    image: shape of the input.
    kernel: shape of the kernel, height and width first.
    window: window of the forward convolution.

  Returns:
    The prepared gradient, and the window to convolve it with. If padding is all that is
    needed, and none is negative, the gradient is unchanged and the window does it.
  """
  pads = []
  for axis in range(2):
    reach = window.extent(kernel)[axis]
    stride = window.strides[axis]
    low = reach - 1 - window.padding[axis][0]
    dense = (gradient.shape[1 + axis] - 1) * stride + 1
    pads.append((low, image[1 + axis] + reach - 1 - low - dense, stride - 1))
  moving = window._replace(strides=(1, 1), padding=((0, 0), (0, 0)))
  vertical, horizontal = pads
  if all(low >= 0 and high >= 0 and inner == 0 for low, high, inner in pads):
    return gradient, moving._replace(padding=(vertical[:2], horizontal[:2]))
  zero = jnp.zeros((), gradient.dtype)
  return lax.pad(gradient, zero, ((0, 0, 0), *pads, (0, 0, 0))), moving
