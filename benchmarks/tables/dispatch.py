"""Table 7: how many steps one call to the device makes, and by which loop."""

from typing import Any

from benchmarks.comparison import Budget, Job, affordable, compare, new_table
from benchmarks.networks import LAYERS
from benchmarks.peers import BATCH
from benchmarks.statistics import Bound
from benchmarks.tables import Options
from benchmarks.workers import started
from cifar_flax.tables import Table

BOUND = Bound(1.02, at_most=True)
SHIPS = "as it ships"
WAYS: dict[str, dict[str, Any]] = {
  SHIPS: {},
  "1 a call": {"dispatch": 1},
  "16 a call": {"dispatch": 16},
  "scan": {"loop": "scan"},
  "no loop": {"loop": "none"},
}


def make(options: Options, budget: Budget) -> list[Table]:
  """A row for each network: what ships beside the best of the other ways."""
  table = new_table(
    f"7. Training images/s by dispatch, batch {BATCH}, {options.dtype}; ratio of the "
    "seconds of what ships to the best other's",
    ["network", *WAYS, "best other"],
  )
  table.note("scan: as many steps a call as it ships with; no loop: one")
  nets = options.nets or tuple(LAYERS)
  for net, share in affordable(nets, budget, table, seconds=60):
    with started(dict.fromkeys(WAYS, "ours"), table.note) as workers:
      task = {"net": net, "batch": BATCH, "dtype": options.dtype}
      jobs = {
        way: Job(worker, "train", task | WAYS[way]) for way, worker in workers.items()
      }
      result = compare(jobs, budget, share, keep=(SHIPS,))
    best = result.best([way for way in WAYS if way != SHIPS])
    cells = [*result.rates(WAYS, BATCH), best or "-"]
    table.rows.append([net, *cells, *result.verdict(SHIPS, best, BOUND)])
    table.note(*result.notes, row=net)
    if SHIPS in result.facts:
      table.note(f"it ships with {result.facts[SHIPS]['multiple']} steps a call")
  return [table]
