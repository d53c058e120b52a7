"""A hundred classes: `uniform` on CIFAR-100.

make train CONFIG=configs/cifar100.py
make train CONFIG=configs/cifar100.py ARGS="--config.model.convolution=grouped"

The published networks take CIFAR-100 too (`--config.data.dataset=cifar100`), but then
their last layer (7x7, 100 to 100 channels) has half a million parameters.
"""

from cifar_flax.config import Config
from configs import conv_study


def get_config() -> Config:
  """The recipe of the convolution study."""
  config = conv_study.get_config()
  config.data.dataset = "cifar100"
  return config
