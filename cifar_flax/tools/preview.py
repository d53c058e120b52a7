"""Draws a config's data: `python -m cifar_flax preview --config FILE`.

Writes a PNG with one row per class. On the left are images as they are stored, on the
right the same images after the config's augmentation in one training step. At most 40
classes and 20 images of each are drawn.
"""

import argparse
import sys

from cifar_flax import command_line
from cifar_flax import config as config_lib


def _parse(argv: list[str]) -> tuple[config_lib.Config, argparse.Namespace]:
  parser = command_line.Parser("preview", __doc__)
  parser.add_argument("--config", metavar="FILE", help="for example configs/net6b.py")
  parser.add_argument(
    "--output", default="preview.png", help="PNG to write (%(default)s)"
  )
  parser.add_argument(
    "--columns", type=int, default=8, help="images per class (%(default)s)"
  )
  parser.add_argument("--step", type=int, default=0, help="training step (%(default)s)")
  overrides, others = command_line.split_overrides(argv)
  flags = parser.parse_args(others)
  command_line.check_at_least(flags, columns=1, step=0)
  return command_line.load_config(flags.config, overrides), flags


def run(argv: list[str]) -> None:
  """Draws the data of a command line's config and prints the path of the picture.

  Raises:
    UserError: a flag, the config, a key or a value is wrong, or the data are missing.
    OSError: the picture cannot be written.
  """
  config, flags = _parse(argv)
  from cifar_flax.tools import output

  output.check_png("--output", flags.output)
  from cifar_flax.data import (
    datasets,
    samples,  # imports JAX
  )
  from cifar_flax.text import shown

  dataset = datasets.load(config.data)
  picture = samples.render(config, dataset, flags.columns, flags.step)
  output.write(flags.output, picture)
  print(shown(flags.output))
  if note := samples.left_out(dataset, flags.columns):
    print(f"note: {note}", file=sys.stderr)
