"""How long the steps of a run take, and how long the rest of it will."""

import time

from cifar_flax.config import Config
from cifar_flax.run import evaluation
from cifar_flax.run.observers.base import Progress

_OLD = 0.5  # the weight of an epoch's measurements after each further epoch


class Pace:
  """Measures a run's steps, phase by phase, without the calls that compile them.

  Args:
    config: of the run.
    clock: seconds, rising.
  """

  def __init__(self, config: Config, clock=time.monotonic):
    self._config, self._clock = config, clock
    self._last: Progress | None = None
    self._time = 0.0  # of the last record
    self._lengths: dict[str, int] = {}  # steps of each phase
    self._sizes: dict[str, int] = {}  # images per step
    self._steps: dict[str, float] = {}  # measured
    self._seconds: dict[str, float] = {}  # that they took

  def record(self, progress: Progress) -> None:
    """Records that a call to the devices has ended."""
    phase, now, last = progress.phase, self._clock(), self._last
    if last and last.epoch < progress.epoch:
      for sums in (self._steps, self._seconds):
        sums.update({key: _OLD * value for key, value in sums.items()})
    if phase in self._lengths:  # the first call of a phase compiles it
      together = last and (last.phase, last.epoch) == (phase, progress.epoch)
      steps = progress.step - (last.step if last and together else 0)
      self._steps[phase] = self._steps.get(phase, 0) + steps
      self._seconds[phase] = self._seconds.get(phase, 0) + now - self._time
    self._lengths[phase], self._sizes[phase] = progress.steps, progress.batch_size
    self._last, self._time = progress, now

  def has_met(self, phase: str) -> bool:
    """Returns whether a call of the phase has ended: its program is compiled."""
    return phase in self._lengths

  def images_per_second(self, phase: str) -> float | None:
    """Returns the speed of a phase, or None before its second call."""
    if not self._seconds.get(phase):
      return None
    return self._sizes[phase] * self._steps[phase] / self._seconds[phase]

  def seconds_left(self) -> tuple[float, float] | None:
    """Returns the time left in this phase of the epoch, and in the run.

    None before anything is measured. Evaluations are left out until the first has
    begun.
    """
    last = self._last
    if last is None or not self._seconds.get("train"):
      return None
    phase_left = self._take(last.phase, last.steps - last.step)
    further = range(last.epoch + 1, self._config.num_epochs + 1)
    evaluations = sum(evaluation.is_due(self._config, epoch) for epoch in further)
    if last.phase == "train":
      evaluations += evaluation.is_due(self._config, last.epoch)
    left = phase_left + len(further) * self._take("train", self._lengths["train"])
    return phase_left, left + evaluations * self._take(
      "evaluate", self._lengths.get("evaluate", 0)
    )

  def _take(self, phase: str, steps: int) -> float:
    """Returns the seconds that so many steps of a phase take; 0 if it is unknown."""
    measured = self._steps.get(phase)
    return steps * self._seconds[phase] / measured if measured else 0.0
