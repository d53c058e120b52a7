"""Table 1: training and inference images/s."""

from benchmarks.comparison import (
  SIGNS,
  VERDICT_COLUMNS,
  Budget,
  Job,
  affordable,
  compare,
  images_per_second,
)
from benchmarks.networks import LAYERS
from benchmarks.peers import BATCH, OTHERS
from benchmarks.report import Table
from benchmarks.statistics import Bound
from benchmarks.tables import Options
from benchmarks.workers import started

BOUNDS = {"train": Bound(1.0, 1.2), "infer": Bound(1.0, 1.3)}
NET6B_TRAINING = Bound(1.0, 1.5)


def make(options: Options, budget: Budget) -> list[Table]:
  """A row for each network in training and in inference."""
  table = Table(
    f"1. Images/s, batch {BATCH}, {options.dtype}; ratio of ours to the best peer",
    ["network", "", *options.peers, "best peer", *VERDICT_COLUMNS],
    notes=[SIGNS],
  )
  nets = options.nets or tuple(LAYERS)
  for net, share in affordable(nets, budget, table, seconds=30):
    with started(options.peers, table.note) as workers:
      for what, bound in BOUNDS.items():
        if (net, what) == ("net6b", "train"):
          bound = NET6B_TRAINING
        task = {"net": net, "batch": BATCH, "dtype": options.dtype}
        jobs = {name: Job(worker, what, task) for name, worker in workers.items()}
        result = compare(jobs, budget, share)
        parameters = {fact.get("parameters") for fact in result.facts.values()}
        assert len(parameters) <= 1, f"{net} differs between peers: {result.facts}"
        rates = [
          result.figure(peer, images_per_second(BATCH)) for peer in options.peers
        ]
        best = result.best(OTHERS)
        cells = result.verdict(best, "ours", bound)
        table.rows.append([net, what, *rates, best or "-", *cells])
        table.note(*(f"{net} {what}: {note}" for note in result.notes))
  return [table]
