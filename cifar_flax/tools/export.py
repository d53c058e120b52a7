"""Exports a trained network for programs that do not have this package.

python -m cifar_flax export --workdir runs/net6b --output net6b.onnx --card README.md

stablehlo: a function that maps images, float32 [n, 32, 32, 3] in [0, 1], to logits,
float32 [n, classes], for any n, on CPU, GPU and TPU. Calling it needs only JAX and
flatbuffers:
`jax.export.deserialize(bytearray(open("net6b.jax", "rb").read())).call(images)`.
onnx: the same function for ONNX Runtime and others, computed in float32 whatever the
run was trained in; the export needs `pip install -e '.[onnx]' -c constraints/py311.txt`
(the file of your Python).
npz: every parameter and statistic under its path, such as `params/stem/kernel`.
Without --format, the suffix of the file decides: .jax or .stablehlo, .onnx, .npz.

Every export says what it is: classes, images, network, run, commit, accuracy and data.
ONNX has that in its metadata, the others in a JSON file beside them, `net6b.jax.json`.
--card, with --output or without, writes the same for people, with costs, recipe and
limits: a model card, Markdown that the Hugging Face Hub can read.
"""

import argparse
import json
import os
import pathlib
import sys
from typing import TYPE_CHECKING

from cifar_flax import command_line
from cifar_flax.errors import UserError
from cifar_flax.text import shown
from cifar_flax.tools import output

if TYPE_CHECKING:
  from cifar_flax.tools.trained import Trained

FORMATS = ("stablehlo", "onnx", "npz")
SUFFIXES = {
  ".jax": "stablehlo",
  ".stablehlo": "stablehlo",
  ".onnx": "onnx",
  ".npz": "npz",
}
# The operator sets in which jax2onnx writes every network, as the tests find. The first
# is the default, because most programs can load it.
OPSETS = range(18, 29)


def _parse(argv: list[str]) -> argparse.Namespace:
  parser = command_line.Parser("export", __doc__)
  parser.add_argument("--workdir", metavar="RUN", help="run directory to export")
  parser.add_argument("--checkpoint", default="best", help="best or last (%(default)s)")
  parser.add_argument(
    "--format", help=f"{', '.join(FORMATS)} (default: as the suffix of --output says)"
  )
  parser.add_argument("--output", metavar="FILE", help="file to write")
  parser.add_argument(
    "--opset",
    type=int,
    help=f"ONNX's operator set, {OPSETS[0]} to {OPSETS[-1]} (default: {OPSETS[0]})",
  )
  parser.add_argument("--card", metavar="FILE.md", help="also write a model card")
  flags = parser.parse_args(argv)
  if flags.format is not None:
    command_line.check_choice(flags, "format", FORMATS)
  command_line.check_choice(flags, "checkpoint", command_line.CHECKPOINTS)
  if flags.card is not None and not flags.card.lower().endswith(".md"):
    raise UserError(
      f"--card={flags.card!r}: a card is Markdown; its name must end in .md"
    )
  if flags.output is not None:
    flags.format = _format(flags.format, flags.output)
  elif flags.card is None or flags.format or flags.opset is not None:
    raise UserError("--output=FILE is missing; for example --output=net6b.jax")
  if flags.opset is None:
    flags.opset = OPSETS[0]
  elif flags.format != "onnx":
    raise UserError(f"--opset={flags.opset}: only --format=onnx has operator sets")
  if flags.opset not in OPSETS:
    raise UserError(f"--opset={flags.opset}: must be {OPSETS[0]} to {OPSETS[-1]}")
  return flags


def _format(chosen: str | None, path: str) -> str:
  """Returns the format that `--format` and the suffix of `--output` agree on."""
  suffix = pathlib.PurePath(path).suffix.lower()
  named = SUFFIXES.get(suffix)
  if named and chosen and chosen != named:
    raise UserError(
      f"--output={path!r}: {suffix} is a name for --format={named}, not {chosen}; leave"
      " --format out or choose another name"
    )
  if suffix and not named and not chosen:
    raise UserError(
      f"--output={path!r}: {suffix} is no format of an export; the suffix must be one"
      f" of {', '.join(SUFFIXES)}, or give --format, one of {', '.join(FORMATS)}"
    )
  return chosen or named or "stablehlo"


def _sidecar(flags: argparse.Namespace) -> str | None:
  """Returns the path of the JSON file beside the output, if there is one.

  ONNX holds its metadata itself, and nothing is beside a pipe or a device.
  """
  special = os.path.exists(flags.output) and not os.path.isfile(flags.output)
  return None if flags.format == "onnx" or special else f"{flags.output}.json"


def _export(trained: "Trained", flags: argparse.Namespace, facts: dict) -> None:
  """Writes `--output` and the JSON file beside it; prints a line for each."""
  from cifar_flax.tools import formats  # imports JAX

  dtype, sidecar = trained.config.model.dtype, _sidecar(flags)
  computed_in = "float32" if flags.format == "onnx" else dtype
  metadata = {"format": flags.format, "computed_in": computed_in, **facts}
  if flags.format == "onnx":
    data = formats.onnx(trained, flags.opset, metadata)
  else:
    data = {"stablehlo": formats.stablehlo, "npz": formats.npz}[flags.format](trained)
  output.write(flags.output, data)
  size = f"{len(data):,} bytes, {flags.format}, {trained.config.model.name}"
  print(f"{shown(flags.output)}: {size}, epoch {trained.epoch}, {trained.choice}")
  if sidecar:
    output.write(sidecar, (json.dumps(metadata, indent=2) + "\n").encode())
    print(f"{shown(sidecar)}: what it is")


def run(argv: list[str]) -> None:
  """Writes `--output`, what goes beside it, and `--card`; prints a line for each."""
  flags = _parse(argv)
  workdir = command_line.require_run(flags.workdir)
  if flags.output is not None:
    output.check(flags.output)
    if sidecar := _sidecar(flags):
      output.check(sidecar)
  if flags.card is not None:
    output.check(flags.card)
  from cifar_flax.tools import description  # imports JAX
  from cifar_flax.tools.trained import Trained

  trained = Trained(workdir, flags.checkpoint)
  facts = description.facts(trained, workdir)
  if trained.epoch < trained.config.num_epochs:
    epochs = f"{trained.epoch} of {trained.config.num_epochs} epochs"
    print(f"warning: the run has finished {epochs}", file=sys.stderr)
  if flags.output is not None:
    _export(trained, flags, facts)
  if flags.card is not None:
    output.write(flags.card, description.card(trained, facts).encode())
    print(f"{shown(flags.card)}: model card")
