"""Profiles a training step on a CPU: what of its time is not spent in convolutions?

python -m benchmarks.passes net6b net6a

An operation that neither convolves nor multiplies matrices is a pass over memory. Leave
the machine alone while it runs.
"""

import collections
import math
import pathlib
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from benchmarks.peers import BATCH
from benchmarks.training_steps import TrainingSteps
from cifar_flax.tables import Cell, Table

STEPS, WINDOWS = 6, 5
LEAST = 0.1  # ms per step of an operation that is counted
CONTROL = ("while", "call", "conditional", "tuple", "parameter", "get-tuple-element")


class Operation(NamedTuple):
  """An instruction of the compiled program.

  Attributes:
    kind: "convolution", "product", "control" or "pass".
    megabytes: that it writes, each time.
  """

  kind: str
  megabytes: float


def operations(text: str) -> dict[str, Operation]:
  """Returns the instructions of a compiled program, by name.

  Args:
    text: of the optimized HLO module.
  """
  lines, computation = text.splitlines(), ""
  bodies: dict[str, str] = collections.defaultdict(str)
  for line in lines:
    if start := re.match(r"(?:ENTRY )?%([\w.\-]+) \(", line):
      computation = start[1]
    bodies[computation] += line
  pattern = r"\s+(?:ROOT )?%([\w.\-]+) = (.*?)\s([\w\-]+)\("
  found = {}
  for line in lines:
    if instruction := re.match(pattern, line):
      name, shape, opcode = instruction.groups()
      called = re.search(r"calls=%([\w.\-]+)", line)
      kind = _kind(opcode, bodies[called[1]] if called else "")
      found[name] = Operation(kind, _megabytes(shape))
  return found


def _kind(opcode: str, body: str) -> str:
  if opcode in CONTROL:
    return "control"
  if opcode == "convolution":
    return opcode
  return "product" if opcode == "dot" or " dot(" in body else "pass"


def _megabytes(shape: str) -> float:
  sizes = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f64": 8, "s64": 8, "u64": 8}
  arrays = re.findall(r"(\w+)\[([\d,]*)\]", shape)
  return sum(
    sizes.get(kind, 4) * math.prod(int(n) for n in sides.split(",") if n) / 1e6
    for kind, sides in arrays
  )


def milliseconds(run: Callable[[], Any]) -> dict[str, tuple[float, float]]:
  """Returns for each operation of a run: how often a step makes it, and its ms."""
  totals: dict[str, tuple[float, float]] = collections.defaultdict(lambda: (0.0, 0.0))
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      run()
    (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
    for event in _events(jax.profiler.ProfileData.from_file(str(path))):
      number, duration = totals[event.name]
      totals[event.name] = (
        number + 1 / STEPS,
        duration + event.duration_ns / 1e6 / STEPS,
      )
  return totals


def _events(profile: Any) -> Iterator[Any]:
  for plane in profile.planes:
    for line in plane.lines:
      yield from line.events


def _seconds(run: Callable[[], None]) -> float:
  started = time.perf_counter()
  run()
  return time.perf_counter() - started


def rows(net: str) -> Iterator[list[Cell]]:
  """Yields a row for each part of a step: operations, MB written, ms, share."""
  run = TrainingSteps(net, STEPS)
  run()
  step = 1e3 * statistics.median(_seconds(run) for _ in range(WINDOWS)) / STEPS
  known, left = operations(run.text()), step
  parts: dict[str, list[tuple[float, float]]] = {"product": [], "pass": []}
  for name, (number, duration) in milliseconds(run).items():
    operation = known.get(name)
    if operation and operation.kind in parts and duration >= LEAST:
      parts[operation.kind].append((number * operation.megabytes, duration))
  for kind, counted in parts.items():
    written, duration = (sum(column) for column in zip(*counted, strict=True))
    left -= duration
    cells = f"{len(counted)}", f"{written:,.0f}", f"{duration:.0f}"
    yield [net, kind, *cells, f"{duration / step:.0%}"]
  yield [
    net,
    "convolutions and the rest",
    "-",
    "-",
    f"{left:.0f}",
    f"{left / step:.0%}",
  ]
  yield [net, "step", "-", "-", f"{step:.0f}", "100%"]


def main(nets: list[str]) -> None:
  """Prints the table."""
  title = f"A training step, batch {BATCH}, float32"
  table = Table(title, ["network", "part", "operations", "MB written", "ms", "share"])
  table.rows = [row for net in nets for row in rows(net)]
  table.notes = [f"operations that take {LEAST} ms a step or more"]
  print(table.text())


if __name__ == "__main__":
  main(sys.argv[1:] or ["net6b", "net6a", "net6a_dense"])
