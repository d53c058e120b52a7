"""Convolutions and networks written for nothing but being right: NumPy, float64.

A convolution goes from output pixel to output pixel; nothing is shared with the
code under test, neither the shifted slices of `cifar_flax.ops` nor XLA.
"""

import numpy as np


def same_padding(size, extent, stride):
  """Zeros before and after an axis: "SAME" as TensorFlow and Keras define it."""
  total = max((-(-size // stride) - 1) * stride + extent - size, 0)
  return total // 2, total - total // 2


def convolve(x, kernel, strides=(1, 1), padding="SAME", dilation=(1, 1), groups=1):
  """Cross-correlation of [batch, height, width, in] with [kh, kw, in / groups, out]."""
  x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
  extents = [(k - 1) * d + 1 for k, d in zip(kernel.shape[:2], dilation, strict=True)]
  if padding == "SAME":
    pads = [
      same_padding(*axis) for axis in zip(x.shape[1:3], extents, strides, strict=True)
    ]
    x = np.pad(x, [(0, 0), *pads, (0, 0)])
  height, width = (
    (size - extent) // stride + 1
    for size, extent, stride in zip(x.shape[1:3], extents, strides, strict=True)
  )
  inputs, outputs = kernel.shape[2], kernel.shape[3] // groups
  y = np.zeros((x.shape[0], height, width, kernel.shape[3]))
  for i in range(height):
    for j in range(width):
      top, left = i * strides[0], j * strides[1]
      window = x[
        :,
        top : top + extents[0] : dilation[0],
        left : left + extents[1] : dilation[1],
      ]
      for group in range(groups):
        seen = window[..., group * inputs : (group + 1) * inputs]
        out = slice(group * outputs, (group + 1) * outputs)
        y[:, i, j, out] = np.tensordot(seen, kernel[..., out], axes=3)
  return y


def max_pool(x):
  """Largest of each 2x2 window of [batch, height, width, channels], 'valid'."""
  rows, columns = x.shape[1] // 2, x.shape[2] // 2
  x = x[:, : 2 * rows, : 2 * columns]
  return x.reshape(x.shape[0], rows, 2, columns, 2, x.shape[3]).max(axis=(2, 4))


def batch_norm(x, mean, variance, scale, bias, epsilon=1e-3):
  """Normalises each channel of [batch, height, width, channels]."""
  return (x - mean) / np.sqrt(variance + epsilon) * scale + bias
