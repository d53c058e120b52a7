"""`net6a` as it ran: at a constant learning rate; 294,112 parameters, 100 epochs.

make train CONFIG=configs/net6a_constant.py

Published: test accuracy 84.84 %, best training accuracy 94.00 %, n = 1.
"""

from cifar_flax.config import Config, Schedule
from configs import net6a


def get_config() -> Config:
  """The published run: its code never passed the staircase on."""
  config = net6a.get_config()
  rate = config.schedule.learning_rate
  config.schedule = Schedule(name="constant", learning_rate=rate)
  return config
