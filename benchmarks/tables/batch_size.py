"""Table 6: training images/s against the batch size."""

from benchmarks.comparison import (
  SIGNS,
  VERDICT_COLUMNS,
  Budget,
  Job,
  affordable,
  compare,
  images_per_second,
)
from benchmarks.peers import OTHERS
from benchmarks.report import Table
from benchmarks.tables import Options
from benchmarks.workers import started

SIZES = (128, 64, 32, 256, 512, 1024)  # the first chooses the best peer


def make(options: Options, budget: Budget) -> list[Table]:
  """Ours and the peer that is the best at the first size, for each size."""
  table = Table(
    f"6. Training images/s by batch size, {options.dtype}; ratio of ours to the peer",
    ["network", "batch", "ours", "peer", "", *VERDICT_COLUMNS[:2]],
    notes=[SIGNS],
  )
  for net in options.nets or ("net6b",):
    names: tuple[str, ...] = tuple(p for p in options.peers if p in ("ours", *OTHERS))
    rows = {f"{net}, batch {batch}": batch for batch in SIZES}
    cells = {}
    for row, share in affordable(list(rows), budget, table, seconds=30):
      with started(names, table.note) as workers:
        task = {"net": net, "batch": rows[row], "dtype": options.dtype}
        jobs = {name: Job(worker, "train", task) for name, worker in workers.items()}
        result = compare(jobs, budget, share)
      best = result.best(OTHERS)
      names = ("ours", best) if best else names  # two at a time: 1024 takes much memory
      show = images_per_second(rows[row])
      rates = [result.figure(name, show) for name in ("ours", best or "")]
      verdict = result.verdict(best, "ours")
      cells[rows[row]] = [net, str(rows[row]), *rates, best or "-", *verdict]
      table.note(*(f"{row}: {note}" for note in result.notes))
    table.rows += [cells[batch] for batch in sorted(cells)]
  return [table]
