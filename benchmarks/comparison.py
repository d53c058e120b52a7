"""Jobs done in turns by workers, within a time."""

import dataclasses
import math
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.statistics import MIN_WINDOWS, Bound, median, median_interval
from benchmarks.workers import Absent, Worker
from cifar_flax.tables import Table

MIN_STEPS = 10  # of a window
MAX_WINDOWS = 12
MIN_TIMEOUT = 60.0  # seconds to prepare a job; a worker that takes longer is ended
SLOW = 1.5  # times the fastest peer's seconds: cannot be the best one
HOPELESS = 4.0  # times the fastest's: not worth half of the time for a window
IDLE_SHARE = 0.02  # of one core, that a waiting process may use without being named
SETTLE_SECONDS = 0.05  # after a window: some threads wait a little before they sleep
SIGNS = f"* fewer than {MIN_WINDOWS} windows; ~ from the warm-up alone; - not at all"


class Budget:
  """Seconds that are left of those that were given."""

  def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
    self._clock, self._end = clock, clock() + seconds

  def left(self) -> float:
    """Seconds, at least 0."""
    return max(self._end - self._clock(), 0.0)

  def part(self, share: float) -> "Budget":
    """A share of what is left."""
    return Budget(self.left() * share, self._clock)


def affordable(
  rows: Sequence[str], budget: Budget, table: Table, seconds: float
) -> Iterator[tuple[str, float]]:
  """Rows, while `seconds` are left, each with its fair share of what is left.

  Those that there is no time for are named in a note of the table.
  """
  for i, row in enumerate(rows):
    if budget.left() < seconds:
      table.note("left out for want of time: " + "; ".join(rows[i:]))
      return
    yield row, 1 / (len(rows) - i)


class Job(NamedTuple):
  """What a worker is to do: a method of its `Peer`, and the arguments."""

  worker: Worker
  what: str
  arguments: dict[str, Any]


@dataclasses.dataclass
class Comparison:
  """What came out.

  Attributes:
    seconds: a step, for each job that ran, one value a window.
    facts: what each worker answered to `prepare`.
    idle: the largest share of a core that each used while another ran.
    notes: lines: who is absent, what was left out, who did not keep still.
  """

  seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
  facts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
  idle: dict[str, float] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)

  def best(self, names: Collection[str]) -> str | None:
    """The fastest of `names` that ran."""
    found = [name for name in self.seconds if name in names]
    return min(found, key=lambda name: median(self.seconds[name]), default=None)

  def cells(self, names: Collection[str], show: Callable[[float], str]) -> list[str]:
    """The median seconds a step of each name, shown, with the signs of `SIGNS`."""
    found = []
    for name in names:
      if name in self.seconds:
        star = "*" if len(self.seconds[name]) < MIN_WINDOWS else ""
        found.append(show(median(self.seconds[name])) + star)
      else:
        guess = self.facts.get(name)
        found.append("~" + show(guess["seconds"]) if guess else "-")
    return found

  def rates(self, names: Collection[str], batch: int) -> list[str]:
    """`cells` in images/s."""
    return self.cells(names, lambda seconds: f"{batch / seconds:,.0f}")

  def verdict(
    self, numerator: str | None, denominator: str | None, bound: Bound | None = None
  ) -> list[str]:
    """Cells: the median ratio of seconds with its interval; windows; the verdict.

    Ratios are taken window by window.
    """
    windows = [self.seconds.get(name or "", []) for name in (numerator, denominator)]
    ratios = [a / b for a, b in zip(*windows, strict=False)]
    interval = median_interval(ratios)
    shown = f"{median(ratios):.2f} [-]" if ratios else "-"
    if interval:
      shown = f"{interval.median:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
    return [shown, str(len(ratios)), *([bound.verdict(interval)] if bound else [])]


def new_table(title: str, columns: Sequence[str], verdict: bool = True) -> Table:
  """A table of comparisons: after `columns`, those that `Comparison.verdict` fills."""
  verdicts = ["ratio [95 %]", "windows", *(["verdict"] if verdict else [])]
  return Table(title, [*columns, *verdicts], notes=[SIGNS])


def compare_peers(
  workers: Mapping[str, Worker],
  what: str,
  task: dict[str, Any],
  budget: Budget,
  share: float,
  window_seconds: float = 1.0,
) -> Comparison:
  """`compare`, all of them with the same task."""
  jobs = {name: Job(worker, what, task) for name, worker in workers.items()}
  return compare(jobs, budget, share, window_seconds)


def compare(
  jobs: Mapping[str, Job],
  budget: Budget,
  share: float = 1.0,
  window_seconds: float = 1.0,
  keep: Collection[str] = ("ours",),
) -> Comparison:
  """Prepares each job, then runs windows of them in turns, in shuffled order.

  A window is as many steps for all: at least `MIN_STEPS`. After the first, those that
  cannot be the best are let go if time is short; the others make `MIN_WINDOWS` if
  that fits into the budget, and more if it fits into the share.

  Args:
    jobs: by name.
    budget: of the table.
    share: of what is left in it, that should suffice.
    window_seconds: at least, of the fastest.
    keep: jobs that are never let go.
  """
  fair, result = budget.part(share), Comparison()
  if not budget.left():
    result.notes.append("left out for want of time")
    return result
  _prepare(jobs, budget, result)
  steps = _window_steps(result.facts, window_seconds)
  cost = {name: steps * fact["seconds"] for name, fact in result.facts.items()}
  for name in _hopeless(cost, fair.left(), keep):
    del cost[name]
  for window in range(MAX_WINDOWS):
    if window == 1:
      cost = _kept(cost, fair.left(), keep)
    enough = window >= MIN_WINDOWS
    missing = MIN_WINDOWS - window if 0 < window < MIN_WINDOWS else 1
    needed, left = missing * sum(cost.values()), (fair if enough else budget).left()
    if not cost or needed > left:
      if cost and not enough:
        result.notes.append(
          f"stopped after {window} windows: the rest takes {needed:.0f} s, "
          f"{left:.0f} s are left"
        )
      break
    for name in random.Random(window).sample(sorted(cost), len(cost)):
      cost = _run_window(jobs, name, steps, cost, result)
  for name, used in result.idle.items():
    if used > IDLE_SHARE:
      result.notes.append(f"{name} used {used:.0%} of a core while others ran")
  return result


def _prepare(jobs: Mapping[str, Job], budget: Budget, result: Comparison) -> None:
  for name, job in jobs.items():
    timeout = max(budget.left(), MIN_TIMEOUT)
    try:
      result.facts[name] = job.worker.prepare(timeout, job.what, **job.arguments)
    except Absent as reason:
      result.notes.append(str(reason))


def _window_steps(facts: dict[str, dict[str, Any]], seconds: float) -> int:
  fastest = min((fact["seconds"] for fact in facts.values()), default=1.0)
  multiple = math.lcm(*(fact["multiple"] for fact in facts.values()))
  steps = max(MIN_STEPS, int(seconds / fastest))
  return -(-steps // multiple) * multiple


def _hopeless(cost: dict[str, float], limit: float, keep: Collection[str]) -> list[str]:
  """Those far behind, of which one window would take half of the time."""
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
  jobs: Mapping[str, Job],
  name: str,
  steps: int,
  cost: dict[str, float],
  result: Comparison,
) -> dict[str, float]:
  """One window of one job; returns `cost` with its seconds, or without it."""
  time.sleep(SETTLE_SECONDS)
  others = [other for other in jobs if other != name]
  before = [jobs[other].worker.cpu_seconds() for other in others]
  try:
    seconds = jobs[name].worker.run(steps)
  except Absent as reason:
    result.notes.append(str(reason))
    return {other: cost[other] for other in cost if other != name}
  for other, used in zip(others, before, strict=True):
    share = (jobs[other].worker.cpu_seconds() - used) / seconds
    result.idle[other] = max(result.idle.get(other, 0.0), share)
  result.seconds.setdefault(name, []).append(seconds / steps)
  return cost | {name: seconds}
