"""How long the rest of many runs will take, from the epochs that they have finished."""

import math
import statistics
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import tqdm

from cifar_flax.config import Model
from cifar_flax.errors import UserError
from cifar_flax.run import files

if TYPE_CHECKING:
  from cifar_flax.tools.jobs import Job

SECONDS_BETWEEN_CHECKS = 1.0


def seconds_left(
  jobs: "Sequence[Job]", left: "Sequence[Job]", at_once: int = 1
) -> float | None:
  """Returns how long the runs that are left will take, or None before any epoch.

  An epoch is taken to last as long as the median of those of its network, or of all
  networks if there is none yet.

  Args:
    jobs: all runs.
    left: those that are being trained or wait.
    at_once: number of runs trained at the same time.
  """
  measured = [
    (job.config.model, seconds) for job in jobs for seconds in _epoch_seconds(job)
  ]
  if not measured or not left:
    return None
  of_all = statistics.median(seconds for _, seconds in measured)

  def epoch(model: Model) -> float:
    own = [seconds for other, seconds in measured if other == model]
    return statistics.median(own) if own else of_all

  total = sum(
    (job.config.num_epochs - len(_epoch_seconds(job))) * epoch(job.config.model)
    for job in left
  )
  return total / min(at_once, len(left))


def _epoch_seconds(job: "Job") -> list[float]:
  """Returns how long each finished epoch of a run took."""
  file = job.workdir / "metrics.jsonl"
  try:
    return [float(row["seconds"]) for row in files.read_json_lines(file)]
  except (OSError, UserError, KeyError, TypeError, ValueError):  # not there, or damaged
    return []


class Forecast:
  """Prints about how long all runs will take: after the first epoch and each run.

  Args:
    jobs: all runs.
    at_once: number of runs trained at the same time.
    clock: seconds, rising.
  """

  def __init__(self, jobs: "Sequence[Job]", at_once: int = 1, clock=time.monotonic):
    self._jobs, self._at_once, self._clock = jobs, at_once, clock
    self._is_due, self._checked = True, -math.inf

  def renew(self) -> None:
    """Makes the next call of `say` print."""
    self._is_due, self._checked = True, -math.inf

  def say(self, left: "Sequence[Job]") -> None:
    """Prints how long the runs that are left take, if it is due and can be known."""
    if not self._is_due or self._clock() < self._checked + SECONDS_BETWEEN_CHECKS:
      return
    self._checked = self._clock()
    seconds = seconds_left(self._jobs, left, self._at_once)
    if seconds is not None:
      self._is_due = False
      erase = "\r\x1b[K" if sys.stdout.isatty() else ""  # the bar of a run
      runs = "1 run is" if len(left) == 1 else f"{len(left)} runs are"
      duration = tqdm.tqdm.format_interval(seconds)
      print(f"{erase}{runs} left, about {duration}", flush=True)
