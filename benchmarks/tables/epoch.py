"""Table 3: the trainer on real images beside the same steps on one fixed batch.

The difference is the cost of augmentation, progress reports and metrics.
"""

from collections.abc import Iterator

from benchmarks.comparison import Measurement, compare, new_table
from benchmarks.peers import BATCH
from benchmarks.tables import Options
from benchmarks.workers import started
from cifar_flax.data import batches
from cifar_flax.tables import Table

EVAL_BATCH = batches.eval_batch_size(0, "cpu")
# phase -> method of the trainer, method on a fixed batch, images per step
PHASES = {"train": ("epoch", "train", BATCH), "eval": ("evaluate", "infer", EVAL_BATCH)}
NAMES = ("trainer", "fixed batch")


def make(options: Options) -> Iterator[Table]:
  """Measures training and evaluation of each network."""
  table = new_table(
    f"3. Images/s of the trainer on real images, {options.dtype}; ratio of the trainer "
    "to a fixed batch",
    ["network", "phase", *NAMES],
  )
  for net in options.nets or ("net6b",):
    for phase, (real, fixed, batch) in PHASES.items():
      arguments = {"net": net, "dtype": options.dtype}
      with started(dict.fromkeys(NAMES, "ours"), table.note) as workers:
        if len(workers) < len(NAMES):
          continue
        trainer, fixed_batch = (workers[name] for name in NAMES)
        measurements = {
          "trainer": Measurement(trainer, real, arguments | {"data": options.data}),
          "fixed batch": Measurement(fixed_batch, fixed, arguments | {"batch": batch}),
        }
        result = compare(measurements, options.windows)
      cells = [*result.rates(NAMES, batch), *result.speedup(*NAMES)]
      table.rows.append([net, phase, *cells])
      table.note(*result.notes, row=f"{net} {phase}")
      if data := result.facts.get("trainer", {}).get("data"):
        table.note(f"images: {data}")
  yield table
