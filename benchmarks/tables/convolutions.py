"""Table 2: single convolutions, and each convolution type with BatchNorm and ReLU."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.comparison import Comparison, compare_peers, new_table
from benchmarks.networks import Conv, convolution_types
from benchmarks.peers import BATCH
from benchmarks.statistics import median
from benchmarks.tables import Options
from benchmarks.workers import started
from cifar_flax.config import Model
from cifar_flax.tables import Table

SINGLE_PEERS = ("ours", "lax", "torch")
TYPE_PEERS = (*SINGLE_PEERS, "torch_compile")
PRODUCTS = ("forward", "input gradient", "filter gradient")
WINDOW_SECONDS = 0.2  # short, since a product takes only milliseconds


class Case(NamedTuple):
  """A convolution that occurs in one of the networks, with its square input."""

  height: int
  channels: int
  conv: Conv

  def __str__(self) -> str:
    conv = self.conv
    kind = "" if conv.dilation == 1 else f", dilation {conv.dilation}"
    kind += "" if conv.groups == 1 else f", {conv.groups} groups"
    size = "x".join(map(str, conv.size))
    return (
      f"{size} {self.channels}->{conv.features}{kind}, "
      f"{self.height}x{self.height} {conv.padding}"
    )

  def gflop(self) -> float:
    """Returns the 10^9 operations of a product for a batch, padding included."""
    rows, columns = self.conv.size
    shrinks = self.conv.padding == "VALID"
    height, width = (self.height - shrinks * (side - 1) for side in self.conv.size)
    sums = self.conv.features * height * width * rows * columns
    return 2e-9 * BATCH * sums * self.channels / self.conv.groups

  def show(self, seconds: float) -> str:
    """Returns a cell: milliseconds and GFLOP/s."""
    return f"{1e3 * seconds:.2f} ({self.gflop() / seconds:,.0f})"


CASES = (
  Case(32, 3, Conv(32)),
  Case(32, 32, Conv(64)),
  Case(32, 64, Conv(128, padding="VALID")),
  Case(30, 128, Conv(32, (1, 1))),
  Case(32, 32, Conv(64, (3, 1), "VALID")),
  Case(30, 64, Conv(64, (1, 3), "VALID")),
  Case(30, 64, Conv(64, padding="VALID", groups=64)),
  Case(28, 64, Conv(128, (1, 1))),
  Case(14, 32, Conv(64)),
  Case(14, 32, Conv(64, (5, 5))),
  Case(15, 32, Conv(64)),
  Case(15, 64, Conv(128)),
  Case(7, 32, Conv(64)),
  Case(7, 32, Conv(64, dilation=2)),
  Case(14, 64, Conv(64, groups=4)),
  Case(7, 10, Conv(10, (7, 7), "VALID")),
)


def make(options: Options) -> Iterator[Table]:
  """Measures convolution types, then single convolutions, which takes longer."""
  yield types(options)
  yield single(options)


def single(options: Options) -> Table:
  """Measures the forward pass and both gradients of every case."""
  peers = [peer for peer in SINGLE_PEERS if peer in options.peers]
  rates = [f"{peer} ms (GFLOP/s)" for peer in peers]
  table = new_table(
    f"2b. Convolutions, batch {BATCH}, {options.dtype}; ratio of ours to torch",
    ["convolution", "product", "of ceiling", *rates],
  )
  found: list[tuple[Case, Comparison]] = []
  with started(peers, table.note) as workers:
    for case, product in ((case, product) for case in CASES for product in PRODUCTS):
      arguments = {
        "conv": case.conv._asdict(),
        "shape": [BATCH, case.height, case.height, case.channels],
        "product": product,
        "dtype": options.dtype,
      }
      result = compare_peers(
        workers, "convolution", arguments, options.windows, WINDOW_SECONDS
      )
      cells = [*result.cells(peers, case.show), *result.speedup("ours", over="torch")]
      table.rows.append([str(case), product, *cells])
      table.note(*result.notes, row=f"{case} {product}")
      found.append((case, result))
  _add_ceiling(table, found)
  table.note(
    "each step is a call of its own; in a loop, the gradients of XLA:CPU (lax) are far "
    "slower"
  )
  return table


def _add_ceiling(table: Table, found: Sequence[tuple[Case, Comparison]]) -> None:
  """Inserts the third cell of each row: our rate relative to the best rate of all."""
  rates = [
    {name: case.gflop() / median(windows) for name, windows in result.seconds.items()}
    for case, result in found
  ]
  ceiling = max((rate for row in rates for rate in row.values()), default=0.0)
  for cells, row in zip(table.rows, rates, strict=True):
    cells.insert(2, f"{row['ours'] / ceiling:.0%}" if "ours" in row else "-")
  table.note(f"the ceiling is the best rate in this table, {ceiling:,.0f} GFLOP/s")


def types(options: Options) -> Table:
  """Measures forward and backward of every convolution type, as a network uses it."""
  peers = [peer for peer in TYPE_PEERS if peer in options.peers]
  table = new_table(
    f"2a. Convolution types with their BatchNorm and ReLU, forward + backward, ms, "
    f"batch {BATCH}, {options.dtype}; ratio of ours to the faster PyTorch",
    ["type", "input", *peers],
  )
  with started(peers, table.note) as workers:
    for kind, slot in convolution_types(Model()).items():
      arguments = {"kind": kind, "batch": BATCH, "dtype": options.dtype}
      result = compare_peers(
        workers, "block", arguments, options.windows, WINDOW_SECONDS
      )
      best = result.best(("torch", "torch_compile"))
      cells = result.cells(peers, lambda seconds: f"{1e3 * seconds:.2f}")
      cells += result.speedup("ours", over=best)
      shape = f"{slot.height}x{slot.height}x{slot.channels}"
      table.rows.append([kind, shape, *cells])
      table.note(*result.notes, row=kind)
  return table
