"""The tables: each a function of the options and a budget that returns `Table`s."""

import dataclasses
import importlib
from collections.abc import Callable

from benchmarks.comparison import Budget
from benchmarks.report import Table

# number -> module, and its share of the time beside the others'
TABLES = {
  "1": ("throughput", 8),
}


@dataclasses.dataclass(frozen=True)
class Options:
  """What the command line asked for.

  Attributes:
    nets: names of networks.
    peers: names in `peers.PEERS`.
    dtype: of activations.
    data: TFDS folder with CIFAR-10, or "".
  """

  nets: tuple[str, ...]
  peers: tuple[str, ...]
  dtype: str
  data: str


def lookup(number: str) -> Callable[[Options, Budget], list[Table]]:
  """The function that makes a table."""
  module = f"benchmarks.tables.{TABLES[number][0]}"
  return importlib.import_module(module).make
