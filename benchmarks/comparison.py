"""Workers doing the same in turns, within a time."""

import dataclasses
import random
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from benchmarks.statistics import MIN_WINDOWS, Bound, median, median_interval
from benchmarks.workers import Absent, Worker

MIN_STEPS = 10  # of a window
MIN_SECONDS = 1.0  # of a window, of the fastest
MAX_WINDOWS = 12
SLOW = 1.5  # times the fastest peer's seconds: cannot be the best one
HOPELESS = 4.0  # times the fastest's
IDLE_SHARE = 0.02  # of one core, that a waiting process may use without being named
STAR = f"* fewer than {MIN_WINDOWS} windows"
VERDICT_COLUMNS = ("ratio [95 %]", "windows", "verdict")


class Budget:
  """Seconds that are left of those that were given."""

  def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
    self._clock, self._end = clock, clock() + seconds

  def left(self) -> float:
    """Seconds, at least 0."""
    return max(self._end - self._clock(), 0.0)


@dataclasses.dataclass
class Comparison:
  """What came out.

  Attributes:
    seconds: a step, for each worker that ran, one value a window.
    facts: what each worker answered to `prepare`.
    notes: lines: who is absent, what was left out, who did not keep still.
  """

  seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
  facts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)

  def median(self, name: str) -> float:
    """Seconds a step."""
    return median(self.seconds[name])

  def best(self, names: Collection[str]) -> str | None:
    """The fastest of `names` that ran."""
    return min((n for n in self.seconds if n in names), key=self.median, default=None)

  def figure(self, name: str, scale: Callable[[float], str]) -> str:
    """A cell: `scale` of the median seconds a step; "*" if windows are too few."""
    if name not in self.seconds:
      return "-"
    star = "*" if len(self.seconds[name]) < MIN_WINDOWS else ""
    return scale(self.median(name)) + star

  def ratios(self, numerator: str | None, denominator: str | None) -> list[float]:
    """Seconds of one over those of the other, window by window."""
    pairs = zip(
      self.seconds.get(numerator or "", []),
      self.seconds.get(denominator or "", []),
      strict=False,
    )
    return [a / b for a, b in pairs]


def verdict(ratios: list[float], bound: Bound) -> list[str]:
  """Three cells: the median ratio with its interval, windows, and what it reaches."""
  if not ratios:
    return ["-", "0", bound.verdict(None)]
  interval = median_interval(ratios)
  shown = f"{median(ratios):.2f} [-]"
  if interval:
    shown = f"{interval.median:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
  return [shown, str(len(ratios)), bound.verdict(interval)]


def compare(
  workers: Mapping[str, Worker],
  what: str,
  task: dict[str, Any],
  budget: Budget,
  share: float = 1.0,
  keep: Collection[str] = ("ours",),
) -> Comparison:
  """Prepares each worker, then lets them run windows in turns, in shuffled order.

  A window is as many steps for all: at least `MIN_STEPS`, and a second of the
  fastest. After the first, those that cannot be the best are let go if time is
  short; the others make `MIN_WINDOWS` if that fits into the budget, and more if it
  fits into the share.

  Args:
    workers: by name.
    what: method of `Peer` that each is asked for.
    task: its arguments.
    budget: of the table.
    share: of what is left in it, that should suffice.
    keep: workers that are never let go.
  """
  fair = Budget(budget.left() * share)
  result = Comparison()
  for name, worker in workers.items():
    try:
      result.facts[name] = worker.prepare(budget.left(), what, **task)
    except Absent as reason:
      result.notes.append(str(reason))
  steps = _window_steps(result.facts)
  running = {name: steps * fact["seconds"] for name, fact in result.facts.items()}
  for name in _hopeless(running, fair.left(), keep):
    seconds = running.pop(name) / steps
    result.notes.append(f"{name}: about {seconds:.3g} s a step, too slow for a window")
  idle: dict[str, float] = {}
  for window in range(MAX_WINDOWS):
    if window == 1:
      running = _kept(running, fair.left(), keep)
    enough = window >= MIN_WINDOWS
    missing = MIN_WINDOWS - window if 0 < window < MIN_WINDOWS else 1
    needed = missing * sum(running.values())
    left = (fair if enough else budget).left()
    if not running or needed > left:
      if not enough:
        result.notes.append(
          f"{missing} windows left out: they take {needed:.0f} s, {left:.0f} s are left"
        )
      break
    names = list(running)
    random.Random(window).shuffle(names)
    for name in names:
      try:
        running[name] = _run_window(workers, name, steps, idle)
        result.seconds.setdefault(name, []).append(running[name] / steps)
      except Absent as reason:
        result.notes.append(str(reason))
        del running[name]
  result.notes.extend(
    f"{name} used {used:.0%} of a core while others ran"
    for name, used in idle.items()
    if used > IDLE_SHARE
  )
  return result


def _window_steps(facts: dict[str, dict[str, Any]]) -> int:
  fastest = min((fact["seconds"] for fact in facts.values()), default=1.0)
  multiple = max((fact["multiple"] for fact in facts.values()), default=1)
  steps = max(MIN_STEPS, int(MIN_SECONDS / fastest))
  return -(-steps // multiple) * multiple


def _hopeless(cost: dict[str, float], limit: float, keep: Collection[str]) -> list[str]:
  """Those not worth a single window: far behind, and it takes half of the time."""
  fastest = min(cost.values(), default=0.0)
  far = [name for name in cost if cost[name] > HOPELESS * fastest and name not in keep]
  return [name for name in far if cost[name] > limit / 2]


def _kept(
  cost: dict[str, float], limit: float, keep: Collection[str]
) -> dict[str, float]:
  """Those whose windows fit into `limit`, slow ones taken out until they do."""
  kept = dict(cost)
  fastest = min((cost[name] for name in cost if name not in keep), default=0.0)
  for name in sorted(cost, key=lambda name: -cost[name]):
    fits = (MIN_WINDOWS - 1) * sum(kept.values()) <= limit
    if not fits and name not in keep and cost[name] > SLOW * fastest:
      del kept[name]
  return kept


def _run_window(
  workers: Mapping[str, Worker], name: str, steps: int, idle: dict[str, float]
) -> float:
  """Seconds of a window; `idle` takes the largest share of a core others used."""
  others = [other for other in workers if other != name]
  before = [workers[other].cpu_seconds() for other in others]
  seconds = workers[name].run(steps)
  for other, used in zip(others, before, strict=True):
    share = (workers[other].cpu_seconds() - used) / seconds
    idle[other] = max(idle.get(other, 0.0), share)
  return seconds
