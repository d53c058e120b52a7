"""Classifies pictures with a trained network.

python -m cifar_flax predict --workdir runs/net6b cat.jpg folder/ -

Each argument is a PNG or JPEG of any size, a folder of them, or `-` to read a list of
files from standard input. A file that cannot be read is reported and skipped.
"""

import argparse
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from cifar_flax import command_line
from cifar_flax.errors import UserError

FORMATS = ("text", "json")


def _parse(argv: list[str]) -> argparse.Namespace:
  parser = command_line.Parser("predict", __doc__)
  parser.add_argument("images", nargs="*", metavar="IMAGE", help="file, folder or -")
  parser.add_argument("--workdir", metavar="RUN", help="run directory to load")
  parser.add_argument("--checkpoint", default="best", help="best or last (%(default)s)")
  parser.add_argument(
    "--top", type=int, default=3, help="classes printed (%(default)s)"
  )
  parser.add_argument(
    "--format", default="text", help="text, or json: one object per line"
  )
  parser.add_argument("--explain", metavar="FILE.png", help="also draw Grad-CAM maps")
  flags = parser.parse_args(argv)
  command_line.check_choice(flags, "format", FORMATS)
  command_line.check_choice(flags, "checkpoint", command_line.CHECKPOINTS)
  command_line.check_at_least(flags, top=1)
  if not flags.images:
    raise UserError("no IMAGE is given; give files, folders, or - for a list")
  return flags


def run(argv: list[str]) -> int:
  """Prints a line per picture; returns 1 if a picture could not be read, else 0."""
  flags = _parse(argv)
  workdir = command_line.require_run(flags.workdir)
  from cifar_flax import caches
  from cifar_flax.data import pictures
  from cifar_flax.tools import explain
  from cifar_flax.tools.trained import BATCH, Trained

  caches.keep_compiled_programs()
  trained = Trained(workdir, flags.checkpoint)
  failed, drawn = 0, list[Any]()
  files = pictures.find(flags.images, sys.stdin)
  while batch := list(itertools.islice(files, BATCH)):
    readable = []
    for file in batch:
      try:
        readable.append((file, pictures.read(file)))
      except UserError as error:
        failed = 1
        print(f"error: {error}", file=sys.stderr)
    for line in _predictions(trained, readable, flags):
      print(line, flush=True)
    drawn += readable if flags.explain else []
  if drawn:
    picture = explain.render(trained, drawn[: explain.MAX_PICTURES], flags.top)
    pathlib.Path(flags.explain).write_bytes(picture)
  return failed


def _predictions(
  trained: Any, readable: list, flags: argparse.Namespace
) -> Iterator[str]:
  """Yields the line to print for each picture."""
  import numpy as np

  from cifar_flax.tools.trained import likeliest, softmax

  if not readable:
    return
  files, pixels = zip(*readable, strict=True)
  every = softmax(trained.logits(np.stack(pixels)))
  for file, probabilities in zip(files, every, strict=True):
    best = likeliest(probabilities, trained.class_names, flags.top)
    if flags.format == "json":
      classes = [
        {"class": name, "probability": probability} for name, probability in best
      ]
      yield json.dumps({"file": str(file), "classes": classes})
    else:
      words = ", ".join(f"{name} {probability:.1%}" for name, probability in best)
      yield f"{file}: {words}"


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns 0, 1 if a file failed, 2 for wrong input."""
  return command_line.answer(run, argv)
