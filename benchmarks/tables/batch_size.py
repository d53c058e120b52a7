"""Table 6: training images/s against the batch size."""

from benchmarks.comparison import Budget, affordable, compare_peers, new_table
from benchmarks.peers import OTHERS
from benchmarks.tables import Options
from benchmarks.workers import started
from cifar_flax.tables import Table

SIZES = (128, 64, 32, 256, 512, 1024)  # the first chooses the best peer


def make(options: Options, budget: Budget) -> list[Table]:
  """Ours and the peer that is the best at the first size, for each size."""
  table = new_table(
    f"6. Training images/s by batch size, {options.dtype}; ratio of ours to the peer",
    ["network", "batch", "ours", "peer", "best peer"],
    verdict=False,
  )
  for net in options.nets or ("net6b",):
    names: tuple[str, ...] = tuple(p for p in options.peers if p in ("ours", *OTHERS))
    sizes = options.batches or SIZES
    rows = {f"{net}, batch {batch}": batch for batch in sizes}
    cells = {}
    for row, share in affordable(list(rows), budget, table, seconds=30):
      batch = rows[row]
      with started(names, table.note) as workers:
        task = {"net": net, "batch": batch, "dtype": options.dtype}
        result = compare_peers(workers, "train", task, budget, share)
      best = result.best(OTHERS) or "-"
      rates = result.rates(("ours", best), batch)
      cells[batch] = [net, str(batch), *rates, best, *result.verdict(best, "ours")]
      if best != "-":
        names = ("ours", best)  # two at a time: 1024 images take much memory
      table.note(*result.notes, row=row)
    table.rows += [cells[batch] for batch in sorted(cells)]
  return [table]
