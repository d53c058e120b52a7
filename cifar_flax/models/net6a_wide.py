"""`net6a_wide`: transition blocks instead of Dense layers; 649,656 parameters."""

import flax.linen as nn

from cifar_flax.models.network import Network


class Net6AWide(Network):
  """`net6a` with half as many kernels again and without BatchNorm, 32-30-15-7-1."""

  @nn.compact
  def __call__(self, images, *, train: bool, noise=None):
    """Maps images [batch, 32, 32, 3] to logits [batch, num_classes]."""
    del train  # no BatchNorm: `noise` alone tells training from evaluation
    conv, relu = self.conv, nn.relu
    dropout = self.dropout(noise)

    x = relu(conv(48, (3, 3))(images))
    x = relu(conv(96, (3, 3))(x))
    x = relu(conv(192, (3, 3), padding="VALID")(x))
    x = dropout(x)

    x = relu(conv(48, (1, 1))(x))
    x = self.max_pool(x)

    x = relu(conv(96, (3, 3))(x))
    x = relu(conv(192, (3, 3))(x))
    x = dropout(x)

    x = relu(conv(48, (1, 1))(x))
    x = self.max_pool(x)

    x = relu(conv(96, (3, 3))(x))
    x = relu(conv(192, (3, 3))(x))
    x = dropout(x)

    x = relu(conv(self.num_classes, (1, 1))(x))
    x = conv(self.num_classes, (7, 7), padding="VALID")(x)
    return x.reshape(x.shape[0], self.num_classes)
