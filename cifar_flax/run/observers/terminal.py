"""Shows a run in the terminal: a bar or plain lines, and a table at the end."""

import os
import shlex
import time
from typing import Any, TextIO

import tqdm

from cifar_flax import effects, published, tables
from cifar_flax.run import evaluation
from cifar_flax.run.observers.base import Observer, Progress, Run
from cifar_flax.run.observers.pace import Pace
from cifar_flax.text import shown

BAR = 10  # least width of the bar, characters
NEXT = {  # what can be done with a finished run; {} is its directory
  "curves": "{}/curves.png",
  "report": "python -m cifar_flax report {}",
  "predict": "python -m cifar_flax predict --workdir {} PICTURE",
}


class PlainLines(Observer):
  """Writes a line per epoch and, within a long one, a line every `interval` seconds.

  Args:
    stream: where the lines go.
    interval: seconds without a line before a line within an epoch.
    clock: seconds, rising.
  """

  def __init__(self, stream: TextIO, interval: float = 30.0, clock=time.monotonic):
    self._stream, self._interval, self._clock = stream, interval, clock
    self._lags = False  # whether it has been said

  def start(self, run: Run) -> None:
    """Writes what is trained, on which images, how long, where and on what."""
    self._run, self._pace = run, Pace(run.config, self._clock)
    for line in _heading(run):
      self._write(line)
    for caution in evaluation.cautions(run.data):
      self._write(f"warning: {shown(caution)}")
    if run.history:
      self._write(f"resumes after epoch {run.history[-1]['epoch']}")
    self._compiling()

  def progress(self, progress: Progress) -> None:
    """Writes a line if the last one is old."""
    self._pace.record(progress)
    if self._clock() - self._written >= self._interval:
      step = f"{progress.phase} step {progress.step}/{progress.steps}"
      parts = " ".join(self._parts(progress).values())
      self._write(f"{self._count(progress.epoch)}  {step}  {parts}")

  def epoch(self, row: dict[str, Any]) -> None:
    """Writes the epoch's line."""
    total = self._run.config.num_epochs
    left = self._pace.seconds_left() if row["epoch"] < total else None
    evaluated = ""
    if row["eval_loss"] is not None:
      evaluated = f"eval loss {row['eval_loss']:.4f} "
      evaluated += f"accuracy {row['eval_accuracy']:.2%}  "
    self._write(
      f"{self._count(row['epoch'])}  "
      f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2%}  "
      f"{evaluated}"
      f"lr {row['lr']:.3g}  {row['images_per_second']:,.0f} images/s  "
      f"{row['seconds']:.1f} s" + (f", {_time(left[1])} left" if left else "")
    )
    if not self._lags and (lag := evaluation.lag(self._run.config, row)):
      self._lags = True
      self._write(f"note: {lag}")

  def finish(self, summary: dict[str, Any]) -> None:
    """Prints the summary beside the published numbers, and what can be done next."""
    self._write("\n" + table(self._run, summary))
    workdir = shlex.quote(shown(self._run.workdir))
    for what, command in NEXT.items():
      self._write(f"{what:8} {command.format(workdir)}")

  def _count(self, epoch: int) -> str:
    total = self._run.config.num_epochs
    return f"epoch {epoch:{len(str(total))}}/{total}"

  def _parts(self, progress: Progress) -> dict[str, str]:
    """Returns what is said of a phase so far; speed and time once they are known."""
    parts = {
      "loss": f"loss {progress.loss:.4f}",
      "accuracy": f"acc {progress.accuracy:.2%}",
    }
    if speed := self._pace.images_per_second(progress.phase):
      parts["speed"] = f"{speed:,.0f} img/s"
    if left := self._pace.seconds_left():
      parts["phase"] = f"{_time(left[0])} left,"
      parts["run"] = f"run {_time(left[1])}"
    return parts

  def _compiling(self) -> None:
    self._write("compiling ...")

  def _write(self, line: str) -> None:
    self._written = self._clock()
    self._stream.write(line + "\n")
    self._stream.flush()


def _heading(run: Run) -> list[str]:
  """Returns the lines that describe a run: network, data, schedule, place, device."""
  config, data = run.config, run.data
  parts = [config.model.name] if config.model.name != config.name else []
  if "model.convolution" not in effects.without_effect(config):
    parts.append(config.model.convolution)
  network = f" ({', '.join(parts)})" if parts else ""

  def images(split: str, name: str) -> str:
    number = data.get(f"{split}_examples")
    return shown(name) + (f" ({number:,} images)" if number else "")

  optimizer, schedule = config.optimizer, config.schedule
  lines = {
    "network": f"{shown(config.name)}{network}: {run.parameters:,} parameters",
    "data": f"{shown(config.data.dataset)}, "
    f"{images('train', config.data.train_split)}, evaluated on "
    f"{images('eval', config.data.eval_split)}",
    "schedule": f"{config.num_epochs} epochs of {run.steps_per_epoch} steps, "
    f"batch size {config.batch_size}, {optimizer.name}, {schedule.name} "
    f"{schedule.learning_rate:g}",
    "place": shown(run.workdir),
    "device": run.device,
  }
  return [f"{name:9} {line}" for name, line in lines.items()]


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
    self._pace.record(progress)
    if self._is_before_first_evaluation(progress):
      self._compiling()
      return
    fresh = self._bar is None or progress.phase != self._phase
    if not fresh and self._clock() - self._drawn < self._interval:
      return
    self._drawn, self._phase = self._clock(), progress.phase
    count = self._count(progress.epoch)
    if progress.phase == "evaluate":
      count = count.replace("epoch", "eval ")
    steps = f"{progress.step}/{progress.steps}"
    parts = {"steps": steps, **self._parts(progress)}
    width = _width(self._stream)
    for name in ("phase", "speed", "steps", "loss", "accuracy", "run"):
      if len(f"{count} || {' '.join(parts.values())}") + BAR <= width:
        break
      parts.pop(name, None)
    self._draw(f"{count} |{{bar}}| {' '.join(parts.values())}", progress)

  def _is_before_first_evaluation(self, progress: Progress) -> bool:
    trained = progress.phase == "train" and progress.step == progress.steps
    evaluates = evaluation.is_due(self._run.config, progress.epoch)
    return trained and evaluates and not self._pace.has_met("evaluate")

  def _compiling(self) -> None:
    self._draw("compiling ...")

  def _draw(self, form: str, progress: Progress | None = None) -> None:
    """Draws a line that the next one replaces."""
    width = _width(self._stream)
    if self._bar is None:
      self._bar = tqdm.tqdm(
        file=self._stream, leave=False, bar_format=form, ncols=width, total=1
      )
    self._bar.bar_format, self._bar.ncols = form, width
    if progress:
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
  split = config.data.eval_split
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
