"""Exports a trained network for programs that do not have this package.

python -m cifar_flax export --workdir runs/net6b --format=stablehlo --output net6b.jax

stablehlo: a function that maps images, float32 [n, 32, 32, 3] in [0, 1], to logits,
float32 [n, classes], for any n, on CPU, GPU and TPU. Calling it needs only JAX and
flatbuffers:
`jax.export.deserialize(bytearray(open("net6b.jax", "rb").read())).call(images)`.
onnx: the same function for ONNX Runtime and others; the export needs
`pip install -e '.[onnx]' -c constraints/py311.txt` (the file of your Python).
npz: every parameter and statistic under its path, such as `params/stem/kernel`.
Without --format, the suffix of the file decides: .jax or .stablehlo, .onnx, .npz.
"""

import argparse
import dataclasses
import io
import pathlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from cifar_flax import command_line
from cifar_flax.errors import UserError
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
PLATFORMS = ("cpu", "cuda", "tpu")


def _function(trained: "Trained") -> Callable:
  """Returns a function from images to logits that uses only standard XLA operations.

  Pooling is the exception: it is our own `max_pool`, because ONNX Runtime does not
  support what jax2onnx makes of XLA's pooling.
  """
  import jax.numpy as jnp

  from cifar_flax import models
  from cifar_flax.ops.pooling import max_pool

  model = dataclasses.replace(trained.config.model, ops="lax")
  network = models.create(model, len(trained.class_names)).clone(max_pool=max_pool)

  def logits(images):
    return network.apply(trained.variables, images, train=False).astype(jnp.float32)

  return logits


def stablehlo(trained: "Trained") -> bytes:
  """Returns the network and its weights as a serialized `jax.export` function."""
  import jax
  import jax.export
  import jax.numpy as jnp

  from cifar_flax.data.records import IMAGE_SHAPE

  number = jax.export.symbolic_shape("n")
  images = jax.ShapeDtypeStruct((*number, *IMAGE_SHAPE), jnp.float32)
  function = jax.jit(_function(trained))
  exported = jax.export.export(function, platforms=PLATFORMS)(images)
  return bytes(exported.serialize())


def onnx(trained: "Trained") -> bytes:
  """Returns the network as an ONNX model with input `images` and output `logits`.

  Raises:
    UserError: jax2onnx is not installed.
  """
  try:
    import jax2onnx
  except ImportError:
    version = "{}{}".format(*sys.version_info)
    raise UserError(
      "--format=onnx: needs jax2onnx: pip install -e '.[onnx]'"
      f" -c constraints/py{version}.txt"
    ) from None
  from cifar_flax.data.records import IMAGE_SHAPE

  model = jax2onnx.to_onnx(
    _function(trained),
    inputs=[("n", *IMAGE_SHAPE)],
    input_names=["images"],
    output_names=["logits"],
    model_name=trained.config.model.name,
  )
  return model.SerializeToString()


def npz(trained: "Trained") -> bytes:
  """Returns a NumPy archive of every parameter and statistic under its path."""
  import numpy as np
  from flax.traverse_util import flatten_dict

  arrays = flatten_dict(trained.variables, sep="/")
  file = io.BytesIO()
  np.savez(file, allow_pickle=False, **arrays)
  return file.getvalue()


def _parse(argv: list[str]) -> argparse.Namespace:
  parser = command_line.Parser("export", __doc__)
  parser.add_argument("--workdir", metavar="RUN", help="run directory to export")
  parser.add_argument("--checkpoint", default="best", help="best or last (%(default)s)")
  parser.add_argument(
    "--format", help=f"{', '.join(FORMATS)} (default: as the suffix of --output says)"
  )
  parser.add_argument("--output", metavar="FILE", help="file to write")
  flags = parser.parse_args(argv)
  if flags.format is not None:
    command_line.check_choice(flags, "format", FORMATS)
  command_line.check_choice(flags, "checkpoint", command_line.CHECKPOINTS)
  if flags.output is None:
    raise UserError("--output=FILE is missing; for example --output=net6b.jax")
  flags.format = _format(flags.format, flags.output)
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


def run(argv: list[str]) -> None:
  """Exports the network to `--output` and prints the size of the file."""
  flags = _parse(argv)
  workdir = command_line.require_run(flags.workdir)
  output.check(flags.output)
  from cifar_flax.text import shown
  from cifar_flax.tools.trained import Trained  # imports JAX

  trained = Trained(workdir, flags.checkpoint)
  data = {"stablehlo": stablehlo, "onnx": onnx, "npz": npz}[flags.format](trained)
  output.write(flags.output, data)
  facts = f"{len(data):,} bytes, {flags.format}, {trained.config.model.name}"
  print(f"{shown(flags.output)}: {facts}, epoch {trained.epoch}, {trained.choice}")


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns 0, 1 if the file cannot be written, 2 for wrong input."""
  return command_line.answer(run, argv)
