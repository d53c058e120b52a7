"""The pieces between convolutions."""

import zlib
from collections.abc import Callable

import flax.linen as nn

from cifar_flax import ops


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
      return nn.relu(super().__call__(x))
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

  Srivastava et al. 2014. Which values is a hash of the example's number, this
  layer's place in the network and the position, so that neither the number of
  devices nor the order of examples in a batch changes it.

  Attributes:
    rate: probability of a zero, 0 <= rate < 1.
  """

  rate: float

  @nn.compact
  def __call__(self, x, noise):
    """Applies it.

    Args:
      x: [batch, ...].
      noise: uint32 [batch], one number per example and step; None leaves `x` alone.

    Returns:
      [batch, ...] in the type of `x`.
    """
    if noise is None:
      return x
    layer = zlib.crc32("/".join(self.path).encode())
    return ops.dropout(x, self.rate, noise, layer)
