"""`net6a`: plain convolutions, transition blocks, BatchNorm; 294,112 parameters."""

import flax.linen as nn

from cifar_flax.models.network import Network


class Net6A(Network):
  """Three blocks of plain 3x3 convolutions, 32-30-15-7-1."""

  @nn.compact
  def __call__(self, images, *, train: bool, noise=None):
    """Maps images [batch, 32, 32, 3] to logits [batch, num_classes]."""
    conv, relu = self.conv, nn.relu
    plus, dropout = self.batch_norm_relu(train), self.dropout(noise)

    x = relu(conv(32, (3, 3))(images))
    x = relu(conv(64, (3, 3))(x))
    x = relu(conv(128, (3, 3), padding="VALID")(x))
    x = dropout(x)

    x = relu(conv(32, (1, 1))(x))
    x = self.max_pool(x)

    x = plus()(conv(64, (3, 3))(x))
    x = plus()(conv(128, (3, 3))(x))
    x = dropout(x)

    x = plus()(conv(32, (1, 1))(x))
    x = self.max_pool(x)

    x = plus()(conv(64, (3, 3))(x))
    x = plus()(conv(128, (3, 3))(x))
    x = dropout(x)

    x = plus()(conv(self.num_classes, (1, 1))(x))
    x = conv(self.num_classes, (7, 7), padding="VALID")(x)
    return x.reshape(x.shape[0], self.num_classes)
