"""The interface of observers, which report on a run but cannot change it.

Their methods receive immutable descriptions of the run and return nothing.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cifar_flax.config import Config

if TYPE_CHECKING:
  import numpy as np


@dataclasses.dataclass(frozen=True)
class Run:
  """A run that is about to start or to be resumed.

  Attributes:
    config: its config.
    workdir: its run directory, which exists.
    history: the rows of the epochs before a resume; empty for a new run.
    steps_per_epoch: updates per epoch.
    parameters: number of parameters, including BatchNorm's moving averages.
    device: description of the hardware.
    data: which images it reads, as in `summary.json`.
    samples: returns a picture of original and augmented training images, uint8
      `[height, width, 3]`; takes about a second.
  """

  config: Config
  workdir: pathlib.Path
  history: tuple[dict[str, Any], ...]
  steps_per_epoch: int
  parameters: int
  device: str
  data: dict[str, Any]
  samples: "Callable[[], np.ndarray] | None" = None


@dataclasses.dataclass(frozen=True)
class Progress:
  """The progress of a run within an epoch.

  Attributes:
    phase: "train" or "evaluate".
    epoch: number of the epoch, from 1.
    step: number of steps of this phase that are done.
    steps: number of steps of this phase in total.
    batch_size: images per step.
    loss: mean over the phase so far.
    accuracy: mean over the phase so far, 0..1.
  """

  phase: str
  epoch: int
  step: int
  steps: int
  batch_size: int
  loss: float
  accuracy: float


class Observer:
  """Base class of observers, whose methods are called during a run and do nothing.

  A row describes a finished epoch: epoch, step, lr, train_loss, train_accuracy,
  eval_loss, eval_accuracy, images_per_second, seconds. Both eval_ values are None for
  an epoch without an evaluation.
  """

  def start(self, run: Run) -> None:
    """Called before the first step."""

  def progress(self, progress: Progress) -> None:
    """Called after each dispatch to the devices."""

  def epoch(self, row: dict[str, Any]) -> None:
    """Called after each epoch and its evaluation."""

  def finish(self, summary: dict[str, Any]) -> None:
    """Called after the last epoch."""

  def close(self) -> None:
    """Called last, even after an error."""


class ObserverGroup(Observer):
  """Forwards every call to several observers.

  Args:
    observers: the observers, called in this order.
  """

  def __init__(self, observers: Sequence[Observer]):
    self._observers = observers
    self._started: list[Observer] = []

  def start(self, run: Run) -> None:
    """Starts each observer; `close` will close it even if its start fails."""
    for observer in self._observers:
      self._started.append(observer)
      observer.start(run)

  def progress(self, progress: Progress) -> None:
    """Forwards the call."""
    for observer in self._observers:
      observer.progress(progress)

  def epoch(self, row: dict[str, Any]) -> None:
    """Forwards the call."""
    for observer in self._observers:
      observer.epoch(row)

  def finish(self, summary: dict[str, Any]) -> None:
    """Forwards the call."""
    for observer in self._observers:
      observer.finish(summary)

  def close(self) -> None:
    """Closes each started observer, even if closing another one fails."""
    with contextlib.ExitStack() as stack:
      for observer in self._started:
        stack.callback(observer.close)
