"""What an observer is told.

Observers are told what happened and return nothing, so they cannot change a run.
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
  """A run that is about to start or to go on.

  Attributes:
    config: every number of it.
    workdir: its run directory, which exists.
    history: the rows of the epochs done before a resume; empty on a fresh start.
    steps_per_epoch: updates an epoch.
    parameters: of the network, BatchNorm's moving averages included.
    device: in words.
    samples: draws training images as they are and augmented, uint8
      `[height, width, 3]`; takes a second.
  """

  config: Config
  workdir: pathlib.Path
  history: tuple[dict[str, Any], ...]
  steps_per_epoch: int
  parameters: int
  device: str
  samples: "Callable[[], np.ndarray] | None" = None


@dataclasses.dataclass(frozen=True)
class Progress:
  """Where a run is within an epoch.

  Attributes:
    phase: "train" or "evaluate".
    epoch: counted from 1.
    step: steps of this phase done.
    steps: steps of this phase.
    loss: mean of the phase so far.
    accuracy: mean of the phase so far, 0..1.
    images_per_second: lately.
  """

  phase: str
  epoch: int
  step: int
  steps: int
  loss: float
  accuracy: float
  images_per_second: float


class Observer:
  """Told what happens; does nothing. `close` is called last, after an error too.

  A row is what an epoch left: epoch, step, lr, train_loss, train_accuracy, eval_loss,
  eval_accuracy, images_per_second, seconds; both eval_ are None without an evaluation.
  """

  def start(self, run: Run) -> None:
    """Before the first step."""

  def progress(self, progress: Progress) -> None:
    """Some steps further."""

  def epoch(self, row: dict[str, Any]) -> None:
    """An epoch and its evaluation are done."""

  def finish(self, summary: dict[str, Any]) -> None:
    """All epochs are done."""

  def close(self) -> None:
    """Nothing more will come."""


class Everyone(Observer):
  """Tells each of several observers.

  Args:
    observers: told in this order.
  """

  def __init__(self, observers: Sequence[Observer]):
    self._observers = observers
    self._started: list[Observer] = []

  def start(self, run: Run) -> None:
    """Starts each; those that were begun are closed later, whatever happens."""
    for observer in self._observers:
      self._started.append(observer)
      observer.start(run)

  def progress(self, progress: Progress) -> None:
    """Passes it on."""
    for observer in self._observers:
      observer.progress(progress)

  def epoch(self, row: dict[str, Any]) -> None:
    """Passes it on."""
    for observer in self._observers:
      observer.epoch(row)

  def finish(self, summary: dict[str, Any]) -> None:
    """Passes it on."""
    for observer in self._observers:
      observer.finish(summary)

  def close(self) -> None:
    """Closes those that were started, each even if another one fails."""
    with contextlib.ExitStack() as stack:
      for observer in self._started:
        stack.callback(observer.close)
