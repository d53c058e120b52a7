"""Table 5: images/s of inference by batch, to choose the default of `eval_batch_size`.

All batches take turns, each in a process of its own.
"""

from collections.abc import Iterator

from benchmarks.comparison import Measurement, compare, new_table
from benchmarks.tables import Options
from benchmarks.tables.throughput import INFERENCE_BATCHES
from benchmarks.workers import started
from cifar_flax.tables import Table

BASE = max(INFERENCE_BATCHES)


def make(options: Options) -> Iterator[Table]:
  """Measures each batch for each network."""
  sizes = {str(size): size for size in INFERENCE_BATCHES}
  table = new_table(
    f"5. Images/s of inference by batch, {options.dtype}; ratio to batch {BASE}",
    ["network", "batch", "ours"],
  )
  for net in options.nets or ("net6b",):
    with started(dict.fromkeys(sizes, "ours"), table.note) as workers:
      measurements = {
        name: Measurement(
          worker, "infer", {"net": net, "batch": sizes[name], "dtype": options.dtype}
        )
        for name, worker in workers.items()
      }
      result = compare(measurements, options.windows, window_seconds=0.2)
    for name, seconds in result.seconds.items():
      result.seconds[name] = [value / sizes[name] for value in seconds]
    for name in result.seconds:
      ratio = result.speedup(name, over=str(BASE))
      table.rows.append([net, name, *result.rates([name], 1), *ratio])
    table.note(*result.notes, row=net)
  yield table
