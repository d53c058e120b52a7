"""The tables: each a function of the options and a budget that returns `Table`s."""

import dataclasses
import importlib
from collections.abc import Callable

from benchmarks.comparison import Budget
from cifar_flax.tables import Table

# number -> module, and its share of the time beside the others'
TABLES = {
  "1": ("throughput", 6),
  "2": ("convolutions", 4),
  "3": ("epoch", 3),
  "4": ("startup", 2),
  "5": ("memory", 2),
  "6": ("batch_size", 3),
  "7": ("dispatch", 4),
}


@dataclasses.dataclass(frozen=True)
class Options:
  """What the command line asked for.

  Attributes:
    nets: names of networks; () leaves it to the table.
    peers: names in `peers.PEERS`.
    dtype: of activations.
    data: TFDS folder with CIFAR-10, or "".
    batches: images a step, for the table that compares them; () leaves it to it.
  """

  nets: tuple[str, ...]
  peers: tuple[str, ...]
  dtype: str
  data: str
  batches: tuple[int, ...] = ()


def lookup(number: str) -> Callable[[Options, Budget], list[Table]]:
  """The function that makes a table."""
  module = f"benchmarks.tables.{TABLES[number][0]}"
  return importlib.import_module(module).make
