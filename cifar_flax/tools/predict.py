"""Classifies pictures with a trained network.

python -m cifar_flax predict --workdir runs/net6b cat.jpg folder/ -

Each argument is a picture of any size (PNG, JPEG, WebP, GIF, TIFF, BMP and most other
formats), a folder, which stands for all pictures in it and below it, or `-` to read a
list of files and folders from standard input. A file that cannot be read is reported
and skipped.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from cifar_flax import command_line
from cifar_flax.errors import UserError
from cifar_flax.text import shown

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
  parser.add_argument(
    "--explain",
    metavar="FILE.png",
    help="also draw Grad-CAM maps of the first pictures",
  )
  flags = parser.parse_args([_as_path(argument) for argument in argv])
  command_line.check_choice(flags, "format", FORMATS)
  command_line.check_choice(flags, "checkpoint", command_line.CHECKPOINTS)
  command_line.check_at_least(flags, top=1)
  if not flags.images:
    raise UserError("no IMAGE is given; give files, folders, or - for a list")
  return flags


def _as_path(argument: str) -> str:
  """Returns "./-a.png" for "-a.png" if there is such a file, so that it is no flag."""
  is_file = argument.startswith("-") and argument != "-" and os.path.lexists(argument)
  return f"./{argument}" if is_file else argument


def run(argv: list[str]) -> int:
  """Prints a line per picture.

  Returns:
    0, 1 if something could not be read, 2 if there was no file at all.
  """
  flags = _parse(argv)
  workdir = command_line.require_run(flags.workdir)
  from cifar_flax.tools import output

  if flags.explain:
    output.check_png("--explain", flags.explain)
  from cifar_flax import caches
  from cifar_flax.data import pictures
  from cifar_flax.tools import explain
  from cifar_flax.tools.trained import BATCH, Trained

  caches.keep_compiled_programs()
  trained = Trained(workdir, flags.checkpoint)
  if flags.checkpoint == "best":
    print(f"note: epoch {trained.epoch}, {trained.choice}", file=sys.stderr)
  failed, files, readable, notes = 0, 0, 0, list[str]()
  drawn: list[tuple[Any, Any]] = []
  found = pictures.find(flags.images, _standard_input(), notes)
  while batch := list(itertools.islice(found, BATCH)):
    read = []
    for file in batch:
      try:
        if isinstance(file, UserError):
          raise file
        files += 1
        picture = pictures.load(file)
      except UserError as error:
        failed = 1
        print(f"error: {error}", file=sys.stderr)
        continue
      read.append((file, picture.pixels))
      if picture.note:
        notes.append(f"{shown(file)}: {picture.note}")
    for line in _predictions(trained, read, flags):
      print(line, flush=True)
    while notes:
      print(f"note: {notes.pop(0)}", file=sys.stderr)
    readable += len(read)
    if flags.explain:
      drawn += read[: explain.MAX_PICTURES - len(drawn)]
  if drawn:
    output.write(flags.explain, explain.render(trained, drawn, flags.top, readable))
    if readable > len(drawn):
      print(
        f"note: {shown(flags.explain)} shows the first {len(drawn)} of"
        f" {readable:,} pictures",
        file=sys.stderr,
      )
  return failed if files else 2


def _standard_input() -> Iterator[str]:
  """Yields the lines of standard input, with any bytes that are not UTF-8."""
  reconfigure = getattr(sys.stdin, "reconfigure", None)
  if reconfigure:
    reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")
  yield from sys.stdin


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
      words = ", ".join(
        f"{shown(name)} {probability:.1%}" for name, probability in best
      )
      yield f"{shown(file)}: {words}"
