"""Profiles our steps on a CPU: what of their time is not spent in convolutions?

python -m benchmarks.passes --nets net6b --phases train,infer --types grouped

An operation that neither convolves nor multiplies matrices is a pass over memory. Leave
the machine alone while it runs.
"""

import argparse
import collections
import math
import pathlib
import re
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax

from benchmarks import networks
from benchmarks.peers import BATCH, Workload
from benchmarks.peers.ours import Ours
from cifar_flax.config import Model
from cifar_flax.data import batches
from cifar_flax.tables import Cell, Table

STEPS, WINDOWS = 6, 5
LEAST = 0.0003  # of a step's time: operations that take less are not counted
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


def milliseconds(work: Workload) -> dict[str, tuple[float, float]]:
  """Returns for each operation of a step: how often it is made, and its ms."""
  totals: dict[str, tuple[float, float]] = collections.defaultdict(lambda: (0.0, 0.0))
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      work.run(STEPS)
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


def _step_milliseconds(work: Workload) -> float:
  """Returns the median of `WINDOWS` windows."""
  found = []
  for _ in range(WINDOWS):
    started = time.perf_counter()
    work.run(STEPS)
    found.append(1e3 * (time.perf_counter() - started) / STEPS)
  return statistics.median(found)


def rows(name: str, work: Workload) -> Iterator[list[Cell]]:
  """Yields a row for each part of a step: operations, MB written, ms, share."""
  for _ in range(2):  # compiles, and finds how many steps a call has
    work.run(STEPS)
  step = _step_milliseconds(work)
  known, left = operations(work.text()), step
  parts: dict[str, list[tuple[float, float]]] = {"product": [], "pass": []}
  for operation_name, (number, duration) in milliseconds(work).items():
    operation = known.get(operation_name)
    if operation and operation.kind in parts and duration >= LEAST * step:
      parts[operation.kind].append((number * operation.megabytes, duration))
  for kind, counted in parts.items():
    written, duration = (
      sum(column) for column in zip(*counted, (0.0, 0.0), strict=True)
    )
    left -= duration
    cells = f"{len(counted)}", f"{written:,.0f}", f"{duration:.1f}"
    yield [name, kind, *cells, f"{duration / step:.0%}"]
  rest = "convolutions and the rest"
  yield [name, rest, "-", "-", f"{left:.1f}", f"{left / step:.0%}"]
  yield [name, "step", "-", "-", f"{step:.1f}", "100%"]


def main() -> None:
  """Prints a table of each phase, and of convolution types."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.passes",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  types = ",".join(networks.convolution_types(Model()))
  parser.add_argument("--nets", default=",".join(networks.LAYERS), help="(%(default)s)")
  parser.add_argument("--phases", default="train,infer", help="(%(default)s)")
  parser.add_argument("--types", default=types, help="(%(default)s)")
  flags = parser.parse_args()
  ours = Ours("fast")
  sizes = {"train": BATCH, "infer": batches.eval_batch_size(0, "cpu")}
  for phase in flags.phases.split(","):
    print_table(
      f"A step of {phase}, batch {sizes[phase]}, float32",
      (
        (net, getattr(ours, phase)(net, sizes[phase], "float32"))
        for net in flags.nets.split(",")
      ),
    )
  print_table(
    f"A convolution type with its BatchNorm and ReLU, forward and backward, batch "
    f"{BATCH}, float32",
    ((kind, ours.block(kind, BATCH, "float32")) for kind in flags.types.split(",")),
  )


def print_table(title: str, works: Iterable[tuple[str, Workload]]) -> None:
  """Profiles each workload; prints their rows."""
  table = Table(title, ["of", "part", "operations", "MB written", "ms", "share"])
  table.rows = [row for name, work in works for row in rows(name, work)]
  table.notes = [
    f"operations that take {LEAST:.2%} of a step or more; those that run at the same "
    "time are counted twice"
  ]
  print(table.text(), flush=True)


if __name__ == "__main__":
  main()
