"""Table 3: a real epoch with augmentation beside as many steps on one batch."""

from benchmarks.comparison import (
  SIGNS,
  VERDICT_COLUMNS,
  Budget,
  Job,
  affordable,
  compare,
  images_per_second,
)
from benchmarks.peers import BATCH
from benchmarks.report import Table
from benchmarks.statistics import Bound
from benchmarks.tables import Options
from benchmarks.workers import started

BOUND = Bound(1.05, 1.02, at_most=True)
EVAL_BATCH = 512  # `eval_batch_size` of the configs


def make(options: Options, budget: Budget) -> list[Table]:
  """Training and evaluation of each network."""
  table = Table(
    f"3. Images/s of the trainer on real images, {options.dtype}; ratio of the seconds",
    ["network", "", "trainer", "one batch", *VERDICT_COLUMNS],
    notes=[SIGNS],
  )
  nets = options.nets or ("net6b",)
  rows = {
    "train": ("epoch", "train", BATCH),
    "evaluate": ("evaluate", "infer", EVAL_BATCH),
  }
  for net, share in affordable(nets, budget, table, seconds=30):
    for row, (real, fixed, batch) in rows.items():
      task = {"net": net, "dtype": options.dtype}
      names = dict.fromkeys(("trainer", "one batch"), "ours")
      with started(names, table.note) as workers:
        jobs = {
          "trainer": Job(workers["trainer"], real, {**task, "data": options.data}),
          "one batch": Job(workers["one batch"], fixed, {**task, "batch": batch}),
        }
        result = compare(jobs, budget, share / 2, keep=names)
      cells = [result.figure(name, images_per_second(batch)) for name in names]
      bound = BOUND if row == "train" else None
      verdict = result.verdict("trainer", "one batch", bound)
      table.rows.append([net, row, *cells, *verdict, *([] if bound else [""])])
      data = result.facts.get("trainer", {}).get("data", "none")
      table.note(f"images: {data}", *(f"{net} {row}: {n}" for n in result.notes))
  return [table]
