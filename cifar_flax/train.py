"""The recipe: load, build, resume, train, evaluate, save."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from cifar_flax.config import Config
from cifar_flax.run import (
  checkpoints,
  directory,
  evaluation,
  files,
  lock,
  observers,
  signals,
)
from cifar_flax.run.saver import Saver
from cifar_flax.trainer import Trainer


def train_and_evaluate(
  config: Config,
  workdir: pathlib.Path,
  watchers: Sequence[observers.Observer] | None = None,
  start_time: float | None = None,
  stop: signals.Watch | None = None,
) -> dict[str, Any]:
  """Trains as the config says, or resumes the run in `workdir`.

  Args:
    config: of the run.
    workdir: its run directory; made if absent.
    watchers: the observers; by default `observers.create(start_time=start_time)`.
    start_time: of the program, by `time.monotonic`, to say how long it took to start.
    stop: where signals arrive; without it, they are left alone.

  Returns:
    The summary, as in `summary.json`.

  Raises:
    UserError: data, devices, config and run directory do not fit together, or another
      process writes in `workdir`.
    Diverged: a loss, a parameter or a moving average is not finite; no checkpoint has
      it.
    Stopped: a signal asked for it; everything is saved.
    OSError: a file cannot be written; the checkpoints before it are intact.
  """
  writes = jax.process_index() == 0  # the other processes compute the same
  folder = workdir / "checkpoints"
  with contextlib.ExitStack() as stack:
    if writes:
      stack.enter_context(lock.hold(workdir))
      files.remove_leftovers(folder)
    trainer = Trainer.resume(config, workdir)
    if before := directory.finished_summary(workdir, config):
      logging.warning("%s: has finished all of its epochs", workdir)
      return before
    if watchers is None:
      watchers = observers.create(start_time=start_time)
    group = observers.ObserverGroup(watchers if writes else [])
    stack.callback(group.close)
    saver = Saver(folder, config, trainer.snapshot, stop or signals.Watch(), writes)

    def after_each(calls: Iterator[observers.Progress]) -> observers.Progress | None:
      """Saves and reports after each call to the devices; returns the last report."""
      progress = None
      for progress in calls:
        saver.after_call(trainer.updates)
        group.progress(progress)
      return progress

    group.start(trainer.describe(workdir))
    while not trainer.is_complete():
      after_each(trainer.train_epoch())
      evaluated = after_each(trainer.evaluate()) if trainer.evaluates() else None
      row = trainer.finish_epoch(evaluated)
      saver.after_epoch(trainer.history, trainer.updates)
      group.epoch(row)
    flipped = after_each(trainer.evaluate(flip=True)) if config.eval_flip else None
    summary = trainer.summary(flipped)
    group.finish(summary)
  return summary


def evaluate_checkpoint(config: Config, workdir: pathlib.Path, which: str) -> str:
  """Evaluates the `best` or the `last` checkpoint of a run.

  Returns:
    A line with the checkpoint's epoch, the split, loss and accuracy, how the best
    checkpoint was chosen, and cautions about the images.

  Raises:
    UserError: no such checkpoint, or it belongs to another config or other classes.
  """
  which = checkpoints.chosen(workdir / "checkpoints", which)
  content = checkpoints.restore(workdir / "checkpoints", which)
  trainer = Trainer(config)
  trainer.restore(content, evaluates=True)
  result = trainer.evaluation()
  more = ""
  if config.eval_flip:
    more = f", with mirror images {trainer.evaluation(flip=True).accuracy:.2%}"
  when = f"epoch {len(trainer.history)}"
  if further := trainer.steps_into_epoch():
    when += f" and {further} steps"
  line = (
    f"{which} checkpoint of {workdir}, {when}: "
    f"accuracy {result.accuracy:.2%}{more}, loss {result.loss:.4f} on the "
    f"{len(trainer.dataset.eval.labels)} images of {config.data.eval_split!r}"
  )
  run, trained, _ = directory.run_of(content)
  notes = evaluation.cautions(directory.data_facts(config, trainer.dataset))
  if (now := trainer.dataset.info.fingerprint) != (before := run["fingerprint"]):
    notes.append(
      f"these are other data ({now[:12]}) than it was trained on ({before[:12]})"
    )
  if which == "best":
    split = trained.data.eval_split
    notes.insert(0, evaluation.read_choice(workdir, which, split))
  return "; ".join([line, *notes])
