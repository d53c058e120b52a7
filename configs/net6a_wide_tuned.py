"""`net6a_wide` with the recipe of `net6b_tuned`: the same parameters and 100 epochs.

make train CONFIG=configs/net6a_wide_tuned.py
"""

from cifar_flax.config import Config
from configs import net6a_wide, net6b_tuned


def get_config() -> Config:
  """Chosen for `net6b`, on `train[45000:]`."""
  config = net6b_tuned.tuned(net6a_wide.get_config())
  config.schedule.learning_rate = 0.002  # no BatchNorm
  return config
