"""`net6a` as written up, with the staircase: 294,112 parameters, 100 epochs.

make train CONFIG=configs/net6a.py

Published: no result; the published 84.84 % came from `net6a_constant`.
"""

from cifar_flax.config import Config


def get_config() -> Config:
  """The run that the write-up describes."""
  config = Config()
  config.num_epochs = 100
  config.model.name = "net6a"
  config.model.dropout_rate = 0.1
  config.augmentation.zoom = 0.15
  config.augmentation.flip = True
  config.schedule.name = "staircase"
  config.schedule.learning_rate = 0.003
  config.schedule.decay_rate = 0.9
  config.schedule.epochs_per_decay = 3
  config.schedule.minimum = 0.0005
  return config
