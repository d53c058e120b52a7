"""Table 2: each convolution by itself, and each type with BatchNorm and ReLU."""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.comparison import (
  Budget,
  Comparison,
  affordable,
  compare_peers,
  new_table,
)
from benchmarks.networks import Conv, convolution_types
from benchmarks.peers import BATCH
from benchmarks.statistics import Bound, median
from benchmarks.tables import Options
from benchmarks.workers import started
from cifar_flax.config import Model
from cifar_flax.tables import Table

SINGLE_PEERS = ("ours", "lax", "torch")
TYPE_PEERS = (*SINGLE_PEERS, "torch_compile")
PRODUCTS = ("forward", "input gradient", "filter gradient")
WINDOW_SECONDS = 0.2  # a product takes milliseconds
TYPE_BOUND = Bound(1.0, 1.3)


class Case(NamedTuple):
  """A convolution of square images, as large as a network has it."""

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
    """Multiplications and additions of a product for a batch, padding included."""
    rows, columns = self.conv.size
    shrinks = self.conv.padding == "VALID"
    height, width = (self.height - shrinks * (side - 1) for side in self.conv.size)
    sums = self.conv.features * height * width * rows * columns
    return 2e-9 * BATCH * sums * self.channels / self.conv.groups

  def show(self, seconds: float) -> str:
    """A cell: milliseconds and GFLOP/s."""
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


def make(options: Options, budget: Budget) -> list[Table]:
  """Two tables; the first has two thirds of the time."""
  first = single(options, budget.part(2 / 3))
  return [first, types(options, budget)]


def single(options: Options, budget: Budget) -> Table:
  """Forward, input gradient and filter gradient of every case."""
  peers = [peer for peer in SINGLE_PEERS if peer in options.peers]
  table = new_table(
    f"2a. Convolutions, batch {BATCH}, {options.dtype}; ratio of ours to torch",
    ["convolution", "", "of ceiling", *(f"{peer} ms (GFLOP/s)" for peer in peers)],
    verdict=False,
  )
  rows = {f"{case} {p}": (case, p) for case in CASES for p in PRODUCTS}
  found: list[tuple[Case, Comparison]] = []
  with started(peers, table.note) as workers:
    for row, share in affordable(list(rows), budget, table, seconds=5):
      case, product = rows[row]
      shape = [BATCH, case.height, case.height, case.channels]
      task = {"conv": case.conv._asdict(), "shape": shape, "product": product}
      task["dtype"] = options.dtype
      result = compare_peers(
        workers, "convolution", task, budget, share, WINDOW_SECONDS
      )
      cells = [*result.cells(peers, case.show), *result.verdict("torch", "ours")]
      table.rows.append([str(case), product, *cells])
      table.note(*result.notes, row=row)
      found.append((case, result))
  _add_ceiling(table, found)
  table.note("a call each; in a loop, XLA:CPU's own gradients (lax) are far slower")
  return table


def _add_ceiling(table: Table, found: Sequence[tuple[Case, Comparison]]) -> None:
  """Puts the third cell into each row: our rate over the best of all."""
  rates = [
    {name: case.gflop() / median(windows) for name, windows in result.seconds.items()}
    for case, result in found
  ]
  ceiling = max((rate for row in rates for rate in row.values()), default=0.0)
  for cells, row in zip(table.rows, rates, strict=True):
    cells.insert(2, f"{row['ours'] / ceiling:.0%}" if "ours" in row else "-")
  table.note(f"the ceiling is the best rate in this table, {ceiling:,.0f} GFLOP/s")


def types(options: Options, budget: Budget) -> Table:
  """Forward and backward of every type where a network uses it."""
  peers = [peer for peer in TYPE_PEERS if peer in options.peers]
  table = new_table(
    f"2b. Types with the BatchNorm and ReLU around them, forward + backward, ms, batch "
    f"{BATCH}, {options.dtype}; ratio of ours to the better PyTorch",
    ["type", "input", *peers],
  )
  slots = convolution_types(Model())
  with started(peers, table.note) as workers:
    for kind, share in affordable(list(slots), budget, table, seconds=10):
      task = {"kind": kind, "batch": BATCH, "dtype": options.dtype}
      result = compare_peers(workers, "block", task, budget, share, WINDOW_SECONDS)
      shape = f"{slots[kind].height}x{slots[kind].height}x{slots[kind].channels}"
      best = result.best(("torch", "torch_compile"))
      cells = result.cells(peers, lambda seconds: f"{1e3 * seconds:.2f}")
      cells += result.verdict(best, "ours", TYPE_BOUND)
      table.rows.append([kind, shape, *cells])
      table.note(*result.notes, row=kind)
  return table
