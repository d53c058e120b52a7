"""Malformed command lines, configs and data: the tests' own, as a user meets them."""

import re
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


# Which tests refuse data: words in their names.
_DATA = "refused or without_network or told_at_once or given_up"


def data(lab: Lab) -> list[Row]:
  """Absent, offline, miscounted, out of range, cut off, CIFAR-100 for CIFAR-10."""
  command = [sys.executable, "-m", "pytest", "-q", "tests/data", "-k", _DATA]
  environment = lab.environment | {"XLA_FLAGS": ""}
  done = subprocess.run(
    command, cwd=ROOT, env=environment, capture_output=True, text=True
  )
  last = done.stdout.strip().splitlines()[-1]
  passed = re.search(r"(\d+) passed", last)
  text = "a line each" if done.returncode == 0 else last
  number = int(passed[1]) if passed else 0
  return [Row("bad data", number, text, done.returncode == 0 and number > 0)]
