"""The formats of an export: StableHLO, ONNX and npz."""

import contextlib
import dataclasses
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from cifar_flax import models
from cifar_flax.data.records import IMAGE_SHAPE
from cifar_flax.errors import UserError
from cifar_flax.ops.pooling import max_pool
from cifar_flax.tools.trained import Trained

PLATFORMS = ("cpu", "cuda", "tpu")


def _function(trained: Trained, dtype: str) -> Callable:
  """Returns a function from images to logits that uses only standard XLA operations.

  Pooling is the exception: it is our own `max_pool`, because ONNX Runtime does not
  support what jax2onnx makes of XLA's pooling.

  Args:
    trained: the network.
    dtype: type of the activations.
  """
  models.set_precision(dtype)
  model = dataclasses.replace(trained.config.model, ops="lax", dtype=dtype)
  network = models.create(model, len(trained.class_names)).clone(max_pool=max_pool)

  def logits(images):
    return network.apply(trained.variables, images, train=False).astype(jnp.float32)

  return logits


def stablehlo(trained: Trained) -> bytes:
  """Returns the network and its weights as a serialized `jax.export` function."""
  number = jax.export.symbolic_shape("n")
  images = jax.ShapeDtypeStruct((*number, *IMAGE_SHAPE), jnp.float32)
  function = jax.jit(_function(trained, trained.config.model.dtype))
  with _without_folders():
    exported = jax.export.export(function, platforms=PLATFORMS)(images)
  return bytes(exported.serialize())


@contextlib.contextmanager
def _without_folders() -> Iterator[None]:
  """Makes JAX note only the file's name, not its folder, where an operation is from."""
  key = "jax_hlo_source_file_canonicalization_regex"
  before = getattr(jax.config, key)
  jax.config.update(key, "^.*/")
  try:
    yield
  finally:
    jax.config.update(key, before)


def onnx(trained: Trained, opset: int, metadata: dict[str, Any]) -> bytes:
  """Returns the network as an ONNX model with input `images` and output `logits`.

  It computes in float32: ONNX Runtime has no bfloat16 or float64 convolution on a CPU.

  Args:
    trained: the network.
    opset: one of `OPSETS`.
    metadata: what the model says of itself; all values but text are written as JSON.

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
  # It warns of intermediate shapes that it does not know, which are deleted below.
  logging.getLogger("onnx_ir").setLevel(logging.ERROR)
  model = jax2onnx.to_onnx(
    _function(trained, "float32"),
    inputs=[("n", *IMAGE_SHAPE)],
    input_names=["images"],
    output_names=["logits"],
    model_name=trained.config.model.name,
    opset=opset,
  )
  # jax2onnx leaves NHWC shapes on tensors that it made NCHW. They are optional, and
  # ONNX Runtime warns of each.
  del model.graph.value_info[:]
  for key, value in metadata.items():
    text = value if isinstance(value, str) else json.dumps(value)
    model.metadata_props.add(key=key, value=text)
  return model.SerializeToString()


def npz(trained: Trained) -> bytes:
  """Returns a NumPy archive of every parameter and statistic under its path."""
  arrays = flatten_dict(trained.variables, sep="/")
  file = io.BytesIO()
  np.savez(file, allow_pickle=False, **arrays)
  return file.getvalue()
