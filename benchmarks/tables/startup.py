"""Table 4: from the command to the first step, with and without its caches."""

import os
import subprocess
import sys
import tempfile
import time

from benchmarks.comparison import Budget, affordable
from benchmarks.peers import ROOT, data_options
from benchmarks.statistics import Bound, median, median_interval
from benchmarks.tables import Options
from cifar_flax.tables import Table

BOUND = Bound(10.0, 5.0, at_most=True)
WARM_STARTS = 7
SIGN = "first step"  # of the line that says that it is made


def make(options: Options, budget: Budget) -> list[Table]:
  """One start with empty caches, then several with what it left in them."""
  table = Table(
    f"4. Seconds from the command to the first step, {options.dtype}",
    ["network", "caches empty", "filled [95 %]", "starts", "verdict"],
    notes=["the caches: of compiled programs, and of decoded images"],
  )
  nets = options.nets or ("net6b",)
  for net, share in affordable(nets, budget, table, seconds=60):
    fair = budget.part(share)
    with tempfile.TemporaryDirectory() as folder:
      try:
        cold, warm = _start(net, options, folder), [_start(net, options, folder)]
        while len(warm) < WARM_STARTS and fair.left() > warm[-1]:
          warm.append(_start(net, options, folder))
      except RuntimeError as error:
        table.note(f"{net}: {error}")
        continue
    interval = median_interval(warm)
    shown = f"[{interval.low:.1f}, {interval.high:.1f}]" if interval else "[-]"
    cells = [f"{cold:.1f}", f"{median(warm):.1f} {shown}", str(len(warm))]
    table.rows.append([net, *cells, BOUND.verdict(interval)])
  return [table]


def _start(net: str, options: Options, folder: str) -> float:
  """Seconds until a run with its caches in `folder` has made a step, and no more.

  Raises:
    RuntimeError: it made none; the last line it wrote.
  """
  command = [sys.executable, "-m", "cifar_flax.main", "--config", f"configs/{net}.py"]
  values = {"model.dtype": options.dtype, **data_options(options.data)}
  command += [f"--config.{key}={value}" for key, value in values.items()]
  caches = {"XDG_CACHE_HOME": folder, "JAX_COMPILATION_CACHE_DIR": f"{folder}/programs"}
  with tempfile.TemporaryDirectory() as workdir:
    command += ["--workdir", workdir]
    begun, line = time.perf_counter(), "nothing"
    process = subprocess.Popen(
      command, cwd=ROOT, env=os.environ | caches, stderr=subprocess.PIPE, text=True
    )
    with process:
      assert process.stderr
      for line in process.stderr:
        if line.startswith(SIGN):
          seconds = time.perf_counter() - begun
          process.kill()
          return seconds
  raise RuntimeError(f"has made no step; it wrote last: {line.strip()}")
