"""What a convolution type costs and gains: each in the same slots of one network.

make study                    # all types, three seeds, and the report
make train CONFIG=configs/conv_study.py ARGS=--config.model.convolution=grouped
make study ARGS="--config.num_epochs=6 --config.data.train_split=train[:10000]"

The last command takes about 20 minutes on two cores. `uniform` has four slots: 16 to 32
and 32 to 32 channels at 16x16, 32 to 64 and 64 to 64 at 8x8. What surrounds them is the
same for all types, and so is the recipe.
"""

from cifar_flax.config import Config


def get_config() -> Config:
  """`uniform` on CIFAR-10; vary `model.convolution`."""
  config = Config()
  config.num_epochs = 50
  config.model.name = "uniform"
  config.model.batch_norm_momentum = 0.9
  config.augmentation.flip = True
  config.augmentation.crop_padding = 4
  config.schedule.name = "one_cycle"
  config.schedule.learning_rate = 0.01
  config.schedule.warmup_epochs = 2.0
  return config
