"""Shows a run in the terminal: a bar or plain lines, and a table at the end."""

import os
import time
from typing import Any, TextIO

import tqdm

from cifar_flax import published, tables
from cifar_flax.run import evaluation
from cifar_flax.run.observers.base import Observer, Progress, Run
from cifar_flax.text import shown


class PlainLines(Observer):
  """Writes a line per epoch and, within a long one, a line every `interval` seconds.

  Args:
    stream: where the lines go.
    interval: seconds without a line before a line within an epoch.
    clock: seconds, rising.
  """

  def __init__(self, stream: TextIO, interval: float = 30.0, clock=time.monotonic):
    self._stream, self._interval, self._clock = stream, interval, clock
    self._epoch_seconds = 0.0  # of the last epoch
    self._expected_seconds = 0.0  # of the first one, at its rate so far

  def start(self, run: Run) -> None:
    """Writes the network, data, length, run directory and hardware."""
    self._run, config = run, run.config
    network = "" if config.name == config.model.name else f" ({config.model.name})"
    data = config.data
    self._write(
      f"{shown(config.name)}{network}: {run.parameters:,} parameters, "
      f"{shown(data.dataset)} ({shown(data.train_split or 'train')}, evaluated on "
      f"{shown(data.eval_split or 'test')}), {config.num_epochs} epochs of "
      f"{run.steps_per_epoch} steps, in {shown(run.workdir)}, on {run.device}"
    )
    for caution in evaluation.cautions(run.data):
      self._write(f"warning: {shown(caution)}")
    if run.history:
      self._write(f"resumes after epoch {run.history[-1]['epoch']}")

  def progress(self, progress: Progress) -> None:
    """Writes a line if the last one is old."""
    text = self._describe(progress)
    if self._clock() - self._written >= self._interval:
      step = f"{progress.phase} step {progress.step}/{progress.steps}"
      self._write(f"{self._count(progress.epoch)}  {step}  {text}")

  def epoch(self, row: dict[str, Any]) -> None:
    """Writes the epoch's line."""
    self._epoch_seconds = row["seconds"]
    left = (self._run.config.num_epochs - row["epoch"]) * row["seconds"]
    evaluated = ""
    if row["eval_loss"] is not None:
      evaluated = f"eval loss {row['eval_loss']:.4f} "
      evaluated += f"accuracy {row['eval_accuracy']:.2%}  "
    self._write(
      f"{self._count(row['epoch'])}  "
      f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2%}  "
      f"{evaluated}"
      f"lr {row['lr']:.3g}  {row['images_per_second']:,.0f} images/s  "
      f"{row['seconds']:.1f} s" + (f", {_time(left)} left" if left else "")
    )

  def finish(self, summary: dict[str, Any]) -> None:
    """Prints the summary beside the published numbers."""
    self._write("\n" + table(self._run, summary))

  def _count(self, epoch: int) -> str:
    total = self._run.config.num_epochs
    return f"epoch {epoch:{len(str(total))}}/{total}"

  def _describe(self, progress: Progress) -> str:
    """Returns loss, accuracy, images/s and the time left of the epoch and the run."""
    config, rate = self._run.config, progress.images_per_second
    text = f"loss {progress.loss:.4f} acc {progress.accuracy:.2%} {rate:,.0f} img/s"
    if rate <= 0:
      return text
    train = progress.phase == "train"
    batch = config.batch_size if train else config.eval_batch_size
    left = (progress.steps - progress.step) * batch / rate
    if train:
      self._expected_seconds = progress.steps * batch / rate
    epoch_seconds = self._epoch_seconds or self._expected_seconds
    run_left = left + (config.num_epochs - progress.epoch) * epoch_seconds
    return f"{text} {_time(left)} left, run {_time(run_left)}"

  def _write(self, line: str) -> None:
    self._written = self._clock()
    self._stream.write(line + "\n")
    self._stream.flush()


class FirstStep(Observer):
  """Writes how long the start took, as soon as the first step is made.

  Args:
    stream: where the line goes.
    start_time: of the program, by `clock`.
    clock: seconds, rising.
  """

  def __init__(self, stream: TextIO, start_time: float, clock=time.monotonic):
    self._stream, self._start_time, self._clock = stream, start_time, clock
    self._waits = True

  def progress(self, progress: Progress) -> None:
    """Writes the line, the first time."""
    if self._waits:
      self._waits = False
      seconds = self._clock() - self._start_time
      self._stream.write(f"first step after {seconds:.2f} s\n")
      self._stream.flush()


class ProgressBar(PlainLines):
  """Shows a bar for the current epoch and writes a line for every finished one."""

  def __init__(self, stream: TextIO, interval: float = 0.1, clock=time.monotonic):
    super().__init__(stream, interval, clock)
    self._bar: tqdm.tqdm | None = None
    self._drawn, self._phase = 0.0, ""

  def progress(self, progress: Progress) -> None:
    """Moves the bar, at most every `interval` seconds."""
    text = self._describe(progress)
    fresh = self._bar is None or progress.phase != self._phase
    if not fresh and self._clock() - self._drawn < self._interval:
      return
    self._drawn, self._phase = self._clock(), progress.phase
    what = "epoch" if progress.phase == "train" else "eval "
    count = self._count(progress.epoch).replace("epoch", what)
    form = f"{count} |{{bar}}| {progress.step}/{progress.steps} {text}"
    width = _width(self._stream)
    if self._bar is None:
      self._bar = tqdm.tqdm(
        file=self._stream, leave=False, bar_format=form, ncols=width, total=1
      )
    self._bar.bar_format, self._bar.ncols = form, width
    self._bar.total, self._bar.n = progress.steps, progress.step
    self._bar.refresh()

  def close(self) -> None:
    """Removes the bar."""
    if self._bar is not None:
      self._bar.close()
      self._bar = None

  def _write(self, line: str) -> None:
    self.close()
    super()._write(line)


def _width(stream: TextIO) -> int:
  """Returns the terminal's width, 80 where it is unknown."""
  try:
    return os.get_terminal_size(stream.fileno()).columns or 80
  except (OSError, ValueError):
    return 80


def _time(seconds: float) -> str:
  return tqdm.tqdm.format_interval(seconds)


def table(run: Run, summary: dict[str, Any]) -> str:
  """Compares the summary with the published run, at the same epoch and at its end."""
  config, epochs = run.config, summary["num_epochs"]
  split = config.data.eval_split or "test"
  known, obstacle = published.lookup(config.name), published.obstacle(run.data)
  ours = published.Outcome(
    epochs,
    summary["final_eval_accuracy"],
    summary["max_train_accuracy"],
    round(summary["seconds"]),
  )
  labels = [
    "",
    "",
    f"accuracy on {split}",
    "max train accuracy",
    "gap",
  ]
  columns = [
    [*labels, "parameters", "seconds"],
    _column("this run", ours, summary["parameters"]),
  ]
  notes = [
    f"best epoch: {summary['best_epoch']}, accuracy {summary['best_eval_accuracy']:.2%}"
    f", chosen on {shown(split)}"
  ]
  if summary["flip_eval_accuracy"] is not None:
    notes.append(f"with mirror images: accuracy {summary['flip_eval_accuracy']:.2%}")
  notes.append(published.GAP)
  if known and obstacle:
    notes.append(f"published: -, because {shown(obstacle)}")
  elif known:
    outcomes = _published_outcomes(known, epochs)
    columns += [_column("published", then, known.parameters) for then in outcomes]
    result = "on the test split, n = 1, on one GPU of 2019"
    notes.append(f"published: {result if outcomes else 'no run of this config'}")
  notes += [f"warning: {shown(caution)}" for caution in evaluation.cautions(run.data)]
  rows = list(zip(*columns, strict=True))
  return "\n".join([*tables.align(rows, gap="   "), *notes])


def _column(head: str, outcome: published.Outcome, parameters: int) -> list[str]:
  return [
    head,
    f"epoch {outcome.epochs}",
    f"{outcome.test_accuracy:.2%}",
    f"{outcome.max_train_accuracy:.2%}",
    f"{100 * outcome.gap:.2f} points",
    f"{parameters:,}",
    f"{outcome.seconds:,}",
  ]


def _published_outcomes(
  known: published.Published, epochs: int
) -> list[published.Outcome]:
  """Returns the published run's outcome after `epochs` and at its end."""
  ends = sorted({min(epochs, known.epochs), known.epochs})
  found = [published.after(known.config, end) for end in ends]
  return [outcome for outcome in found if outcome]
