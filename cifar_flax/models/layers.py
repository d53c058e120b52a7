"""The pieces between convolutions."""

import zlib

import flax.linen as nn

from cifar_flax import ops
from cifar_flax.convolutions import ModuleDef


class BatchNormReLU(nn.Module):
  """relu(BatchNorm(x)): the "+" of the networks' drawings.

  Ioffe and Szegedy 2015, "Batch normalization". Two parameters and two moving
  averages a channel.

  Attributes:
    norm: makes an `nn.BatchNorm`, with momentum, epsilon and axis name bound.
  """

  norm: ModuleDef

  @nn.compact
  def __call__(self, x):
    """Normalises `x` [batch, height, width, channels] per channel, then clips at 0."""
    return nn.relu(self.norm(name="norm")(x))


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
