"""What a config's data look like: `python -m cifar_flax preview --config FILE`.

Draws a PNG: a row a class; on the left images as they are, on the right the same ones
as training may see them, under the config's augmentation.
"""

import argparse
import pathlib

from cifar_flax import command_line
from cifar_flax import config as config_lib


def _parse(argv: list[str]) -> tuple[config_lib.Config, argparse.Namespace]:
  parser = command_line.Parser("preview", __doc__)
  parser.add_argument("--config", metavar="FILE", help="such as configs/net6b.py")
  parser.add_argument("--output", default="preview.png", help="%(default)s")
  parser.add_argument("--columns", type=int, default=8, help="images a class")
  parser.add_argument("--step", type=int, default=0, help="whose augmentation is drawn")
  overrides, others = command_line.split_overrides(argv)
  flags = parser.parse_args(others)
  command_line.check_at_least(flags, columns=1, step=0)
  return command_line.load_config(flags.config, overrides), flags


def run(argv: list[str]) -> None:
  """Draws what a command line asks for.

  Raises:
    UserError: it asks for something else, or the data are not there.
    OSError: the picture can't be written.
  """
  config, flags = _parse(argv)
  from cifar_flax.data import (
    datasets,
    samples,  # imports JAX
  )

  dataset = datasets.load(config.data)
  picture = samples.render(config, dataset, flags.columns, flags.step)
  pathlib.Path(flags.output).write_bytes(picture)
  print(flags.output)


def main(argv: list[str] | None = None) -> int:
  """Runs; returns 0, 1 for a picture that can't be written, 2 for wrong input."""
  return command_line.answer(run, argv)
