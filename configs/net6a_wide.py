"""`net6a_wide`: transition blocks instead of Dense layers, 649,656 parameters.

make train CONFIG=configs/net6a_wide.py

Published: test accuracy 79.83 %, best training accuracy 96.47 %, 100 epochs, n = 1.
"""

from cifar_flax.config import Config


def get_config() -> Config:
  """The published run."""
  config = Config()
  config.num_epochs = 100
  config.model.name = "net6a_wide"
  config.model.dropout_rate = 0.25
  config.schedule.name = "constant"
  config.schedule.learning_rate = 0.001
  return config
