"""A small network on images that the project draws itself: minutes on a laptop.

make quickstart

Evaluates on images cut from the training set. The test images, once, at the end:
make train CONFIG=configs/quickstart.py ARGS="--mode=eval --config.data.eval_split=test"
"""

from cifar_flax.config import Config


def get_config() -> Config:
  """`uniform` with depthwise separable convolutions on shapes10."""
  config = Config()
  config.num_epochs = 8
  config.data.dataset = "shapes10"
  config.data.train_split = "train[:9000]"
  config.data.eval_split = "train[9000:]"
  config.model.name = "uniform"
  config.model.convolution = "depthwise_separable"
  config.model.dropout_rate = 0.05
  config.model.batch_norm_momentum = 0.9
  config.augmentation.flip = True
  config.schedule.name = "one_cycle"
  config.schedule.learning_rate = 0.01
  config.schedule.warmup_epochs = 2.0
  return config
