"""`net6a_wide`: transition blocks in place of Dense layers; 649,656 parameters."""

import flax.linen as nn

from cifar_flax.models.layers import relu
from cifar_flax.models.network import Network


class Net6AWide(Network):
  """`net6a` with 1.5 times as many channels and without BatchNorm.

  Sides of the maps: 32, 30, 15, 7, 1.
  """

  @nn.compact
  def __call__(self, images, *, train: bool, example_keys=None):
    """Maps images [batch, 32, 32, 3] to logits [batch, num_classes]."""
    del train  # without BatchNorm, only dropout differs: it depends on `example_keys`
    conv, dropout = self.conv, self.dropout(example_keys)

    x = relu(conv(48, (3, 3), name="stem")(images))
    x = relu(conv(96, (3, 3), name="block1_conv1")(x))
    x = relu(conv(192, (3, 3), padding="VALID", name="block1_conv2")(x))
    x = dropout(x, "block1_dropout")

    x = relu(conv(48, (1, 1), name="transition1")(x))
    x = self.max_pool(x)

    x = relu(conv(96, (3, 3), name="block2_conv1")(x))
    x = relu(conv(192, (3, 3), name="block2_conv2")(x))
    x = dropout(x, "block2_dropout")

    x = relu(conv(48, (1, 1), name="transition2")(x))
    x = self.max_pool(x)

    x = relu(conv(96, (3, 3), name="block3_conv1")(x))
    x = relu(conv(192, (3, 3), name="block3_conv2")(x))
    x = dropout(x, "block3_dropout")

    x = relu(conv(self.num_classes, (1, 1), name="class_maps")(x))
    x = conv(self.num_classes, (7, 7), padding="VALID", name="head")(x)
    return x.reshape(x.shape[0], self.num_classes)
