"""Fused BatchNorm and ReLU, with sums that XLA:CPU computes on all cores."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from cifar_flax.ops import compiler
from cifar_flax.ops.forward_mode import reverse_only

_TOTAL = 1 << 16  # numbers in a partial sum over images, which should fit in the cache


@reverse_only
def batch_norm_relu(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  epsilon: float,
  axis_name: str | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Normalises each channel with the statistics of the batch, then clips at 0.

  Equivalent to `flax.linen.BatchNorm` in training, without its moving averages, and
  then `relu`. In Flax's version, XLA:CPU sums over the batch on one thread, and JAX's
  gradient reads the images more often. Forward and backward for 128x30x30x64 take 25 ms
  there and 13 ms here; a depthwise separable convolution with it takes a quarter less.

  Args:
    x: `[batch, ..., channels]`.
    scale: `[channels]`.
    bias: `[channels]`.
    epsilon: added to the variance.
    axis_name: mapped axis over which the statistics are taken, or None.

  Returns:
    The result, in the shape and type of `x`; mean and variance (biased) of `x`,
    `[channels]`, in at least float32. Gradients of mean and variance are ignored.
    Under `jax.shard_map`, `check_vma=False` is required.

  Raises:
    TypeError: forward-mode differentiation (`forward_mode.ADVICE`).
  """
  return _batch_norm_relu(x, scale, bias, epsilon, axis_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _batch_norm_relu(x, scale, bias, epsilon, axis_name):
  return _forward(x, scale, bias, epsilon, axis_name)[0]


def _forward(x, scale, bias, epsilon, axis_name):
  sums = _sum_images(lambda x: (x, x * x), x)
  mean, mean_square = _mean_over_devices(sums, x, axis_name)
  variance = jnp.maximum(0, mean_square - mean * mean)
  inverse = lax.rsqrt(variance + epsilon)
  y = jnp.maximum(_affine(x, mean, inverse * scale, bias), 0).astype(x.dtype)
  return (y, mean, variance), (x, mean, inverse, scale, bias)


def _affine(x, mean, slope, offset):
  """Returns (x - mean) * slope + offset, per channel."""
  shape = (1,) * (x.ndim - 1) + (-1,)
  mean, slope, offset = (a.reshape(shape) for a in (mean, slope, offset))
  return (x - mean) * slope + offset


def _backward(epsilon, axis_name, residuals, gradients):
  del epsilon
  x, mean, inverse, scale, bias = residuals
  one, zero = jnp.ones_like(mean), jnp.zeros_like(mean)

  def through_relu(x, gradient):
    positive = _affine(x, mean, inverse * scale, bias) > 0
    return jnp.where(positive, gradient, 0).astype(mean.dtype)

  def terms(x, gradient):
    gradient = through_relu(x, gradient)
    return gradient, gradient * _affine(x, mean, one, zero)

  sums = _sum_images(terms, x, gradients[0])
  # The gradient through mean and variance, which depend on every image.
  level, slope = _mean_over_devices(sums, x, axis_name)
  indirect = _affine(x, mean, slope * inverse * inverse, level)
  direct = through_relu(x, gradients[0])
  x_gradient = _affine(direct - indirect, zero, inverse * scale, zero)
  return (
    x_gradient.astype(x.dtype),
    (sums[1] * inverse).astype(scale.dtype),
    sums[0].astype(bias.dtype),
  )


_batch_norm_relu.defvjp(_forward, _backward)


def _sum_images(terms, *arrays):
  """Sums `terms` over the batch and the pixels.

  Args:
    terms: (pixels of each array, `[pixels, channels]`) -> two arrays of that shape.
    *arrays: `[batch, ..., channels]`.

  Returns:
    Two sums `[channels]`, an array `[2, channels]` or a tuple, in at least float32.
  """
  wide = jnp.promote_types(arrays[0].dtype, jnp.float32)
  in_chunks = compiler.platform() == "cpu"
  return (_sum_chunks if in_chunks else _sum_together)(terms, wide, *arrays)


def _sum_together(terms, wide, *arrays):
  """Sums both terms in one reduction, which is fewer kernels than two on a GPU."""
  both = terms(*(a.reshape(-1, a.shape[-1]).astype(wide) for a in arrays))
  zeros = (jnp.zeros((), wide),) * 2
  return lax.reduce(both, zeros, _add_both, (0,))


def _add_both(first, second):
  return tuple(a + b for a, b in zip(first, second, strict=True))


def _sum_chunks(terms, wide, *arrays):
  """Sums a few images at a time, then over the pixels."""
  batch, *image = arrays[0].shape
  fitting = _TOTAL // math.prod(image)
  together = math.gcd(batch, 1 << max(0, fitting.bit_length() - 1))
  pixels = together * math.prod(image[:-1])

  def add(totals, number):
    chunks = (
      lax.dynamic_slice_in_dim(a, number * together, together)
      .reshape(-1, image[-1])
      .astype(wide)
      for a in arrays
    )
    values = terms(*chunks)
    return [t + v for t, v in zip(totals, values, strict=True)], None

  zeros = [jnp.zeros((pixels, image[-1]), wide)] * 2
  totals, _ = lax.scan(add, zeros, jnp.arange(batch // together))
  return jnp.stack([jnp.sum(t, axis=0) for t in totals])


def _mean_over_devices(sums, x, axis_name):
  """Returns the means of both terms over all images of all devices."""
  means = jax.tree.map(lambda total: total / (x.size // x.shape[-1]), sums)
  if axis_name is None:
    return means
  return lax.pmean(jnp.asarray(means), axis_name)  # both in one exchange
