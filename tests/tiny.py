"""A network that compiles in a moment and has one of everything."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from cifar_flax.convolutions import DepthwiseSeparable
from cifar_flax.models.network import Network


class Tiny(Network):
  """Convolution, BatchNorm, dropout, pooling and a separable convolution."""

  @nn.compact
  def __call__(self, images, *, train, example_keys=None):
    conv = partial(self.conv, use_bias=False)
    norm_relu, dropout = self.batch_norm_relu(train), self.dropout(example_keys)
    x = conv(8, (3, 3), strides=(2, 2), name="stem")(images)
    x = norm_relu(name="stem_norm")(x)
    x = dropout(self.max_pool(x), "stem_dropout")
    x = DepthwiseSeparable(features=12, conv=conv, name="block1_conv1")(x)
    x = dropout(norm_relu(name="block1_conv1_norm")(x), "block1_dropout")
    return jnp.mean(self.conv(self.num_classes, (1, 1), name="head")(x), axis=(1, 2))
