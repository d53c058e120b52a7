"""`net6b`: five types of convolution, 151,404 parameters, 50 epochs.

make train CONFIG=configs/net6b.py

Published: test accuracy 85.48 %, best training accuracy 92.27 %, n = 1.
"""

from cifar_flax.config import Config


def get_config() -> Config:
  """The published run."""
  config = Config()
  config.num_epochs = 50
  config.model.name = "net6b"
  config.model.dropout_rate = 0.05
  config.augmentation.zoom = 0.15
  config.augmentation.flip = True
  config.schedule.name = "staircase"
  config.schedule.learning_rate = 0.003
  config.schedule.decay_rate = 0.9
  config.schedule.epochs_per_decay = 2
  config.schedule.minimum = 0.0005
  return config
