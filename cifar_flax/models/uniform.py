"""`uniform`: a small network with one convolution type in all of its slots."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from cifar_flax.models.network import Network


class Uniform(Network):
  """Four slots at 16x16 and 8x8, all of the type `convolution`, 32-16-8-1."""

  @nn.compact
  def __call__(self, images, *, train: bool, noise=None):
    """Maps images [batch, 32, 32, 3] to logits [batch, num_classes]."""
    conv = partial(self.conv, use_bias=False)
    plus, dropout = self.batch_norm_relu(train), self.dropout(noise)

    x = plus()(conv(16, (3, 3))(images))
    x = self.max_pool(x)

    x = plus()(self.convolution(features=32, conv=conv)(x))
    x = plus()(self.convolution(features=32, conv=conv)(x))
    x = dropout(self.max_pool(x))

    x = plus()(self.convolution(features=64, conv=conv)(x))
    x = plus()(self.convolution(features=64, conv=conv)(x))
    x = dropout(x)

    x = self.conv(self.num_classes, (1, 1))(x)
    return jnp.mean(x, axis=(1, 2))
