"""`net6a`: plain convolutions, transition blocks, BatchNorm; 294,112 parameters."""

import flax.linen as nn

from cifar_flax.models.layers import relu
from cifar_flax.models.network import Network


class Net6A(Network):
  """Three blocks of plain 3x3 convolutions; sides of the maps: 32, 30, 15, 7, 1."""

  @nn.compact
  def __call__(self, images, *, train: bool, example_keys=None):
    """Maps images [batch, 32, 32, 3] to logits [batch, num_classes]."""
    conv = self.conv
    norm_relu, dropout = self.batch_norm_relu(train), self.dropout(example_keys)

    x = relu(conv(32, (3, 3), name="stem")(images))
    x = relu(conv(64, (3, 3), name="block1_conv1")(x))
    x = relu(conv(128, (3, 3), padding="VALID", name="block1_conv2")(x))
    x = dropout(x, "block1_dropout")

    x = relu(conv(32, (1, 1), name="transition1")(x))
    x = self.max_pool(x)

    x = norm_relu(name="block2_conv1_norm")(conv(64, (3, 3), name="block2_conv1")(x))
    x = norm_relu(name="block2_conv2_norm")(conv(128, (3, 3), name="block2_conv2")(x))
    x = dropout(x, "block2_dropout")

    x = norm_relu(name="transition2_norm")(conv(32, (1, 1), name="transition2")(x))
    x = self.max_pool(x)

    x = norm_relu(name="block3_conv1_norm")(conv(64, (3, 3), name="block3_conv1")(x))
    x = norm_relu(name="block3_conv2_norm")(conv(128, (3, 3), name="block3_conv2")(x))
    x = dropout(x, "block3_dropout")

    x = conv(self.num_classes, (1, 1), name="class_maps")(x)
    x = norm_relu(name="class_maps_norm")(x)
    x = conv(self.num_classes, (7, 7), padding="VALID", name="head")(x)
    return x.reshape(x.shape[0], self.num_classes)
