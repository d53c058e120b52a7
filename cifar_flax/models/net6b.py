"""`net6b`: five types of convolution in one network; 151,404 parameters."""

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
  """Plain, spatially and depthwise separable, filter groups and dilated branches.

  Sides of the maps: 32, 30, 28, 14, 7, 1.
  """

  @nn.compact
  def __call__(self, images, *, train: bool, example_keys=None):
    """Maps images [batch, 32, 32, 3] to logits [batch, num_classes]."""
    conv = partial(self.conv, use_bias=False)  # BatchNorm or softmax follows
    norm_relu, dropout = self.batch_norm_relu(train), self.dropout(example_keys)

    x = norm_relu(name="stem_norm")(conv(32, (3, 3), name="stem")(images))

    x = SpatiallySeparable(
      features=64, padding="VALID", between=norm_relu, conv=conv, name="block1_conv1"
    )(x)
    x = norm_relu(name="block1_conv1_norm")(x)
    x = DepthwiseSeparable(
      features=128, padding="VALID", conv=conv, name="block1_conv2"
    )(x)
    x = norm_relu(name="block1_conv2_norm")(x)
    x = dropout(x, "block1_dropout")

    x = norm_relu(name="transition1_norm")(conv(32, (1, 1), name="transition1")(x))
    x = self.max_pool(x)

    x = FilterGroups(features=128, kernel_sizes=(3, 5), conv=conv, name="block2_conv1")(
      x
    )
    x = norm_relu(name="block2_conv1_norm")(x)
    x = dropout(x, "block2_dropout")

    x = norm_relu(name="transition2_norm")(conv(32, (1, 1), name="transition2")(x))
    x = self.max_pool(x)

    x = DilatedBranches(features=128, dilations=(1, 2), conv=conv, name="block3_conv1")(
      x
    )
    x = norm_relu(name="block3_conv1_norm")(x)
    x = dropout(x, "block3_dropout")

    x = conv(self.num_classes, (1, 1), name="class_maps")(x)
    x = norm_relu(name="class_maps_norm")(x)
    x = conv(self.num_classes, (7, 7), padding="VALID", name="head")(x)
    return x.reshape(x.shape[0], self.num_classes)
