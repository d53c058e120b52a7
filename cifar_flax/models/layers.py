"""The layers between convolutions: ReLU, BatchNorm with ReLU, and dropout."""

import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_flax import ops


def relu(x: jax.Array) -> jax.Array:
  """Returns max(x, 0) in the type of `x`, computed in at least float32.

  The result is that of `nn.relu`, because rounding does not change max(x, 0). But with
  jaxlib 0.11.2 to 0.12.0 on a CPU, two bfloat16 `nn.relu` in one fusion give wrong
  results.
  """
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  return nn.relu(wide).astype(x.dtype)


class BatchNormReLU(nn.BatchNorm):
  """BatchNorm followed by ReLU, shown as "+" in the drawings of the networks.

  Ioffe and Szegedy 2015, "Batch normalization". It has two parameters and two moving
  averages per channel.

  Attributes:
    operation: `Operations.batch_norm_relu`, used in training; None uses Flax's own.
  """

  operation: ops.BatchNormReLU | None = None

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
  """Sets a random part of the values to 0 and divides the others by 1 - rate.

  Srivastava et al. 2014, "Dropout". A hash of per-example key, path of this layer in
  the network and position selects the values, so that neither the number of devices nor
  the order of examples in a batch affects them.

  Attributes:
    rate: probability of a zero, 0 <= rate < 1.
  """

  rate: float

  @nn.compact
  def __call__(self, x, example_keys):
    """Drops values of `x`.

    Args:
      x: [batch, ...].
      example_keys: uint32 [batch], the per-example keys of the step; None disables
        dropout.

    Returns:
      [batch, ...] in the type of `x`.
    """
    if example_keys is None:
      return x
    layer = zlib.crc32("/".join(self.path).encode())
    return ops.dropout(x, self.rate, example_keys, layer)
