"""`net6a` with the recipe of `net6b_tuned`: the same parameters and 100 epochs.

make train CONFIG=configs/net6a_tuned.py
"""

from cifar_flax.config import Config
from configs import net6a, net6b_tuned


def get_config() -> Config:
  """Chosen for `net6b`, on `train[45000:]`."""
  return net6b_tuned.tuned(net6a.get_config())
