"""`net6a_dense`: the base, with Dense layers, 1,172,410 parameters.

make train CONFIG=configs/net6a_dense.py

Published: test accuracy 83.32 %, best training accuracy 92.35 %, 100 epochs, n = 1.
"""

from cifar_flax.config import Config


def get_config() -> Config:
  """The published run."""
  config = Config()
  config.num_epochs = 100
  config.model.name = "net6a_dense"
  config.model.dropout_rate = 0.25
  config.model.dense_dropout_rate = 0.5
  config.schedule.name = "constant"
  config.schedule.learning_rate = 0.001
  return config
