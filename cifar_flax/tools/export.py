"""A trained network for programs without this package.

python -m cifar_flax export --workdir runs/net6b --format=stablehlo --output net6b.jax

stablehlo: a function of images, float32 [n, 32, 32, 3] in [0, 1], to logits, float32
[n, classes], for any n, on CPU, GPU and TPU. Needs JAX and flatbuffers alone:
`jax.export.deserialize(bytearray(open("net6b.jax", "rb").read())).call(images)`.
onnx: the same function for ONNX Runtime and others; needs `pip install -e '.[onnx]'`.
npz: every parameter and statistic under its path, such as `params/stem/kernel`.
"""

import argparse
import dataclasses
import io
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from cifar_flax import command_line
from cifar_flax.errors import UserError
from cifar_flax.run.files import naming

if TYPE_CHECKING:
  from cifar_flax.tools.trained import Trained

FORMATS = ("stablehlo", "onnx", "npz")
PLATFORMS = ("cpu", "cuda", "tpu")


def _function(trained: "Trained") -> Callable:
  """Images to logits, of XLA's own operations but for the pooling.

  Of that, ONNX Runtime does not know the form that jax2onnx makes.
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
  """The network and its weights as one function, for any number of images."""
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
  """The same as an ONNX model; the input is `images`, the output `logits`.

  Raises:
    UserError: jax2onnx is not installed.
  """
  try:
    import jax2onnx
  except ImportError:
    raise UserError("--format=onnx: needs jax2onnx: pip install -e '.[onnx]'") from None
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
  """Every parameter and statistic by its path."""
  import numpy as np
  from flax.traverse_util import flatten_dict

  arrays = flatten_dict(trained.variables, sep="/")
  file = io.BytesIO()
  np.savez(file, allow_pickle=False, **arrays)
  return file.getvalue()


def _parse(argv: list[str]) -> argparse.Namespace:
  parser = command_line.Parser("export", __doc__)
  parser.add_argument("--workdir", metavar="RUN", help="run directory of the network")
  parser.add_argument("--checkpoint", default="best", help="best or last (%(default)s)")
  parser.add_argument("--format", default="stablehlo", help=", ".join(FORMATS))
  parser.add_argument("--output", metavar="FILE", help="where it goes")
  flags = parser.parse_args(argv)
  command_line.check_choice(flags, "format", FORMATS)
  command_line.check_choice(flags, "checkpoint", command_line.CHECKPOINTS)
  if flags.output is None:
    raise UserError("--output=FILE is missing; for example --output=net6b.jax")
  return flags


def run(argv: list[str]) -> None:
  """Writes the file that a command line asks for, and says how large it is."""
  flags = _parse(argv)
  workdir = command_line.require_run(flags.workdir)
  from cifar_flax.tools.trained import Trained  # imports JAX

  trained = Trained(workdir, flags.checkpoint)
  data = {"stablehlo": stablehlo, "onnx": onnx, "npz": npz}[flags.format](trained)
  with naming(path := pathlib.Path(flags.output)):
    path.write_bytes(data)
  print(f"{path}: {len(data):,} bytes, {trained.config.model.name}, {flags.checkpoint}")


def main(argv: list[str] | None = None) -> int:
  """Runs; returns 0, 1 for a file that can't be written, 2 for wrong input."""
  return command_line.answer(run, argv)
