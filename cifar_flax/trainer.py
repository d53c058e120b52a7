"""A run in memory: trains an epoch, or evaluates, with all data on the devices."""

import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cifar_flax import models, optimizer, steps
from cifar_flax.config import Config
from cifar_flax.data import batches, datasets, samples
from cifar_flax.errors import Diverged, UserError
from cifar_flax.run import checkpoints, directory, evaluation, processes, provenance
from cifar_flax.run.observers.base import Progress, Run

# Most steps in one call to the devices, where the config does not set it: an epoch, but
# fewer on a CPU, where a call may be over soon and costs the allocation of its memory.
STEPS_PER_DISPATCH = {"cpu": 32}
# About how long a call may take, since a request to stop waits for its end.
SECONDS_PER_DISPATCH = 2.0


class CallLength:
  """Chooses how many steps the next call to the devices makes.

  The first call compiles and makes one step, so that errors appear at once. The second
  makes one step to measure its time. The following ones make as many steps as fit into
  `SECONDS_PER_DISPATCH`.

  Attributes:
    most: the largest number of steps in a call.
  """

  def __init__(self, most: int):
    self.most = most
    self._calls, self._seconds_per_step = 0, float("inf")

  def steps(self) -> int:
    """Returns the number of steps of the next call, at least one."""
    allowed = SECONDS_PER_DISPATCH / max(self._seconds_per_step, 1e-9)
    return max(1, int(min(allowed, self.most)))

  def record(self, num_steps: int, seconds: float) -> None:
    """Records how long a call took."""
    if self._calls:
      self._seconds_per_step = seconds / num_steps
    self._calls += 1


def _rows(images: np.ndarray) -> np.ndarray:
  return images.reshape(len(images), -1)


class Trainer:
  """A run in memory.

  Attributes:
    config: of the run.
    devices: that it runs on, over all processes.
    dataset: images and labels, on the host.
    program: the network and its compiled steps.
    schedule: the learning rate as a function of the number of updates made.
    state: on every device alike.
    record: its finished epochs, and what made them.
  """

  def __init__(self, config: Config, devices: Sequence[jax.Device] | None = None):
    """Loads the data and makes the state before the first step.

    Args:
      config: of the run.
      devices: to run on; all there are by default.

    Raises:
      UserError: the data cannot be found or downloaded.
    """
    models.set_precision(config.model.dtype)
    self.config = config
    self.devices = list(jax.devices() if devices is None else devices)
    self.dataset = datasets.load(config.data)
    num_examples = len(self.dataset.train.labels)
    num_classes = len(self.dataset.info.class_names)
    self.program = steps.shared_program(config, self.devices, num_classes, num_examples)
    schedule = optimizer.create_schedule(config, self.program.steps_per_epoch)
    self.schedule = jax.jit(lambda step: jnp.broadcast_to(schedule(step), step.shape))
    image_shape = self.dataset.train.images.shape[1:]
    self.state = steps.create_state(
      config, self.program.network, self.program.tx, image_shape
    )
    self.record = directory.Record()
    self._trains = False  # whether this process has added its part to the record
    self._epoch_started: float | None = None
    self._call_lengths: dict[str, CallLength] = {}
    # One image per row: a TPU would copy all images to pad an axis of 3 channels.
    self._train, self._eval = (
      steps.replicate((_rows(split.images), split.labels), self.devices)
      for split in (self.dataset.train, self.dataset.eval)
    )

  @classmethod
  def resume(cls, config: Config, workdir: pathlib.Path) -> "Trainer":
    """Makes a trainer where the run in `workdir` stopped, or before its first step.

    Raises:
      UserError: data, devices, config and run directory do not fit together.
    """
    check_divisible(config.batch_size, len(jax.devices()))
    if checkpoints.has_weights_only(workdir / "checkpoints"):
      raise UserError(
        f"{workdir}: has the weights of a published run, but not what is needed to "
        "train on; choose another --workdir"
      )
    content = checkpoints.restore_newest(workdir / "checkpoints")
    metrics = workdir / "metrics.jsonl"
    if content is None and metrics.exists() and metrics.stat().st_size:
      raise UserError(
        f"{workdir}: has finished epochs but no checkpoints; restore its checkpoints/, "
        "or choose another --workdir"
      )
    trainer = cls(config)
    if not trainer.program.steps_per_epoch:
      raise UserError(
        f"config.batch_size={config.batch_size}: must be at most the "
        f"{len(trainer.dataset.train.labels)} images of "
        f"config.data.train_split={config.data.train_split!r}"
      )
    trainer.restore(content)
    history = trainer.history
    if len(history) > config.num_epochs:
      raise UserError(
        f"config.num_epochs={config.num_epochs}: the run in {workdir} has finished "
        f"{len(history)} epochs; give as many or more, or another --workdir"
      )
    if len(history) == config.num_epochs and history[-1]["eval_loss"] is None:
      trainer._reopen_epoch()
    return trainer

  def restore(self, content: dict[str, Any] | None, evaluates: bool = False) -> None:
    """Restores a checkpoint, if one is given, and copies the state to the devices.

    Args:
      content: of the checkpoint file.
      evaluates: whether it is only evaluated, see `directory.resume`.

    Raises:
      UserError: it belongs to another run.
    """
    if content is not None:
      info = self.dataset.info
      self.state, self.record = directory.resume(
        content, self.config, info, self.state, evaluates
      )
    self.state = steps.replicate(self.state, self.devices)

  @property
  def history(self) -> list[dict[str, Any]]:
    """A row for each finished epoch, as in `metrics.jsonl`."""
    return self.record.history

  def _start_clock(self) -> None:
    """Starts or resumes the clock of the epoch after those in `history`."""
    if not self._trains:
      part = provenance.current(self.devices, first_step=self.updates)
      self.record.parts.append(part)
      self._trains = True
    self._epoch_started = time.monotonic() - self.record.epoch_seconds

  def epoch_seconds(self) -> float:
    """Seconds spent on the epoch so far, in all parts of the run."""
    if self._epoch_started is not None:
      self.record.epoch_seconds = time.monotonic() - self._epoch_started
    return self.record.epoch_seconds

  def finish_epoch(self, evaluated: Progress | None) -> dict[str, Any]:
    """Adds the epoch to the history.

    Args:
      evaluated: the end of its evaluation, if it has one.

    Returns:
      Its row of `metrics.jsonl`.
    """
    step, record, trained = (
      int(self.state.step),
      self.record,
      self.state.metrics.means(),
    )
    images = self.program.steps_per_epoch * self.config.batch_size
    speed = images / (record.training_seconds or self.epoch_seconds())
    row = {
      "epoch": len(self.history) + 1,
      "step": step,
      "lr": float(self.schedule(np.int32(step - 1))),
      "train_loss": trained["loss"],
      "train_accuracy": trained["accuracy"],
      "eval_loss": evaluated.loss if evaluated else None,
      "eval_accuracy": evaluated.accuracy if evaluated else None,
      "images_per_second": round(speed, 1),
      "seconds": round(self.epoch_seconds(), 3),
    }
    self.history.append(row)
    self._epoch_started = None
    record.epoch_seconds, record.training_seconds = 0.0, None
    return row

  def _reopen_epoch(self) -> None:
    """Reopens the last epoch, to evaluate it: `num_epochs` was lowered to it."""
    row = self.history.pop()
    images = self.program.steps_per_epoch * self.config.batch_size
    self.record.epoch_seconds = row["seconds"]
    self.record.training_seconds = images / row["images_per_second"]

  def is_complete(self) -> bool:
    """Returns whether all epochs are finished."""
    return len(self.history) == self.config.num_epochs

  def evaluates(self) -> bool:
    """Returns whether the epoch after those in `history` ends with an evaluation."""
    return evaluation.is_due(self.config, len(self.history) + 1)

  @property
  def updates(self) -> int:
    """Updates made; waits for the devices."""
    return int(self.state.step)

  def describe(self, workdir: pathlib.Path) -> Run:
    """Returns what observers are told when the run starts or is resumed."""
    return Run(
      config=self.config,
      workdir=workdir,
      history=tuple(self.history),
      steps_per_epoch=self.program.steps_per_epoch,
      parameters=self.parameters()[0],
      device=provenance.hardware(self.devices),
      data=directory.data_facts(self.config, self.dataset),
      samples=lambda: samples.side_by_side(self.config, self.dataset),
    )

  def summary(self, flipped: Progress | None) -> dict[str, Any]:
    """Returns the content of `summary.json`, once the run is complete.

    Args:
      flipped: the end of the evaluation with mirror images, if there was one.
    """
    return directory.summary(
      self.config, self.dataset, self.record, self.parameters(), flipped
    )

  def snapshot(self) -> bytes:
    """Returns the bytes of a checkpoint file."""
    self.epoch_seconds()
    return directory.snapshot(self.state, self.config, self.dataset.info, self.record)

  def parameters(self) -> tuple[int, int]:
    """Returns the number of parameters: all (with moving averages), and trainable."""
    trainable, averages = (
      sum(leaf.size for leaf in jax.tree.leaves(tree))
      for tree in (self.state.params, self.state.batch_stats)
    )
    return trainable + averages, trainable

  def train_epoch(self) -> Iterator[Progress]:
    """Makes the remaining updates of the epoch after those in `history`.

    Yields:
      After every call to the devices, how far the epoch is; loss and accuracy are means
      over its batches so far, as they were trained on.

    Raises:
      Diverged: a loss, a parameter or a moving average is not finite.
    """
    program, config = self.program, self.config
    epoch, made = len(self.history), self.steps_into_epoch()
    self._start_clock()
    images, labels = self._train
    indices = batches.train_indices(
      config.seed, epoch, len(labels), config.batch_size, len(self.devices)
    )
    seed = np.uint32(config.seed)
    for count, (piece,) in self._calls("train", made, indices):
      rates = self._rates(piece.shape[1])
      self.state, health = program.train_steps(
        self.state, images, labels, seed, count, rates, piece
      )
      self._check(health, int(count))
      made += int(count)
      yield Progress(
        phase="train",
        epoch=epoch + 1,
        step=made,
        steps=program.steps_per_epoch,
        batch_size=config.batch_size,
        **self.state.metrics.means(),
      )
    if self.record.training_seconds is None:
      self.record.training_seconds = self.epoch_seconds()

  def _rates(self, number: int) -> np.ndarray:
    """Returns the learning rates of the next steps, float32 or float64 [number]."""
    rates = self.schedule(self.updates + np.arange(number, dtype=np.int32))
    return np.asarray(rates, steps.parameter_dtype(self.config))

  def steps_into_epoch(self) -> int:
    """Returns the updates made since the last epoch in `history`."""
    return self.updates - len(self.history) * self.program.steps_per_epoch

  def _check(self, health: steps.Health, num_steps: int) -> None:
    """Raises Diverged if a call left anything that is not finite; waits for it."""
    step, finite = self.updates, int(health.finite_step)
    if finite < step:
      what = f"the loss of step {finite + 1} is not finite"
    elif not health.params:
      what = f"a parameter is not finite after step {step}"
    elif not health.averages:
      what = f"a moving average is not finite after steps {step - num_steps + 1}-{step}"
    else:
      return
    rate = float(self.schedule(np.int32(min(finite, step - 1))))
    raise Diverged(
      f"diverged: {what} (epoch {len(self.history) + 1}, learning rate {rate:g}); "
      "checkpoints hold finite numbers only; try a lower config.schedule.learning_rate"
    )

  def evaluate(self, flip: bool = False) -> Iterator[Progress]:
    """Evaluates the state on the evaluation split, every image counted once.

    Args:
      flip: averages the probabilities of each image and its mirror image.

    Yields:
      After every call to the devices, how far the evaluation is; the last one has loss
      and accuracy of the whole split.
    """
    images, labels = self._eval
    size = batches.eval_batch_size(
      self.config.eval_batch_size, self.devices[0].platform
    )
    size = min(size, len(labels))
    indices, mask = batches.eval_indices(len(labels), size, len(self.devices))
    variables = {"params": self.state.params, "batch_stats": self.state.batch_stats}
    variables = self.state.ema or variables
    sums, made = steps.replicate(steps.Metrics.empty(), self.devices), 0
    program = self.program
    eval_steps = program.flip_eval_steps if flip else program.eval_steps
    for count, piece in self._calls("evaluate", 0, indices, mask):
      sums = eval_steps(sums, variables, images, labels, count, *piece)
      made += int(count)
      means = sums.means()  # waits for the devices
      yield Progress(
        phase="evaluate",
        epoch=min(len(self.history) + 1, self.config.num_epochs),
        step=made,
        steps=indices.shape[1],
        batch_size=size,
        **means,
      )

  def evaluation(self, flip: bool = False) -> Progress:
    """Evaluates and returns loss and accuracy of the whole split."""
    *_, last = self.evaluate(flip)
    return last

  def _calls(
    self, phase: str, first: int, *arrays: np.ndarray
  ) -> Iterator[tuple[np.int32, list[np.ndarray]]]:
    """Cuts [devices, steps, batch] arrays into calls of one shape, padded with 0.

    Args:
      phase: "train" or "evaluate"; each has calls of its own length.
      first: the step to begin with.
      *arrays: over all devices.

    Yields:
      The number of steps that count, and a piece of each array, for this process's
      devices: [devices, steps per call, batch].
    """
    mine = np.asarray([d.process_index == jax.process_index() for d in self.devices])
    num_steps: int = arrays[0].shape[1]
    platform = self.devices[0].platform
    size = self.config.steps_per_dispatch or STEPS_PER_DISPATCH.get(platform, num_steps)
    length = self._call_lengths.setdefault(phase, CallLength(min(size, num_steps)))
    while first < num_steps:
      # Clocks differ between processes, which must make the same number of steps.
      count = min(processes.max_over_processes(length.steps()), num_steps - first)
      if phase == "train" and (interval := self.config.checkpoint.every_steps):
        count = min(count, interval - self.updates % interval)
      padding = [(0, 0), (0, length.most - count), (0, 0)]
      pieces = [np.pad(array[mine, first : first + count], padding) for array in arrays]
      started = time.monotonic()
      yield np.int32(count), pieces
      length.record(count, time.monotonic() - started)
      first += count


def check_divisible(batch_size: int, num_devices: int) -> None:
  """Raises UserError if a batch cannot be divided equally among the devices."""
  if batch_size % num_devices:
    near = max(1, round(batch_size / num_devices)) * num_devices
    raise UserError(
      f"config.batch_size={batch_size}: must be divisible by the {num_devices} "
      f"devices; {near} is"
    )
