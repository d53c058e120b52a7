"""What a convolution type costs and gains: each in the same slots of one network.

make study    # all types, like with like, three seeds; about nine hours on two cores
make study ARGS="--compare=slots --config.num_epochs=6 \
  --config.data.train_split=train[:10000]"
make train CONFIG=configs/conv_study.py ARGS=--config.model.convolution=grouped

`uniform` has four slots: 16 to 32 and 32 to 32 channels at 16x16, 32 to 64 and 64 to 64
at 8x8, times `model.width`. What surrounds them is the same for all types, and so is
the recipe, except for the peak learning rate, which `study` chooses for each type. The
test images are read once, at the end.
"""

from cifar_flax.config import Config


def get_config() -> Config:
  """`uniform` on CIFAR-10; `study` varies type, width, peak rate and seed."""
  config = Config()
  config.num_epochs = 20
  config.eval_every = 0
  config.model.name = "uniform"
  config.model.batch_norm_momentum = 0.9
  config.augmentation.flip = True
  config.augmentation.crop_padding = 4
  config.schedule.name = "one_cycle"
  config.schedule.learning_rate = 0.01
  config.schedule.warmup_epochs = 2.0
  return config
