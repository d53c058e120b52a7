"""Table 2: each convolution by itself, and each type with BatchNorm and ReLU."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.comparison import (
  SIGNS,
  VERDICT_COLUMNS,
  Budget,
  Comparison,
  Job,
  affordable,
  compare,
)
from benchmarks.networks import Conv, convolution_types
from benchmarks.peers import BATCH
from benchmarks.report import Table
from benchmarks.statistics import Bound, median
from benchmarks.tables import Options
from benchmarks.workers import Worker, started
from cifar_flax.config import Model

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
  columns = ["convolution", "", *(f"{peer} ms (GFLOP/s)" for peer in peers)]
  table = Table(
    f"2a. Convolutions, batch {BATCH}, {options.dtype}; ratio of ours to torch",
    [*columns, *VERDICT_COLUMNS[:2], "ours of ceiling"],
    notes=[SIGNS],
  )
  rows = {f"{case} {p}": (case, p) for case in CASES for p in PRODUCTS}
  rates: list[dict[str, float]] = []
  with started(peers, table.note) as workers:
    for row, share in affordable(list(rows), budget, table, seconds=5):
      case, product = rows[row]
      result = _run_case(workers, case, product, options.dtype, budget, share)
      cells = [result.figure(peer, _speed(case)) for peer in peers]
      table.rows.append([str(case), product, *cells, *result.verdict("torch", "ours")])
      rates.append({k: case.gflop() / median(v) for k, v in result.seconds.items()})
      table.note(*(f"{row}: {note}" for note in result.notes))
  ceiling = max((rate for found in rates for rate in found.values()), default=0.0)
  for cells, found in zip(table.rows, rates, strict=True):
    cells.append(f"{found['ours'] / ceiling:.0%}" if "ours" in found else "-")
  table.note(f"the ceiling is the best rate in this table, {ceiling:,.0f} GFLOP/s")
  table.note("lax: outside a loop; in one, XLA:CPU's gradients are far slower")
  return table


def _run_case(
  workers: dict[str, Worker],
  case: Case,
  product: str,
  dtype: str,
  budget: Budget,
  share: float,
) -> Comparison:
  task = {
    "conv": case.conv._asdict(),
    "shape": [BATCH, case.height, case.height, case.channels],
    "product": product,
    "dtype": dtype,
  }
  jobs = {name: Job(worker, "convolution", task) for name, worker in workers.items()}
  return compare(jobs, budget, share, WINDOW_SECONDS)


def _speed(case: Case) -> Callable[[float], str]:
  return lambda seconds: f"{1e3 * seconds:.2f} ({case.gflop() / seconds:,.0f})"


def types(options: Options, budget: Budget) -> Table:
  """Forward and backward of every type where a network uses it."""
  peers = [peer for peer in TYPE_PEERS if peer in options.peers]
  table = Table(
    f"2b. Types with the BatchNorm and ReLU around them, forward + backward, ms, batch "
    f"{BATCH}, {options.dtype}; ratio of ours to the better PyTorch",
    ["type", "input", *peers, *VERDICT_COLUMNS],
    notes=[SIGNS],
  )
  slots = convolution_types(Model())
  with started(peers, table.note) as workers:
    for kind, share in affordable(list(slots), budget, table, seconds=10):
      task = {"kind": kind, "batch": BATCH, "dtype": options.dtype}
      jobs = {name: Job(worker, "block", task) for name, worker in workers.items()}
      result = compare(jobs, budget, share, WINDOW_SECONDS)
      shape = f"{slots[kind].height}x{slots[kind].height}x{slots[kind].channels}"
      cells = [result.figure(peer, lambda s: f"{1e3 * s:.2f}") for peer in peers]
      best = result.best(("torch", "torch_compile"))
      verdict = result.verdict(best, "ours", TYPE_BOUND)
      table.rows.append([kind, shape, *cells, *verdict])
      table.note(*(f"{kind}: {note}" for note in result.notes))
  return table
