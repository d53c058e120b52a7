"""`uniform`: a small network with one exchangeable type of convolution."""

import math
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from cifar_flax.models.network import Network


class Uniform(Network):
  """Four convolutions of the type `convolution`, two at 16x16 and two at 8x8.

  Sides of the maps: 32, 16, 8, 1. `width` scales the number of channels.
  """

  @nn.compact
  def __call__(self, images, *, train: bool, example_keys=None):
    """Maps images [batch, 32, 32, 3] to logits [batch, num_classes]."""
    conv = partial(self.conv, use_bias=False)
    make = partial(self.convolution, conv=conv)
    divisor = getattr(make(features=1, parent=None), "divisor", 1)
    few, some, many = (channels(n, self.width, divisor) for n in (16, 32, 64))
    norm_relu, dropout = self.batch_norm_relu(train), self.dropout(example_keys)

    def slot(x, features, name):
      y = make(features=features, name=name)(x)
      if y.shape != (*x.shape[:-1], features):
        raise ValueError(f"{name}: returned {y.shape} for {x.shape}, {features=}")
      return y

    x = norm_relu(name="stem_norm")(conv(few, (3, 3), name="stem")(images))
    x = self.max_pool(x)

    x = norm_relu(name="block1_conv1_norm")(slot(x, some, "block1_conv1"))
    x = norm_relu(name="block1_conv2_norm")(slot(x, some, "block1_conv2"))
    x = dropout(self.max_pool(x), "block1_dropout")

    x = norm_relu(name="block2_conv1_norm")(slot(x, many, "block2_conv1"))
    x = norm_relu(name="block2_conv2_norm")(slot(x, many, "block2_conv2"))
    x = dropout(x, "block2_dropout")

    x = self.conv(self.num_classes, (1, 1), name="head")(x)
    return jnp.mean(x, axis=(1, 2))


def channels(number: int, width: float, divisor: int) -> int:
  """Returns `number * width`, rounded to a multiple of `divisor` (halves up), not 0."""
  return divisor * max(1, math.floor(number * width / divisor + 0.5))
