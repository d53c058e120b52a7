"""Table 4: seconds from the command to the first step, with and without caches."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from benchmarks import statistics
from benchmarks.peers import ROOT, data_options
from benchmarks.tables import Options
from cifar_flax.tables import Table

SIGN = "first step"  # begins the line that a run writes after its first step


def make(options: Options) -> Iterator[Table]:
  """Measures one start with empty caches, then several with the caches it filled."""
  table = Table(
    f"4. Seconds from the command to the first step, {options.dtype}",
    ["network", "caches empty", "caches filled [95 %]", "starts"],
    notes=["the caches hold compiled programs and decoded images"],
  )
  for net in options.nets or ("net6b",):
    with tempfile.TemporaryDirectory() as folder:
      try:
        cold = _start(net, options, folder)
        warm = [_start(net, options, folder) for _ in range(options.windows)]
      except RuntimeError as error:
        table.note(f"{net}: {error}")
        continue
    shown = statistics.show(warm, digits=1)
    table.rows.append([net, f"{cold:.1f}", shown, str(len(warm))])
  yield table


def _start(net: str, options: Options, folder: str) -> float:
  """Starts a run with its caches in `folder`; ends it after its first step.

  Returns:
    The seconds from the command to the first step.

  Raises:
    RuntimeError: the run ended before its first step; names the last line it wrote.
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
  raise RuntimeError(f"the run ended before its first step: {line.strip()}")
