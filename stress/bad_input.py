"""Malformed command lines, configs and data: the tests' own, as a user meets them."""

import subprocess
import sys
import time

from stress.lab import ROOT, Lab, Row

_REFUSED = 2
_PROGRAM = """
import sys
from cifar_flax import main
code = main.main(sys.argv[1:])
sys.exit(99 if "jax" in sys.modules else code)
"""


def command_lines(lab: Lab) -> list[Row]:
  """A process each: how long it takes, and whether JAX was imported."""
  sys.path.insert(0, str(ROOT / "tests"))
  import test_main as examples

  folder = lab.new("malformed")
  folder.mkdir()
  examples.write_files(folder)
  problems, slowest = [], 0.0
  for argv, *fragments in examples.MISTAKES:
    arguments = [argument.replace("{tmp}", str(folder)) for argument in argv]
    began = time.monotonic()
    code, error = lab.finish([sys.executable, "-c", _PROGRAM, *arguments])
    slowest = max(slowest, time.monotonic() - began)
    lines = error.strip().splitlines()
    good = code == _REFUSED and len(lines) == 1 and lines[0].startswith("error: ")
    if not good or not all(fragment in error for fragment in fragments):
      problems.append(f"{' '.join(argv)}: exit code {code}: {error[-200:]}")
  text = problems[0] if problems else "a line each, exit code 2, JAX not imported"
  text += f"; the slowest after {slowest:.1f} s"
  good = not problems and slowest < 2
  return [
    Row("malformed command lines and configs", len(examples.MISTAKES), text, good)
  ]


DATA = {
  "absent": "test_absent_archive_is_refused",
  "offline": "test_without_network_three_ways_out",
  "another count than described": "test_other_counts_than_described_are_refused",
  "labels, shapes, types": "test_examples_other_than_described_are_refused",
  "damaged or cut off": "test_damaged_records_are_refused",
  "CIFAR-100 for CIFAR-10": "test_cifar100_under_cifar10s_name_is_refused",
}


def data(lab: Lab) -> list[Row]:
  """What the tests of the data refuse, a row for each kind."""
  command = [sys.executable, "-m", "pytest", "-v", "tests/data"]
  command += ["-k", " or ".join(DATA.values())]
  environment = lab.environment | {"XLA_FLAGS": ""}
  done = subprocess.run(
    command, cwd=ROOT, env=environment, capture_output=True, text=True
  )
  rows = []
  for what, name in DATA.items():
    results = [line for line in done.stdout.splitlines() if f"::{name}" in line]
    passed = sum(" PASSED" in line for line in results)
    good = done.returncode == 0 and 0 < passed == len(results)
    text = "a line each" if good else f"{passed} of {len(results)} as they must be"
    rows.append(Row(f"data: {what}", passed, text, good))
  return rows
