"""Decides when to save checkpoints: after epochs, within them, and on a signal."""

import logging
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from cifar_flax.config import Config
from cifar_flax.errors import Stopped
from cifar_flax.run import checkpoints, processes, signals


class Saver:
  """Saves the checkpoints of a run when they are due.

  Args:
    folder: the run's checkpoint directory.
    config: the run's config.
    snapshot: returns the checkpoint file's bytes for the current state of the run.
    stop: holds the signal that asked the run to stop, if there was one.
    writes: whether this process writes files; in a distributed run only one does.

  Raises:
    OSError: the directory cannot be created.
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
    if writes:  # an error comes before the first step, not after an epoch
      folder.mkdir(parents=True, exist_ok=True)
    self._last_save = -config.checkpoint.min_seconds
    self._last_step: int | None = None
    # The epochs before this one do not count for `best.ckpt`; None until it is known.
    self._first_counted: int | None = None

  def after_call(self, step: int) -> None:
    """Saves after a dispatch, as `checkpoint.every_steps` requires or on a signal.

    Args:
      step: number of updates made.

    Raises:
      Stopped: a signal asked the run to stop; its checkpoint has been saved.
    """
    self._stop.defer()  # from the first step on, exiting without saving loses work
    interval = self._config.checkpoint.every_steps
    if signal := processes.max_over_processes(self._stop.signal):
      self._save(step)
      raise Stopped(signal)
    if interval and step % interval == 0 and step != self._last_step:
      self._save(step)

  def after_epoch(self, history: Sequence[dict[str, Any]], step: int) -> None:
    """Saves after an epoch: `best.ckpt` if it is the best, and a checkpoint if due.

    A checkpoint is due after the last epoch, and otherwise `checkpoint.min_seconds`
    after the previous one.

    Args:
      history: the rows of all finished epochs, oldest first.
      step: number of updates made.
    """
    *before, row = history
    if not self._writes:
      return
    if self._first_counted is None:
      self._first_counted = self._epochs_without_best(before)
    best = max(map(_accuracy, before[self._first_counted :]), default=-1.0)
    improved = _accuracy(row) > best
    due = time.monotonic() - self._last_save >= self._config.checkpoint.min_seconds
    due = due or row["epoch"] == self._config.num_epochs
    if not (improved or due):
      return
    data = self._snapshot()
    if improved:
      checkpoints.save_best(self._folder, data)
    if due:
      self._save(step, data)

  def _epochs_without_best(self, history: Sequence[dict[str, Any]]) -> int:
    """Returns the number of epochs whose best checkpoint is lost, so 0 if it is intact.

    A damaged one is set aside, and the best of the following epochs replaces it.
    """
    best = self._folder / checkpoints.BEST
    if checkpoints.is_intact(best) or max(map(_accuracy, history), default=-1.0) < 0:
      return 0
    if best.exists():
      checkpoints.set_aside(best)
    logging.warning(
      "%s: is lost; the best of the epochs after %d will replace it", best, len(history)
    )
    return len(history)

  def _save(self, step: int, data: bytes | None = None) -> None:
    if self._writes:
      keep = self._config.checkpoint.keep
      checkpoints.save(self._folder, step, data or self._snapshot(), keep)
    self._last_save, self._last_step = time.monotonic(), step


def _accuracy(row: dict[str, Any]) -> float:
  """Returns the evaluation accuracy, or -1 for an epoch without an evaluation."""
  return -1.0 if row["eval_accuracy"] is None else row["eval_accuracy"]
