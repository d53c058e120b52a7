"""The peers that are measured, and the interface that they share."""

import importlib
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cifar_flax import config as config_lib

BATCH = 128  # images per step, as published
ROOT = pathlib.Path(__file__).resolve().parents[2]

# name -> module:class, arguments; only the process of its worker imports the module.
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
  "ours": ("benchmarks.peers.ours:Ours", {"ops": "fast"}),
  "lax": ("benchmarks.peers.ours:Ours", {"ops": "lax"}),
  "torch": ("benchmarks.peers.pytorch:PyTorch", {}),
  "torch_nchw": ("benchmarks.peers.pytorch:PyTorch", {"channels_last": False}),
  "torch_compile": ("benchmarks.peers.pytorch:PyTorch", {"compiled": True}),
  "keras": ("benchmarks.peers.keras:Keras", {}),
}
# The peers that ours is compared with; `lax` is ours with XLA's own operations.
OTHERS = ("torch", "torch_nchw", "torch_compile", "keras")


class Workload(NamedTuple):
  """Work that is ready to be timed.

  Attributes:
    run: makes a number of steps; returns when the last one is finished.
    multiple: the number of steps must be a multiple of it.
    facts: for the table, such as {"parameters": 151404}.
    text: returns the compiled program as text, of ours alone.
  """

  run: Callable[[int], Any]
  multiple: int = 1
  facts: dict[str, Any] = {}
  text: Callable[[], str] = str


class Peer:
  """A library under test; it runs in a process of its own.

  A subclass has methods that return a `Workload`, such as `train(net, batch, dtype)`;
  the tables name them. A method raises if the library cannot do the work.
  """

  def describe(self) -> str:
    """Returns version, device and threads, in one line."""
    raise NotImplementedError


def create(name: str) -> Peer:
  """Makes the peer with that name in `PEERS`, or of a `module:class`."""
  entry, arguments = PEERS.get(name, (name, {}))
  module, _, attribute = entry.partition(":")
  return getattr(importlib.import_module(module), attribute)(**arguments)


def load_config(
  net: str, batch: int = 128, dtype: str = "float32", ops: str = "fast"
) -> config_lib.Config:
  """Loads a network's config without augmentation; does not import JAX."""
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
  """Returns config keys: CIFAR-10 if the TFDS folder has it, else shapes10."""
  folder = folder or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  folder = os.path.abspath(os.path.expanduser(folder))
  there = os.path.isdir(os.path.join(folder, "cifar10"))
  return {
    "data.dataset": "cifar10" if there else "shapes10",
    "data.data_dir": folder,
  }


def num_threads() -> int:
  """Returns the number of cores that this process may use."""
  return len(os.sched_getaffinity(0))


def fixed_batch(batch: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns every peer's batch: uint8 [batch, 32, 32, 3], int32 [batch]."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
  return images, rng.integers(0, 10, batch, dtype=np.int32)
