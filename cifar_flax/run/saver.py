"""When a run is saved: at the ends of epochs, within them, and when asked to stop."""

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from cifar_flax.config import Config
from cifar_flax.errors import Stopped
from cifar_flax.run import checkpoints, processes, signals


class Saver:
  """Saves a run when it is time to.

  Args:
    folder: of its checkpoints.
    config: of the run.
    snapshot: returns the bytes of a checkpoint of the run as it is.
    stop: where a request to stop is found.
    writes: whether this process writes; the others compute the same.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    config: Config,
    snapshot: Callable[[], bytes],
    stop: signals.Watch,
    writes: bool,
  ):
    self._folder, self._config, self._snapshot = folder, config, snapshot
    self._stop, self._writes = stop, writes
    self._last_save = -config.checkpoint.min_seconds
    self._last_step: int | None = None

  def after_call(self, step: int) -> None:
    """Saves after a call to the devices, if `checkpoint.every_steps` or a signal says.

    Args:
      step: updates made.

    Raises:
      Stopped: a signal asked for it; everything is saved.
    """
    self._stop.defer()  # a step has been made: from now on there is something to lose
    interval = self._config.checkpoint.every_steps
    if signal := processes.agreed(self._stop.signal):
      self._save(step)
      raise Stopped(signal)
    if interval and step % interval == 0 and step != self._last_step:
      self._save(step)

  def after_epoch(self, history: Sequence[dict[str, Any]], step: int) -> None:
    """Saves after an epoch, if it is the best one so far or time to.

    Args:
      history: the rows of all epochs, this one's last.
      step: updates made.
    """
    *before, row = history
    improved = _accuracy(row) > max(map(_accuracy, before), default=-1.0)
    due = time.monotonic() - self._last_save >= self._config.checkpoint.min_seconds
    due = due or row["epoch"] == self._config.num_epochs
    if not self._writes or not (improved or due):
      return
    data = self._snapshot()
    if improved:
      checkpoints.save_best(self._folder, data)
    if due:
      self._save(step, data)

  def _save(self, step: int, data: bytes | None = None) -> None:
    if self._writes:
      keep = self._config.checkpoint.keep
      checkpoints.save(self._folder, step, data or self._snapshot(), keep)
    self._last_save, self._last_step = time.monotonic(), step


def _accuracy(row: dict[str, Any]) -> float:
  """Of the evaluation, or -1 for an epoch without one."""
  return -1.0 if row["eval_accuracy"] is None else row["eval_accuracy"]
