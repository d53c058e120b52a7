"""Table 5: the most memory that training takes."""

from benchmarks.comparison import MIN_TIMEOUT, Budget, affordable
from benchmarks.networks import LAYERS
from benchmarks.peers import BATCH
from benchmarks.tables import Options
from benchmarks.workers import Absent, started
from cifar_flax.tables import Table


def make(options: Options, budget: Budget) -> list[Table]:
  """A row for each network; a fresh process for each figure."""
  table = Table(
    f"5. Peak memory of training, MiB, batch {BATCH}, {options.dtype}",
    ["network", *options.peers],
    notes=["of the process, compiling included; on a GPU, of its memory"],
  )
  nets = options.nets or tuple(LAYERS)
  for net, _ in affordable(nets, budget, table, seconds=60):
    cells = []
    for peer in options.peers:
      task = {"net": net, "batch": BATCH, "dtype": options.dtype}
      cell = "-"
      with started([peer], table.note) as workers:
        for worker in workers.values():
          try:
            worker.prepare(max(budget.left(), MIN_TIMEOUT), "train", **task)
            cell = f"{worker.peak_bytes() / 2**20:,.0f}"
          except Absent as reason:
            table.note(f"{net}: {reason}")
      cells.append(cell)
    table.rows.append([net, *cells])
  return [table]
