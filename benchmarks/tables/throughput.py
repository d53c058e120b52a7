"""Table 1: images/s of training and inference."""

from collections.abc import Iterator

from benchmarks.comparison import compare_peers, new_table
from benchmarks.networks import LAYERS
from benchmarks.peers import BATCH, OTHERS
from benchmarks.tables import Options
from benchmarks.workers import started
from cifar_flax.tables import Table


def make(options: Options) -> Iterator[Table]:
  """Measures training and inference of each network."""
  table = new_table(
    f"1. Images/s, batch {BATCH}, {options.dtype}; ratio of ours to the best peer",
    ["network", "phase", *options.peers, "best peer"],
  )
  for net in options.nets or tuple(LAYERS):
    with started(options.peers, table.note) as workers:
      for phase in ("train", "infer"):
        arguments = {"net": net, "batch": BATCH, "dtype": options.dtype}
        result = compare_peers(workers, phase, arguments, options.windows)
        parameters = {fact.get("parameters") for fact in result.facts.values()}
        assert len(parameters) <= 1, f"{net} differs between peers: {result.facts}"
        best = result.best(OTHERS)
        cells = [*result.rates(options.peers, BATCH), best or "-"]
        table.rows.append([net, phase, *cells, *result.speedup("ours", over=best)])
        table.note(*result.notes, row=f"{net} {phase}")
  yield table
