"""Compares workers: each runs the same number of windows, in turns.

A window is a number of steps that is timed as a whole. The workers take turns in an
order that is shuffled for each window, so that a change of the machine's speed affects
all of them alike.
"""

import dataclasses
import math
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import statistics
from benchmarks.workers import Absent, Worker
from cifar_flax.tables import Table

IDLE_SHARE = 0.02  # of one core: a waiting worker that uses more is named in a note
SETTLE_SECONDS = 0.05  # before a window: threads of the last worker spin for a while
NOTE = f"-: not measured; the interval needs {statistics.MIN_WINDOWS} windows"


class Measurement(NamedTuple):
  """What a worker measures: a method of its `Peer`, and the method's arguments."""

  worker: Worker
  method: str
  arguments: dict[str, Any]


@dataclasses.dataclass
class Comparison:
  """The results of several measurements.

  Attributes:
    seconds: per step, one value for each window, of the measurements that succeeded.
    facts: what `Worker.prepare` returned.
    idle: the largest share of a core that each worker used while another one ran.
    notes: lines on workers that failed, or that were busy while another one ran.
  """

  seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
  facts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
  idle: dict[str, float] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)

  def best(self, names: Collection[str]) -> str | None:
    """Returns the fastest of `names`, or None if none was measured."""
    measured = [name for name in self.seconds if name in names]
    return min(
      measured, key=lambda name: statistics.median(self.seconds[name]), default=None
    )

  def cells(self, names: Collection[str], show: Callable[[float], str]) -> list[str]:
    """Returns a cell for each name: `show` of its median seconds per step, or "-"."""
    return [
      show(statistics.median(self.seconds[name])) if name in self.seconds else "-"
      for name in names
    ]

  def rates(self, names: Collection[str], batch: int) -> list[str]:
    """Returns a cell for each name: its median images/s, or "-"."""
    return self.cells(names, lambda seconds: f"{batch / seconds:,.0f}")

  def speedup(self, name: str, over: str | None) -> list[str]:
    """Returns two cells: how many times as fast `name` is as `over`; the windows.

    A ratio is taken in each window; the cell shows their median and its interval.
    """
    if name not in self.seconds or over not in self.seconds:
      return ["-", "0"]
    windows = zip(self.seconds[name], self.seconds[over], strict=True)
    ratios = [theirs / ours for ours, theirs in windows]
    return [statistics.show(ratios, digits=2), str(len(ratios))]


def new_table(title: str, columns: Sequence[str]) -> Table:
  """Makes a table of comparisons; `Comparison.speedup` fills its last two columns."""
  return Table(title, [*columns, "ratio [95 %]", "windows"], notes=[NOTE])


def compare_peers(
  workers: Mapping[str, Worker],
  method: str,
  arguments: dict[str, Any],
  windows: int,
  window_seconds: float = 1.0,
) -> Comparison:
  """Compares workers that all do the same, as `compare` does."""
  measurements = {
    name: Measurement(worker, method, arguments) for name, worker in workers.items()
  }
  return compare(measurements, windows, window_seconds)


def compare(
  measurements: Mapping[str, Measurement], windows: int, window_seconds: float = 1.0
) -> Comparison:
  """Prepares all measurements, then runs `windows` windows of each, in turns.

  A measurement that fails or times out is left out and named in a note.

  Args:
    measurements: by name.
    windows: of each measurement.
    window_seconds: least length of a window of the fastest; all make as many steps.
  """
  result = Comparison()
  for name, (worker, method, arguments) in measurements.items():
    try:
      result.facts[name] = worker.prepare(method, arguments)
      result.seconds[name] = []
    except Absent as reason:
      result.notes.append(str(reason))
  steps = _window_steps(result.facts.values(), window_seconds)
  for window in range(windows):
    names = sorted(result.seconds)
    for name in random.Random(window).sample(names, len(names)):
      try:
        seconds = _run_window(measurements, name, steps, result.idle)
        result.seconds[name].append(seconds / steps)
      except Absent as reason:
        result.notes.append(str(reason))
        del result.seconds[name]
  for name, share in result.idle.items():
    if share > IDLE_SHARE:
      result.notes.append(f"{name} used {share:.0%} of a core while another one ran")
  return result


def _window_steps(facts: Collection[dict[str, Any]], seconds: float) -> int:
  """Returns the steps that take the fastest `seconds`, a multiple of what all need."""
  fastest = min((fact["seconds"] for fact in facts), default=1.0)
  multiple = math.lcm(*(fact["multiple"] for fact in facts))
  return math.ceil(seconds / fastest / multiple) * multiple


def _run_window(
  measurements: Mapping[str, Measurement],
  name: str,
  steps: int,
  idle: dict[str, float],
) -> float:
  """Returns the seconds of a window; updates `idle` for the workers that wait."""
  time.sleep(SETTLE_SECONDS)
  waiting = {other: m.worker for other, m in measurements.items() if other != name}
  before = {other: worker.cpu_seconds() for other, worker in waiting.items()}
  seconds = measurements[name].worker.run(steps)
  for other, worker in waiting.items():
    share = (worker.cpu_seconds() - before[other]) / seconds
    idle[other] = max(idle.get(other, 0.0), share)
  return seconds
