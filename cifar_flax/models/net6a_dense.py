"""`net6a_dense`: plain convolutions and Dense layers; 1,172,410 parameters."""

import flax.linen as nn

from cifar_flax.models.layers import relu
from cifar_flax.models.network import Network


class Net6ADense(Network):
  """Three blocks of plain convolutions, and Dense layers of 512 and 256 units.

  Sides of the maps: 32, 30, 15, 13, 6, 4, 2.
  """

  @nn.compact
  def __call__(self, images, *, train: bool, example_keys=None):
    """Maps images [batch, 32, 32, 3] to logits [batch, num_classes]."""
    del train  # without BatchNorm, only dropout differs: it depends on `example_keys`
    dropout = self.dropout(example_keys)
    dense_dropout = self.dropout(example_keys, self.dense_dropout_rate)

    x = images
    for block, features in (("block1", 48), ("block2", 96), ("block3", 192)):
      x = relu(self.conv(features, (3, 3), name=f"{block}_conv1")(x))
      conv = self.conv(features, (3, 3), padding="VALID", name=f"{block}_conv2")
      x = self.max_pool(relu(conv(x)))
      x = dropout(x, f"{block}_dropout")

    x = x.reshape(x.shape[0], -1)
    for name, features in (("dense1", 512), ("dense2", 256)):
      x = relu(self.dense(features, name=name)(x))
      x = dense_dropout(x, f"{name}_dropout")
    return self.dense(self.num_classes, name="head")(x)
