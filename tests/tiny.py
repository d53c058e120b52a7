"""A network that compiles in a moment and has one of everything."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from cifar_flax.convolutions import DepthwiseSeparable
from cifar_flax.models.network import Network


class Tiny(Network):
  """Convolution, BatchNorm, dropout, pooling and a separable convolution."""

  @nn.compact
  def __call__(self, images, *, train, noise=None):
    conv = partial(self.conv, use_bias=False)
    plus, dropout = self.batch_norm_relu(train), self.dropout(noise)
    x = plus()(conv(8, (3, 3), strides=(2, 2))(images))
    x = dropout(self.max_pool(x))
    x = plus()(DepthwiseSeparable(features=12, conv=conv)(x))
    return jnp.mean(self.conv(self.num_classes, (1, 1))(dropout(x)), axis=(1, 2))
