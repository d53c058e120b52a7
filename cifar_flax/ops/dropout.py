"""Dropout whose mask is a function of the example, the layer and the position."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cifar_flax.errors import UserError
from cifar_flax.ops import compiler, hashing
from cifar_flax.ops.hashing import Purpose


def dropout(
  x: jax.Array, rate: float, example_keys: jax.Array, layer: int
) -> jax.Array:
  """Zeroes each element with probability `rate`, divides the kept ones by 1 - rate.

  The mask depends on (example_keys[b], layer, position within the example) alone: not
  on the other examples, the batch size or the device. Equivalent in distribution to
  `flax.linen.Dropout`; the backward pass recomputes the mask, which costs less than
  writing and reading it. Paper: Srivastava et al., "Dropout: A Simple Way to Prevent
  Neural Networks from Overfitting", JMLR 2014.

  Args:
    x: activations `[batch, ...]`, any float dtype, kept.
    rate: probability of a zero, in [0, 1); 0 returns `x`.
    example_keys: uint32 `[batch]`, a random key per example, new for every step.
    layer: number that tells the dropout layers of a network apart.

  Returns:
    Array of the shape and dtype of `x`.

  Raises:
    UserError: `rate` is not in [0, 1).
  """
  if not 0 <= rate < 1:
    raise UserError(f"dropout rate {rate} is not in [0, 1): choose 0 to switch it off")
  assert example_keys.shape == x.shape[:1], (example_keys.shape, x.shape)
  return x if rate == 0 else _dropout(x, example_keys, float(rate), layer)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dropout(x, example_keys, rate, layer):
  # float32 whatever the dtype of x: 1 / 0.95 in bfloat16 would be off by 0.3 %.
  scale = jnp.where(
    _keep(x.shape, example_keys, rate, layer), np.float32(1 / (1 - rate)), 0
  )
  if x.dtype == jnp.bfloat16:
    return (x.astype(jnp.float32) * scale).astype(x.dtype)
  return x * scale.astype(x.dtype)


def _keep(shape, example_keys, rate, layer):
  """The mask: one keyed hash of the position per element, compared with the rate."""
  keys = _keys(example_keys, layer).reshape(2, shape[0], *[1] * (len(shape) - 1))
  position = jnp.zeros((1, *shape[1:]), jnp.uint32)
  stride = 1
  for axis in range(len(shape) - 1, 0, -1):
    index = jax.lax.broadcasted_iota(jnp.uint32, position.shape, axis)
    position += index * np.uint32(stride)
    stride *= shape[axis]
  return hashing.mix(keys[0] + position, keys[1]) >= np.uint32(round(rate * 2**32))


def _keys(example_keys, layer):
  """Two keys an example, uint32 [2, batch]."""

  def draw(number):
    return hashing.hash_uint32(Purpose.DROPOUT, example_keys, layer, number)

  number = jnp.arange(2, dtype=jnp.uint32)
  if compiler.platform() == "cpu":
    # XLA:CPU would fuse the hash with what follows the dropout and, where that is a
    # padded convolution, compute each of its values again for every use: 2 to the
    # number of its shifts. Nothing is fused across a loop's end.
    return jax.lax.map(draw, number)
  return draw(number[:, None])


def _dropout_forward(x, example_keys, rate, layer):
  return _dropout(x, example_keys, rate, layer), example_keys


def _dropout_backward(rate, layer, example_keys, gradient):
  return _dropout(gradient, example_keys, rate, layer), None


_dropout.defvjp(_dropout_forward, _dropout_backward)
