"""The layers between convolutions."""

import zlib
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_flax import ops


def relu(x: jax.Array) -> jax.Array:
  """Returns max(x, 0), computed in at least float32, in the type of `x`.

  Rounding commutes with it, so the result is that of `nn.relu`. In bfloat16, however,
  two of those in one fusion give garbage on a CPU under jaxlib 0.11.2 to 0.12.0.
  """
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  return nn.relu(wide).astype(x.dtype)


class BatchNormReLU(nn.BatchNorm):
  """relu(BatchNorm(x)): the "+" of the networks' drawings.

  Ioffe and Szegedy 2015, "Batch normalization". Two parameters and two moving
  averages a channel.

  Attributes:
    operation: `Operations.batch_norm_relu`, used in training.
  """

  operation: Callable | None = None

  def __call__(self, x):
    """Normalises `x` [batch, height, width, channels] per channel, then clips at 0."""
    if self.operation is None or self.use_running_average or self.is_initializing():
      return relu(super().__call__(x))
    dtype = self.dtype or x.dtype
    scale, bias = (self.get_variable("params", name) for name in ("scale", "bias"))
    y, *statistics = self.operation(
      x.astype(dtype), scale, bias, self.epsilon, self.axis_name
    )
    for name, new in zip(("mean", "var"), statistics, strict=True):
      average = self.get_variable("batch_stats", name)
      average = self.momentum * average + (1 - self.momentum) * new
      self.put_variable("batch_stats", name, average)
    return y


class Dropout(nn.Module):
  """Sets a share of the values to 0 and divides the others by 1 - rate.

  Srivastava et al. 2014. Which values is a hash of the example's random key, this
  layer's path in the network and the position, so that neither the number of
  devices nor the order of examples in a batch changes it.

  Attributes:
    rate: probability of a zero, 0 <= rate < 1.
  """

  rate: float

  @nn.compact
  def __call__(self, x, example_keys):
    """Drops values of `x`.

    Args:
      x: [batch, ...].
      example_keys: uint32 [batch], a random key per example and step; None returns
        `x`.

    Returns:
      [batch, ...] in the type of `x`.
    """
    if example_keys is None:
      return x
    layer = zlib.crc32("/".join(self.path).encode())
    return ops.dropout(x, self.rate, example_keys, layer)
