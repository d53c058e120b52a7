"""What a trained network sees in pictures.

python -m cifar_flax.predict --workdir runs/net6b cat.jpg folder/ -

Each argument is a PNG or JPEG of any size, a folder of them, or `-` for a list of files
on standard input. A file that is not one is named, and the others go on.
"""

import argparse
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from cifar_flax import command_line
from cifar_flax import config as config_lib
from cifar_flax import main as main_lib
from cifar_flax.errors import UserError

FORMATS = ("text", "json")


def _parse(argv: list[str]) -> argparse.Namespace:
  parser = main_lib.Parser(
    prog="python -m cifar_flax.predict",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("images", nargs="*", metavar="IMAGE", help="file, folder or -")
  parser.add_argument("--workdir", metavar="RUN", help="run directory of the network")
  parser.add_argument("--checkpoint", default="best", help="best or last (%(default)s)")
  parser.add_argument("--top", type=int, default=3, help="classes named (%(default)s)")
  parser.add_argument("--format", default="text", help="text, or json: a line each")
  parser.add_argument("--explain", metavar="FILE.png", help="draws Grad-CAM as well")
  flags = parser.parse_args(argv)
  command_line.check_choice(flags, "format", FORMATS)
  command_line.check_choice(flags, "checkpoint", main_lib.CHECKPOINTS)
  if flags.top < 1:
    raise UserError(f"--top={flags.top}: must be an integer >= 1")
  if flags.workdir is None:
    raise UserError("--workdir=RUN is missing; for example --workdir=runs/net6b")
  if not flags.images:
    raise UserError("no IMAGE is named; give files, folders, or - for a list")
  return flags


def run(argv: list[str]) -> int:
  """Prints a line for each picture; returns 1 if one could not be read, else 0."""
  flags = _parse(argv)
  workdir = pathlib.Path(flags.workdir)
  if not (workdir / "config.json").is_file():
    raise UserError(f"--workdir={flags.workdir!r}: no run here (no config.json)")
  config = config_lib.load(str(workdir / "config.json"))
  if config.model.dtype == "float64":
    os.environ["JAX_ENABLE_X64"] = "true"
  from cifar_flax import compilation_cache, explain, images  # they import JAX
  from cifar_flax.trained import BATCH, Trained

  compilation_cache.enable()
  trained = Trained(workdir, flags.checkpoint)
  failed, drawn = 0, []
  files = images.find(flags.images, sys.stdin)
  while batch := list(itertools.islice(files, BATCH)):
    pictures = []
    for file in batch:
      try:
        pictures.append((file, images.read(file)))
      except UserError as error:
        failed = 1
        print(f"error: {error}", file=sys.stderr)
    for line in _answers(trained, pictures, flags):
      print(line, flush=True)
    drawn += pictures if flags.explain else []
  if drawn:
    picture = explain.render(trained, drawn[: explain.MOST], flags.top)
    pathlib.Path(flags.explain).write_bytes(picture)
  return failed


def _answers(trained: Any, pictures: list, flags: argparse.Namespace) -> Iterator[str]:
  import numpy as np

  from cifar_flax.trained import likeliest, probabilities

  if not pictures:
    return
  files, pixels = zip(*pictures, strict=True)
  every = probabilities(trained.logits(np.stack(pixels)))
  for file, chances in zip(files, every, strict=True):
    best = likeliest(chances, trained.class_names, flags.top)
    if flags.format == "json":
      classes = [{"class": name, "probability": chance} for name, chance in best]
      yield json.dumps({"file": str(file), "classes": classes})
    else:
      words = ", ".join(f"{name} {chance:.1%}" for name, chance in best)
      yield f"{file}: {words}"


def main(argv: list[str] | None = None) -> int:
  """Runs; returns 0, 1 where a file failed, 2 for wrong input."""
  return command_line.answer(run, argv)


if __name__ == "__main__":
  sys.exit(main())
