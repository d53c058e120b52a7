"""The tables: each module has a `make` that measures, and yields finished tables."""

import dataclasses
import importlib
from collections.abc import Iterator

from cifar_flax.tables import Table

# number -> module
TABLES = {
  "1": "throughput",
  "2": "convolutions",
  "3": "epoch",
  "4": "startup",
  "5": "evaluation_batch",
}


@dataclasses.dataclass(frozen=True)
class Options:
  """The options of the command line.

  Attributes:
    nets: names of networks; () for those that a table measures by default.
    peers: names in `peers.PEERS`.
    dtype: of activations.
    data: TFDS folder with CIFAR-10, or "".
    windows: of each measurement.
  """

  nets: tuple[str, ...]
  peers: tuple[str, ...]
  dtype: str
  data: str
  windows: int


def make(number: str, options: Options) -> Iterator[Table]:
  """Measures table `number`; yields each of its parts when it is finished."""
  yield from importlib.import_module(f"benchmarks.tables.{TABLES[number]}").make(
    options
  )
