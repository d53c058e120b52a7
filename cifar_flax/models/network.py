"""What every network is given: bound once, from the config, in `models.create`."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn

from cifar_flax.convolutions import ModuleDef
from cifar_flax.models.layers import Dropout


class Network(nn.Module, kw_only=True):
  """Base of the networks.

  A network names each of its layers by its role (`stem`, `block1_conv2`,
  `block1_conv2_norm`, `transition1`, `head`). Checkpoints, exports and dropout's masks
  go by these names, so a layer can be inserted without changing any other.

  Attributes:
    num_classes: number of logits.
    conv: makes an `nn.Conv`, with dtype, initialisation and implementation bound.
    dense: makes an `nn.Dense`, likewise.
    norm: makes a `BatchNormReLU`, with momentum, epsilon and axis name bound.
    convolution: makes a `cifar_flax.convolutions.Convolution`: the type a config
      chose, for networks that leave it open.
    max_pool: halves height and width; an odd row or column is dropped.
    dropout_rate: after convolutions.
    dense_dropout_rate: after Dense layers.
  """

  num_classes: int
  conv: ModuleDef
  dense: ModuleDef
  norm: ModuleDef
  convolution: ModuleDef
  max_pool: Callable
  dropout_rate: float
  dense_dropout_rate: float

  def batch_norm_relu(self, train: bool) -> ModuleDef:
    """Makes `BatchNormReLU`; in training with the statistics of the batch."""
    return partial(self.norm, use_running_average=not train)

  def dropout(self, example_keys, rate: float | None = None) -> Callable:
    """Returns a function (x, name) that drops values of x; see `Dropout`."""
    rate = self.dropout_rate if rate is None else rate
    return lambda x, name: Dropout(rate, name=name)(x, example_keys)
