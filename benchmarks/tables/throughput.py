"""Table 1: training and inference images/s."""

from benchmarks.comparison import Budget, affordable, compare_peers, new_table
from benchmarks.networks import LAYERS
from benchmarks.peers import BATCH, OTHERS
from benchmarks.statistics import Bound
from benchmarks.tables import Options
from benchmarks.workers import started
from cifar_flax.tables import Table

BOUNDS = {"train": Bound(1.0, 1.2), "infer": Bound(1.0, 1.3)}
NET6B_TRAINING = Bound(1.0, 1.5)
TRAINING = 0.75  # of a network's time: three times the work of inference


def make(options: Options, budget: Budget) -> list[Table]:
  """A row for each network in training and in inference."""
  table = new_table(
    f"1. Images/s, batch {BATCH}, {options.dtype}; ratio of ours to the best peer",
    ["network", "", *options.peers, "best peer"],
  )
  nets = options.nets or tuple(LAYERS)
  for net, share in affordable(nets, budget, table, seconds=30):
    rest = (1 - TRAINING) * share / (1 - TRAINING * share)  # of what training leaves
    shares = {"train": TRAINING * share, "infer": rest}
    with started(options.peers, table.note) as workers:
      for what, bound in BOUNDS.items():
        if (net, what) == ("net6b", "train"):
          bound = NET6B_TRAINING
        task = {"net": net, "batch": BATCH, "dtype": options.dtype}
        result = compare_peers(workers, what, task, budget, shares[what])
        parameters = {fact.get("parameters") for fact in result.facts.values()}
        assert len(parameters) <= 1, f"{net} differs between peers: {result.facts}"
        best = result.best(OTHERS)
        cells = [*result.rates(options.peers, BATCH), best or "-"]
        cells += result.verdict(best, "ours", bound)
        table.rows.append([net, what, *cells])
        table.note(*result.notes, row=f"{net} {what}")
  return [table]
