"""The recipe: load, build, go on where the run stopped, train, evaluate, save."""

import contextlib
import itertools
import logging
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cifar_flax import checkpoints, observers, run_directory, steps
from cifar_flax.config import Config
from cifar_flax.data import batches, datasets
from cifar_flax.errors import UserError

# Steps in one call to the device where the config leaves it open: a few on a CPU,
# where a step takes a large part of a second, an epoch elsewhere.
STEPS_PER_DISPATCH = {"cpu": 8}


class Trainer:
  """A run in memory.

  Attributes:
    config: of the run.
    devices: that it runs on, over all processes.
    dataset: images and labels, on the host.
    program: the network and its compiled steps.
    state: on every device alike.
    history: a row for each finished epoch, as in `metrics.jsonl`.
  """

  def __init__(self, config: Config, devices: Sequence[jax.Device] | None = None):
    """Loads the data and makes the state before the first step.

    Args:
      config: of the run.
      devices: to run on; all there are by default.

    Raises:
      UserError: the data are not to be had.
    """
    self.config = config
    self.devices = list(jax.devices() if devices is None else devices)
    self.dataset = datasets.load(config.data)
    num_examples = len(self.dataset.train.labels)
    num_classes = len(self.dataset.info.class_names)
    self.program = steps.Program(config, self.devices, num_classes, num_examples)
    image_shape = self.dataset.train.images.shape[1:]
    self.state = steps.create_state(
      config, self.program.network, self.program.tx, image_shape
    )
    self.history: list[dict[str, Any]] = []
    self._has_trained = False
    self._train, self._eval = (
      steps.replicate((split.images, split.labels), self.devices)
      for split in (self.dataset.train, self.dataset.eval)
    )

  def restore(
    self,
    content: dict[str, Any] | None,
    free_keys: Sequence[str] = run_directory.FREE_KEYS,
  ) -> None:
    """Takes the state and history of a checkpoint, if there is one, to the devices.

    Args:
      content: of the checkpoint file.
      free_keys: of the config, that may differ from the checkpoint's.

    Raises:
      UserError: it belongs to another run.
    """
    if content is not None:
      info = self.dataset.info
      self.state = run_directory.resume(
        content, self.config, info, self.state, free_keys
      )
      self.history = run_directory.history_of(content)
    self.state = steps.replicate(self.state, self.devices)

  def snapshot(self) -> bytes:
    """The bytes of a checkpoint file."""
    return run_directory.snapshot(
      self.state, self.config, self.dataset.info, self.history
    )

  def parameters(self) -> tuple[int, int]:
    """Number of parameters: in total, moving averages included; trainable."""
    trainable, averages = (
      sum(leaf.size for leaf in jax.tree.leaves(tree))
      for tree in (self.state.params, self.state.batch_stats)
    )
    return trainable + averages, trainable

  def train_epoch(self, progress: Callable[[int], None]) -> dict[str, float]:
    """Makes the updates that are left of an epoch.

    The first dispatch of all is one step: what can go wrong does so at once.

    Args:
      progress: called after every dispatch with the steps made in this epoch.

    Returns:
      Mean loss and accuracy of the epoch's batches, as they were trained on.
    """
    program, config = self.program, self.config
    epoch, made = divmod(int(self.state.step), program.steps_per_epoch)
    images, labels = self._train
    indices = batches.train_indices(
      config.seed, epoch, len(labels), config.batch_size, len(self.devices)
    )
    alone, self._has_trained = not self._has_trained, True
    for count, piece in self._dispatches(made, indices, alone=alone):
      self.state = program.train_steps(self.state, images, labels, count, *piece)
      made += int(count)
      progress(made)
    return self.state.metrics.means()

  def evaluate(self, progress: Callable[[int, int, steps.Metrics], None] | None = None):
    """Loss and accuracy on the evaluation split, every image counted once.

    Args:
      progress: called after every dispatch with the steps made, their number and the
        sums so far.

    Returns:
      Mean loss and accuracy.
    """
    images, labels = self._eval
    size = min(self.config.eval_batch_size, len(labels))
    indices, mask = batches.eval_indices(len(labels), size, len(self.devices))
    variables = {"params": self.state.params, "batch_stats": self.state.batch_stats}
    variables = self.state.ema or variables
    sums, made = steps.replicate(steps.Metrics.empty(), self.devices), 0
    for count, piece in self._dispatches(0, indices, mask):
      sums = self.program.eval_steps(sums, variables, images, labels, count, *piece)
      made += int(count)
      if progress is not None:
        progress(made, indices.shape[1], sums)
    return sums.means()

  def _dispatches(
    self, first: int, *arrays: np.ndarray, alone: bool = False
  ) -> Iterator[tuple[np.int32, list[np.ndarray]]]:
    """Cuts [devices, steps, batch] arrays into pieces of one shape, the last padded.

    Args:
      first: the step to begin with.
      *arrays: over all devices.
      alone: whether the first piece is one step.

    Yields:
      The number of steps that count, and a piece of each array, for this process's
      devices: [devices, steps per dispatch, batch].
    """
    mine = np.asarray([d.process_index == jax.process_index() for d in self.devices])
    num_steps: int = arrays[0].shape[1]
    platform = self.devices[0].platform
    size = self.config.steps_per_dispatch or STEPS_PER_DISPATCH.get(platform, num_steps)
    size = min(size, num_steps)
    starts = [*range(first, first + alone), *range(first + alone, num_steps, size)]
    for start, stop in itertools.pairwise([*starts, num_steps]):
      pieces = [array[mine, start:stop] for array in arrays]
      count = pieces[0].shape[1]
      padding = [(0, 0), (0, size - count), (0, 0)]
      yield np.int32(count), [np.pad(piece, padding) for piece in pieces]


def check_divisible(batch_size: int, num_devices: int) -> None:
  """Raises UserError if the devices can't share a batch equally."""
  if batch_size % num_devices:
    near = max(1, round(batch_size / num_devices)) * num_devices
    raise UserError(
      f"config.batch_size={batch_size}: must be divisible by the {num_devices} "
      f"devices; {near} is"
    )


def start(config: Config, workdir: pathlib.Path) -> Trainer:
  """A trainer where the run in `workdir` stopped, or before its first step.

  Raises:
    UserError: data, devices, config and run directory do not fit together.
  """
  check_divisible(config.batch_size, len(jax.devices()))
  content = checkpoints.restore_newest(workdir / "checkpoints")
  metrics = workdir / "metrics.jsonl"
  if content is None and metrics.exists() and metrics.stat().st_size:
    raise UserError(
      f"{workdir}: has finished epochs but no checkpoints; restore its checkpoints/, "
      "or choose another --workdir"
    )
  trainer = Trainer(config)
  if not trainer.program.steps_per_epoch:
    raise UserError(
      f"config.batch_size={config.batch_size}: must be at most the "
      f"{len(trainer.dataset.train.labels)} images of "
      f"config.data.train_split={config.data.train_split!r}"
    )
  trainer.restore(content)
  if len(trainer.history) > config.num_epochs:
    raise UserError(
      f"config.num_epochs={config.num_epochs}: the run in {workdir} has finished "
      f"{len(trainer.history)} epochs; give as many or more, or another --workdir"
    )
  return trainer


def run_epoch(
  trainer: Trainer, watchers: Sequence[observers.Observer]
) -> dict[str, Any]:
  """Trains to the end of an epoch and evaluates; returns its row of `metrics.jsonl`."""
  program, started = trainer.program, time.monotonic()
  epoch = len(trainer.history) + 1
  first = int(trainer.state.step) % program.steps_per_epoch

  def report(phase: str, made: int, num_steps: int, speed: float, sums) -> None:
    if watchers:  # reading the sums waits for the devices
      news = observers.Progress(
        phase, epoch, made, num_steps, images_per_second=speed, **sums.means()
      )
      for watcher in watchers:
        watcher.progress(news)

  def images_per_second(made: int) -> float:
    images = (made - first) * trainer.config.batch_size
    return images / (time.monotonic() - started)

  def trained_some(made: int) -> None:
    speed = images_per_second(made)
    report("train", made, program.steps_per_epoch, speed, trainer.state.metrics)

  trained = trainer.train_epoch(trained_some)
  speed = images_per_second(program.steps_per_epoch)
  evaluation_started = time.monotonic()

  def evaluated_some(made: int, num_steps: int, sums: steps.Metrics) -> None:
    seconds = time.monotonic() - evaluation_started
    images = made * trainer.config.eval_batch_size
    report("evaluate", made, num_steps, images / seconds, sums)

  evaluated = trainer.evaluate(evaluated_some)
  step = int(trainer.state.step)
  return {
    "epoch": epoch,
    "step": step,
    "lr": float(program.schedule(step - 1)),
    "train_loss": trained["loss"],
    "train_accuracy": trained["accuracy"],
    "eval_loss": evaluated["loss"],
    "eval_accuracy": evaluated["accuracy"],
    "images_per_second": round(speed, 1),
    "seconds": round(time.monotonic() - started, 3),
  }


def train_and_evaluate(
  config: Config,
  workdir: pathlib.Path,
  watchers: Sequence[observers.Observer] | None = None,
  began: float | None = None,
) -> dict[str, Any]:
  """Trains as the config says, or goes on where the run in `workdir` stopped.

  Args:
    config: of the run.
    workdir: its run directory; made if absent.
    watchers: told of everything; `observers.create(began=began)` by default.
    began: when the program did, by `time.monotonic`, to say how long it took to start.

  Returns:
    The summary, as in `summary.json`.

  Raises:
    UserError: data, devices, config and run directory do not fit together.
  """
  trainer = start(config, workdir)
  if before := run_directory.finished_summary(workdir, config.num_epochs):
    logging.warning("%s: has finished all of its epochs", workdir)
    return before
  folder = workdir / "checkpoints"
  total, trainable = trainer.parameters()
  writes = jax.process_index() == 0  # the other processes compute the same
  if watchers is None:
    watchers = observers.create(began=began) if writes else []
  last_save = -config.checkpoint.min_seconds
  with contextlib.ExitStack() as stack:
    run = observers.Run(
      config=config,
      workdir=workdir,
      history=tuple(trainer.history),
      steps_per_epoch=trainer.program.steps_per_epoch,
      parameters=total,
      device=run_directory.hardware(trainer.devices),
    )
    workdir.mkdir(parents=True, exist_ok=True)
    for watcher in watchers:
      stack.callback(watcher.close)
      watcher.start(run)

    while len(trainer.history) < config.num_epochs:
      row = run_epoch(trainer, watchers)
      best = max((r["eval_accuracy"] for r in trainer.history), default=-1.0)
      trainer.history.append(row)
      improved = row["eval_accuracy"] > best
      due = time.monotonic() - last_save >= config.checkpoint.min_seconds
      due = due or len(trainer.history) == config.num_epochs
      if writes and (improved or due):
        data = trainer.snapshot()
        if improved:
          checkpoints.save_best(folder, data)
        if due:
          checkpoints.save(folder, row["step"], data, config.checkpoint.keep)
          last_save = time.monotonic()
      for watcher in watchers:
        watcher.epoch(row)

    summary = run_directory.summary(
      config, trainer.dataset, trainer.history, (total, trainable), trainer.devices
    )
    for watcher in watchers:
      watcher.finish(summary)
  return summary


def evaluate_checkpoint(config: Config, workdir: pathlib.Path, which: str) -> str:
  """Evaluates the `best` or the `last` checkpoint of a run.

  Returns:
    A line with the checkpoint's epoch, the split, loss and accuracy.

  Raises:
    UserError: no such checkpoint, or it belongs to another config or other data.
  """
  content = checkpoints.restore(workdir / "checkpoints", which)
  trainer = Trainer(config)
  trainer.restore(content, run_directory.FREE_KEYS + run_directory.EVALUATION_KEYS)
  result = trainer.evaluate()
  return (
    f"{which} checkpoint of {workdir}, epoch {len(trainer.history)}: "
    f"accuracy {result['accuracy']:.2%}, loss {result['loss']:.4f} on the "
    f"{len(trainer.dataset.eval.labels)} images of {config.data.eval_split!r}"
  )
