"""`net6a_dense` with the recipe of `net6b_tuned`: the same parameters and 100 epochs.

make train CONFIG=configs/net6a_dense_tuned.py
"""

from cifar_flax.config import Config
from configs import net6a_dense, net6b_tuned


def get_config() -> Config:
  """Chosen for `net6b`, on `train[45000:]`."""
  config = net6b_tuned.tuned(net6a_dense.get_config())
  config.schedule.learning_rate = 0.002  # no BatchNorm
  config.model.dense_dropout_rate = 0.5
  return config
