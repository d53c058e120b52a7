"""`net6b`: all five convolution types in one network, 151,404 parameters."""

from functools import partial

import flax.linen as nn

from cifar_flax.convolutions import (
  DepthwiseSeparable,
  DilatedBranches,
  FilterGroups,
  SpatiallySeparable,
)
from cifar_flax.models.network import Network


class Net6B(Network):
  """Spatially separable, depthwise separable, grouped and dilated, 32-30-28-14-7-1."""

  @nn.compact
  def __call__(self, images, *, train: bool, noise=None):
    """Maps images [batch, 32, 32, 3] to logits [batch, num_classes]."""
    conv = partial(self.conv, use_bias=False)  # BatchNorm follows, or the softmax
    plus, dropout = self.batch_norm_relu(train), self.dropout(noise)

    x = plus()(conv(32, (3, 3))(images))

    x = SpatiallySeparable(features=64, padding="VALID", between=plus, conv=conv)(x)
    x = plus()(x)
    x = DepthwiseSeparable(features=128, padding="VALID", conv=conv)(x)
    x = dropout(plus()(x))

    x = plus()(conv(32, (1, 1))(x))
    x = self.max_pool(x)

    x = plus()(FilterGroups(features=128, kernel_sizes=(3, 5), conv=conv)(x))
    x = dropout(x)

    x = plus()(conv(32, (1, 1))(x))
    x = self.max_pool(x)

    x = plus()(DilatedBranches(features=128, dilations=(1, 2), conv=conv)(x))
    x = dropout(x)

    x = plus()(conv(self.num_classes, (1, 1))(x))
    x = conv(self.num_classes, (7, 7), padding="VALID")(x)
    return x.reshape(x.shape[0], self.num_classes)
