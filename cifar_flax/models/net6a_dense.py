"""`net6a_dense`: the base, with Dense layers; 1,172,410 parameters."""

import flax.linen as nn

from cifar_flax.models.network import Network


class Net6ADense(Network):
  """Three blocks of plain convolutions and two Dense layers, 32-30-15-13-6-4-2."""

  @nn.compact
  def __call__(self, images, *, train: bool, noise=None):
    """Maps images [batch, 32, 32, 3] to logits [batch, num_classes]."""
    del train  # no BatchNorm: `noise` alone tells training from evaluation
    conv, relu = self.conv, nn.relu
    dropout = self.dropout(noise)
    dense_dropout = self.dropout(noise, self.dense_dropout_rate)

    x = images
    for features in (48, 96, 192):
      x = relu(conv(features, (3, 3))(x))
      x = relu(conv(features, (3, 3), padding="VALID")(x))
      x = self.max_pool(x)
      x = dropout(x)

    x = x.reshape(x.shape[0], -1)
    x = dense_dropout(relu(self.dense(512)(x)))
    x = dense_dropout(relu(self.dense(256)(x)))
    return self.dense(self.num_classes)(x)
