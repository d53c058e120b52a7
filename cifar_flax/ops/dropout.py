"""Dropout whose mask is a function of per-example key, layer and position."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cifar_flax.errors import UserError
from cifar_flax.ops import compiler, hashing
from cifar_flax.ops.forward_mode import reverse_only
from cifar_flax.ops.hashing import Purpose


@reverse_only
def dropout(
  x: jax.Array, rate: float, example_keys: jax.Array, layer: int
) -> jax.Array:
  """Zeroes each element with probability `rate` and divides the others by 1 - rate.

  The mask depends only on (example_keys[b], layer, position within the example), not
  on the other examples, the batch size or the device. It is equivalent in distribution
  to `flax.linen.Dropout`. The backward pass recomputes the mask, which costs less than
  writing and reading it. Paper: Srivastava et al., "Dropout: A Simple Way to Prevent
  Neural Networks from Overfitting", JMLR 2014.

  Args:
    x: activations `[batch, ...]` of any float dtype.
    rate: probability of a zero, in [0, 1); for 0, `x` is returned.
    example_keys: uint32 `[batch]`, the per-example keys of this step.
    layer: number that identifies the dropout layer within the network.

  Returns:
    An array of the shape and dtype of `x`.

  Raises:
    UserError: `rate` is not in [0, 1).
    TypeError: forward-mode differentiation (`forward_mode.ADVICE`).
  """
  if not 0 <= rate < 1:
    raise UserError(f"dropout rate {rate} is not in [0, 1); 0 disables dropout")
  assert example_keys.shape == x.shape[:1], (example_keys.shape, x.shape)
  return x if rate == 0 else _dropout(x, example_keys, float(rate), layer)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dropout(x, example_keys, rate, layer):
  # float32 for every dtype of x: 1 / 0.95 rounded to bfloat16 is off by 0.3 %. A rate
  # so near to 1 that every hash would be dropped has the scale of the one that is kept.
  factor = np.float32(1 / max(1 - rate, 2**-32))
  scale = jnp.where(_keep(x.shape, example_keys, rate, layer), factor, 0)
  if x.dtype == jnp.bfloat16:
    return (x.astype(jnp.float32) * scale).astype(x.dtype)
  return x * scale.astype(x.dtype)


def _keep(shape, example_keys, rate, layer):
  """Returns the mask: a keyed hash of each element's position, compared to `rate`."""
  keys = _keys(example_keys, layer).reshape(2, shape[0], *[1] * (len(shape) - 1))
  position = jnp.zeros((1, *shape[1:]), jnp.uint32)
  stride = 1
  for axis in range(len(shape) - 1, 0, -1):
    index = jax.lax.broadcasted_iota(jnp.uint32, position.shape, axis)
    position += index * np.uint32(stride)
    stride *= shape[axis]
  return hashing.mix(keys[0] + position, keys[1]) >= _threshold(rate)


def _threshold(rate):
  """Returns the number of the 2**32 hashes that are dropped; at least one is kept."""
  return np.uint32(min(round(rate * 2**32), 2**32 - 1))


def _keys(example_keys, layer):
  """Returns two hashed keys per example for this layer, uint32 [2, batch]."""

  def draw(number):
    return hashing.hash_uint32(Purpose.DROPOUT, example_keys, layer, number)

  number = jnp.arange(2, dtype=jnp.uint32)
  if compiler.platform() == "cpu":
    # XLA:CPU would fuse the hash into the operation after the dropout. In a padded
    # convolution it would then recompute each value for every use, 2**n times for the
    # hash's n shifts. XLA does not fuse across the end of a loop.
    return jax.lax.map(draw, number)
  return draw(number[:, None])


def _dropout_forward(x, example_keys, rate, layer):
  return _dropout(x, example_keys, rate, layer), example_keys


def _dropout_backward(rate, layer, example_keys, gradient):
  return _dropout(gradient, example_keys, rate, layer), None


_dropout.defvjp(_dropout_forward, _dropout_backward)
