"""Who is measured, and what each can be asked for."""

import importlib
import os
import pathlib
import resource
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cifar_flax import config as config_lib

BATCH = 128  # images a step, as published
ROOT = pathlib.Path(__file__).resolve().parents[2]

# name -> module:class, arguments; a worker's own process imports it, nobody else.
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
  "ours": ("benchmarks.peers.ours:Ours", {"ops": "fast"}),
  "lax": ("benchmarks.peers.ours:Ours", {"ops": "lax"}),
  "torch": ("benchmarks.peers.pytorch:PyTorch", {}),
  "torch_nchw": ("benchmarks.peers.pytorch:PyTorch", {"channels_last": False}),
  "torch_compile": ("benchmarks.peers.pytorch:PyTorch", {"compiled": True}),
  "keras": ("benchmarks.peers.keras:Keras", {}),
}
# What ours is measured against: `lax` is ours too, without its own operations.
OTHERS = ("torch", "torch_nchw", "torch_compile", "keras")


class Program(NamedTuple):
  """Something made ready to be timed.

  Attributes:
    run: makes so many steps and returns when the last one is finished.
    multiple: of which the number of steps has to be a multiple.
    facts: what the table may want to know, such as {"parameters": 151404}.
  """

  run: Callable[[int], Any]
  multiple: int = 1
  facts: dict[str, Any] = {}


class Peer:
  """One way to do the work, in a process of its own.

  A subclass has methods that return a `Program`, for the tables to ask for by name,
  such as `train(net, batch, dtype)`. What cannot be had raises.
  """

  def describe(self) -> str:
    """Version, device and threads, in a line."""
    raise NotImplementedError

  def peak_bytes(self) -> int:
    """The most memory in use so far: of the process, or of its GPU."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def create(name: str) -> Peer:
  """The peer of that name in `PEERS`, or of a `module:class`."""
  entry, arguments = PEERS.get(name, (name, {}))
  module, _, attribute = entry.partition(":")
  return getattr(importlib.import_module(module), attribute)(**arguments)


def load_config(
  net: str, batch: int = 128, dtype: str = "float32", ops: str = "fast"
) -> config_lib.Config:
  """The shipped config of a network, without augmentation; does not import JAX."""
  values = {
    "batch_size": str(batch),
    "model.dtype": dtype,
    "model.ops": ops,
    "augmentation.zoom": "0",
    "augmentation.flip": "false",
  }
  file = ROOT / "configs" / f"{net}.py"
  return config_lib.override(config_lib.load(str(file)), values)


def data_options(folder: str) -> dict[str, str]:
  """Config keys for real images: CIFAR-10 if TFDS has it there, else shapes10."""
  folder = folder or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  folder = os.path.abspath(os.path.expanduser(folder))
  there = os.path.isdir(os.path.join(folder, "cifar10"))
  return {
    "data.dataset": "cifar10" if there else "shapes10",
    "data.data_dir": folder,
  }


def num_threads() -> int:
  """Cores this process may use."""
  return len(os.sched_getaffinity(0))


def fixed_batch(batch: int) -> tuple[np.ndarray, np.ndarray]:
  """The batch that every peer trains on: uint8 [batch, 32, 32, 3], int32 [batch]."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
  return images, rng.integers(0, 10, batch, dtype=np.int32)
