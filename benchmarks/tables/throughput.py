"""Table 1: training and inference images/s."""

from benchmarks.comparison import STAR, VERDICT_COLUMNS, Budget, compare, verdict
from benchmarks.peers import OTHERS
from benchmarks.report import Table
from benchmarks.statistics import Bound
from benchmarks.tables import Options
from benchmarks.workers import started

BATCH = 128
BOUNDS = {"train": Bound(1.0, 1.2), "infer": Bound(1.0, 1.3)}
NET6B_TRAINING = Bound(1.0, 1.5)


def make(options: Options, budget: Budget) -> list[Table]:
  """A row for each network in training and in inference."""
  table = Table(
    f"1. Images/s, batch {BATCH}, {options.dtype}",
    ["network", "", *options.peers, "best peer", *VERDICT_COLUMNS],
    notes=[STAR],
  )
  rows_left = len(options.nets) * len(BOUNDS)
  for net in options.nets:
    with started(options.peers, table.note) as workers:
      for what, bound in BOUNDS.items():
        if (net, what) == ("net6b", "train"):
          bound = NET6B_TRAINING
        task = {"net": net, "batch": BATCH, "dtype": options.dtype}
        result = compare(workers, what, task, budget, 1 / rows_left)
        rows_left -= 1
        parameters = {fact.get("parameters") for fact in result.facts.values()}
        assert len(parameters) <= 1, f"{net} differs between peers: {result.facts}"
        best = result.best(OTHERS)
        rates = [
          result.figure(peer, lambda seconds: f"{BATCH / seconds:,.0f}")
          for peer in options.peers
        ]
        cells = verdict(result.ratios(best, "ours"), bound)
        table.rows.append([net, what, *rates, best or "-", *cells])
        table.note(*(f"{net} {what}: {note}" for note in result.notes))
  return [table]
