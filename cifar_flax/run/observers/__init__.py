"""Observers of a run: terminal, metrics.jsonl, TensorBoard, curves.png, summary."""

import sys
from typing import Any, TextIO

from cifar_flax.run import streams
from cifar_flax.run.observers.base import Observer, ObserverGroup, Progress, Run
from cifar_flax.run.observers.files import (
  ConfigFile,
  Curves,
  MetricsFile,
  SummaryFile,
  TensorBoard,
)
from cifar_flax.run.observers.terminal import FirstStep, PlainLines, ProgressBar

__all__ = ["ObserverGroup", "Observer", "Progress", "Run", "create", "create_files"]


def create(
  stream: TextIO | None = None, start_time: float | None = None
) -> list[Observer]:
  """Creates all observers of a run.

  Args:
    stream: receives a progress bar if it is a terminal, else plain lines; standard
      error by default. If it cannot be written to, the run goes on without it.
    start_time: when the program started, by `time.monotonic`; if given, the time until
      the first step is printed.
  """
  text: Any = streams.lasting(sys.stderr if stream is None else stream)
  lines = ProgressBar if text.isatty() else PlainLines
  start = [] if start_time is None else [FirstStep(text, start_time)]
  return [*create_files(), *start, lines(text)]


def create_files() -> list[Observer]:
  """Creates the observers that write the files of a run directory."""
  return [ConfigFile(), MetricsFile(), TensorBoard(), Curves(), SummaryFile()]
