"""The recipe: load, build, go on where the run stopped, train, evaluate, save."""

import contextlib
import logging
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from cifar_flax import steps
from cifar_flax.config import Config
from cifar_flax.data import samples
from cifar_flax.errors import Stopped, UserError
from cifar_flax.run import (
  checkpoints,
  directory,
  files,
  lock,
  observers,
  processes,
  provenance,
  signals,
)
from cifar_flax.trainer import Trainer, check_divisible


def start(config: Config, workdir: pathlib.Path) -> Trainer:
  """A trainer where the run in `workdir` stopped, or before its first step.

  Raises:
    UserError: data, devices, config and run directory do not fit together.
  """
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


class Keeper:
  """Saves a run: at the ends of epochs, within them, and when asked to stop.

  Attributes:
    trainer: of the run.
    folder: of its checkpoints.
    writes: whether this process does; the others compute the same.
    stop: where a request to stop is found.
  """

  def __init__(self, trainer: Trainer, folder: pathlib.Path, stop: signals.Watch):
    self.trainer = trainer
    self.folder = folder
    self.writes = jax.process_index() == 0
    self.stop = stop
    self._last_save = -trainer.config.checkpoint.min_seconds
    self._last_step = int(trainer.state.step)

  def save(self, data: bytes | None = None) -> None:
    """Writes the newest checkpoint."""
    step = int(self.trainer.state.step)
    if self.writes:
      keep = self.trainer.config.checkpoint.keep
      checkpoints.save(self.folder, step, data or self.trainer.snapshot(), keep)
    self._last_save, self._last_step = time.monotonic(), step

  def after_dispatch(self) -> None:
    """Saves if it is time to.

    Raises:
      Stopped: a signal asked for it; everything is saved.
    """
    self.stop.defer()  # a step has been made: from now on there is something to lose
    step = int(self.trainer.state.step)
    interval = self.trainer.config.checkpoint.every_steps
    if signal := processes.agreed(self.stop.signal):
      self.save()
      raise Stopped(signal)
    if interval and step // interval > self._last_step // interval:
      self.save()

  def after_epoch(self, row: dict[str, Any]) -> None:
    """Takes the row into the history, and saves if it is the best or time to."""
    history, config = self.trainer.history, self.trainer.config
    best = max((_accuracy(r) for r in history), default=-1.0)
    self.trainer.finish_epoch(row)
    improved = _accuracy(row) > best
    due = time.monotonic() - self._last_save >= config.checkpoint.min_seconds
    due = due or len(history) == config.num_epochs
    if not self.writes or not (improved or due):
      return
    data = self.trainer.snapshot()
    if improved:
      checkpoints.save_best(self.folder, data)
    if due:
      self.save(data)


def _accuracy(row: dict[str, Any]) -> float:
  """Of the evaluation, or -1 for an epoch without one."""
  return -1.0 if row["eval_accuracy"] is None else row["eval_accuracy"]


def run_epoch(
  trainer: Trainer,
  watchers: Sequence[observers.Observer],
  after_dispatch: Callable[[], None],
) -> dict[str, Any]:
  """Trains to the end of an epoch and evaluates if it is time to.

  Returns:
    Its row of `metrics.jsonl`; evaluation's loss and accuracy are None without one.
  """
  program, record = trainer.program, trainer.record
  epoch = len(trainer.history) + 1
  images_per_epoch = program.steps_per_epoch * trainer.config.batch_size
  trainer.start_epoch()

  def report(phase: str, made: int, num_steps: int, speed: float, sums) -> None:
    if watchers:  # reading the sums waits for the devices
      news = observers.Progress(
        phase, epoch, made, num_steps, images_per_second=speed, **sums.means()
      )
      for watcher in watchers:
        watcher.progress(news)

  def trained_some(made: int) -> None:
    after_dispatch()
    speed = made * trainer.config.batch_size / trainer.epoch_seconds()
    report("train", made, program.steps_per_epoch, speed, trainer.state.metrics)

  trained = trainer.train_epoch(trained_some)
  if record.training_seconds is None:
    record.training_seconds = trainer.epoch_seconds()
  speed = images_per_epoch / record.training_seconds
  evaluation_started = time.monotonic()

  def evaluated_some(made: int, num_steps: int, sums: steps.Metrics) -> None:
    after_dispatch()
    seconds = time.monotonic() - evaluation_started
    images = made * trainer.config.eval_batch_size
    report("evaluate", made, num_steps, images / seconds, sums)

  evaluated: dict[str, Any] = {"loss": None, "accuracy": None}
  if is_evaluated(trainer.config, epoch):
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
    "seconds": round(trainer.epoch_seconds(), 3),
  }


def is_evaluated(config: Config, epoch: int) -> bool:
  """Whether there is an evaluation after `epoch`, counted from 1."""
  every = config.eval_every
  return epoch == config.num_epochs or (every > 0 and epoch % every == 0)


def complete_last(trainer: Trainer, keeper: Keeper) -> None:
  """Evaluates the last epoch if it was not the last when it was made."""
  history = trainer.history
  if len(history) < trainer.config.num_epochs or history[-1]["eval_loss"] is not None:
    return
  result = trainer.evaluate(lambda *_: keeper.after_dispatch())
  row = history.pop()
  keeper.after_epoch(
    row | {"eval_loss": result["loss"], "eval_accuracy": result["accuracy"]}
  )


def conclude(trainer: Trainer, keeper: Keeper) -> dict[str, Any]:
  """The summary of a run that has made all of its epochs."""
  flipped = None
  if trainer.config.eval_flip:
    flipped = trainer.evaluate(lambda *_: keeper.after_dispatch(), flip=True)
  return directory.summary(
    trainer.config,
    trainer.dataset,
    trainer.record,
    trainer.parameters(),
    flipped,
  )


def train_and_evaluate(
  config: Config,
  workdir: pathlib.Path,
  watchers: Sequence[observers.Observer] | None = None,
  began: float | None = None,
  stop: signals.Watch | None = None,
) -> dict[str, Any]:
  """Trains as the config says, or goes on where the run in `workdir` stopped.

  Args:
    config: of the run.
    workdir: its run directory; made if absent.
    watchers: told of everything; `observers.create(began=began)` by default.
    began: when the program did, by `time.monotonic`, to say how long it took to start.
    stop: where signals arrive; without it, they are left alone.

  Returns:
    The summary, as in `summary.json`.

  Raises:
    UserError: data, devices, config and run directory do not fit together, or another
      process writes in `workdir`.
    Diverged: a loss, a parameter or a moving average is not finite; no checkpoint has
      it.
    Stopped: a signal asked for it; everything is saved.
    OSError: something can't be written; the checkpoints before it are whole.
  """
  check_divisible(config.batch_size, len(jax.devices()))
  writes = jax.process_index() == 0  # the other processes compute the same
  folder = workdir / "checkpoints"
  with contextlib.ExitStack() as stack:
    if writes:
      stack.enter_context(lock.hold(workdir))
      files.remove_leftovers(folder)
    trainer = start(config, workdir)
    if before := directory.finished_summary(workdir, config):
      logging.warning("%s: has finished all of its epochs", workdir)
      return before
    if watchers is None or not writes:
      watchers = observers.create(began=began) if writes else []
    keeper = Keeper(trainer, folder, stop or signals.Watch())
    complete_last(trainer, keeper)
    run = observers.Run(
      config=config,
      workdir=workdir,
      history=tuple(trainer.history),
      steps_per_epoch=trainer.program.steps_per_epoch,
      parameters=trainer.parameters()[0],
      device=provenance.hardware(trainer.devices),
      samples=lambda: samples.side_by_side(config, trainer.dataset),
    )
    for watcher in watchers:
      stack.callback(watcher.close)
      watcher.start(run)
    while len(trainer.history) < config.num_epochs:
      row = run_epoch(trainer, watchers, keeper.after_dispatch)
      keeper.after_epoch(row)
      for watcher in watchers:
        watcher.epoch(row)

    summary = conclude(trainer, keeper)
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
  trainer.restore(content, directory.EVALUATION_KEYS)
  result = trainer.evaluate()
  more = ""
  if config.eval_flip:
    more = f", with mirror images {trainer.evaluate(flip=True)['accuracy']:.2%}"
  when = f"epoch {len(trainer.history)}"
  if further := trainer.steps_into_epoch():
    when += f" and {further} steps"
  return (
    f"{which} checkpoint of {workdir}, {when}: "
    f"accuracy {result['accuracy']:.2%}{more}, loss {result['loss']:.4f} on the "
    f"{len(trainer.dataset.eval.labels)} images of {config.data.eval_split!r}"
  )
