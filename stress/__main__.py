"""Kills, damages and starves small training runs and reports what was lost.

Prints a Markdown table with one row per experiment. For example:

make stress KILLS=20 ONLY=kills,damage OUTPUT=stress.md
"""

import argparse
import os
import pathlib
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

from cifar_flax import tables
from cifar_flax.run import signals
from stress import devices, files, processes, stops, untrusted
from stress.lab import Lab, Row

EXPERIMENTS: dict[str, Callable[[Lab], list[Row]]] = {
  "signals": stops.signals,
  "groups": stops.groups,
  "interruptions": stops.interruptions,
  "damage": files.damage,
  "full_disk": files.full_disk,
  "small_disk": files.small_disk,
  "no_quota": files.no_quota,
  "two_writers": files.two_writers,
  "another_config": files.another_config,
  "divergence": stops.divergence,
  "same_seed": devices.same_seed,
  "numbers_of_devices": devices.numbers_of_devices,
  "restored_on_others": devices.restored_on_others,
  "exact_evaluation": devices.exact_evaluation,
  "untrusted": untrusted.untrusted,
  "two_processes": processes.two_processes,
}


def main() -> int:
  """Runs the chosen experiments; returns 1 if one of them failed, else 0."""
  parser = argparse.ArgumentParser(prog="python -m stress", description=__doc__)
  parser.add_argument(
    "--kills",
    type=int,
    default=20,
    help="minimum number of SIGKILLs in `kills`, even (default: %(default)s)",
  )
  names = ["kills", *EXPERIMENTS]
  parser.add_argument(
    "--only",
    default=",".join(names),
    help="experiments to run, separated by commas (default: all)",
  )
  parser.add_argument("--output", help="Markdown file to which the table is written")
  flags = parser.parse_args()
  chosen = flags.only.split(",")
  if unknown := set(chosen) - set(names):
    parser.error(
      f"--only={flags.only}: no experiment is called {', '.join(sorted(unknown))}; "
      f"choose from {', '.join(names)}"
    )
  for number in signals.SIGNALS:  # started by `nohup` or with `&`, it ignores some
    if signal.getsignal(number) == signal.SIG_IGN:
      signal.signal(number, signal.SIG_DFL)
  experiments = EXPERIMENTS | {"kills": lambda lab: stops.kills(lab, flags.kills)}
  lines = [*_header(), *tables.markdown(("experiment", "times", "result", "passed"))]
  print("\n".join(lines), flush=True)
  failed = 0
  with tempfile.TemporaryDirectory(prefix="stress") as folder:
    lab = Lab(pathlib.Path(folder))
    for name in chosen:
      for row in experiments[name](lab):
        found, verdict = row.found.replace(folder, ""), "yes" if row.passed else "NO"
        cells = (row.what, str(row.times), found, verdict)
        lines.append(tables.markdown_row(cells))
        failed += not row.passed
        print(lines[-1], flush=True)
        if flags.output:
          pathlib.Path(flags.output).write_text("\n".join(lines) + "\n")
  return 1 if failed else 0


def _header() -> list[str]:
  from cifar_flax.run import provenance

  versions = provenance.versions()
  known = ", ".join(f"{name} {versions[name]}" for name in ("python", "jax", "flax"))
  when = time.strftime("%Y-%m-%d", time.gmtime())
  return [f"{when}, {os.cpu_count()} cores ({platform.machine()}), {known}", ""]


if __name__ == "__main__":
  sys.exit(main())
