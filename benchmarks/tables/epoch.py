"""Table 3: a real epoch with augmentation beside as many steps on one batch."""

from benchmarks.comparison import Budget, Job, affordable, compare, new_table
from benchmarks.peers import BATCH
from benchmarks.statistics import Bound
from benchmarks.tables import Options
from benchmarks.workers import started
from cifar_flax.tables import Table

BOUND = Bound(1.05, 1.02, at_most=True)
EVAL_BATCH = 512  # `eval_batch_size` of the configs


def make(options: Options, budget: Budget) -> list[Table]:
  """Training and evaluation of each network."""
  names = ("trainer", "one batch")
  table = new_table(
    f"3. Images/s of the trainer on real images, {options.dtype}; ratio of the seconds",
    ["network", "", *names],
  )
  rows = {"train": ("epoch", "train", BATCH), "eval": ("evaluate", "infer", EVAL_BATCH)}
  nets = options.nets or ("net6b",)
  for net, share in affordable(nets, budget, table, seconds=30):
    for row, (real, fixed, batch) in rows.items():
      task = {"net": net, "dtype": options.dtype}
      with started(dict.fromkeys(names, "ours"), table.note) as workers:
        if len(workers) < len(names):
          continue
        jobs = {
          "trainer": Job(workers["trainer"], real, {**task, "data": options.data}),
          "one batch": Job(workers["one batch"], fixed, {**task, "batch": batch}),
        }
        result = compare(jobs, budget, share / 2, keep=names)
      verdict = result.verdict(
        "trainer", "one batch", BOUND if row == "train" else None
      )
      cells = [*result.rates(names, batch), *verdict]
      table.rows.append([net, row, *cells, *(["no bound"] if row == "eval" else [])])
      table.note(*result.notes, row=f"{net} {row}")
      if data := result.facts.get("trainer", {}).get("data"):
        table.note(f"images: {data}")
  return [table]
