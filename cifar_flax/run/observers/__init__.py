"""Observers of a run: terminal, metrics.jsonl, TensorBoard, curves.png, summary."""

import sys
from typing import TextIO

from cifar_flax.run.observers.base import Observer, ObserverGroup, Progress, Run
from cifar_flax.run.observers.files import (
  ConfigFile,
  Curves,
  MetricsFile,
  SummaryFile,
  TensorBoard,
)
from cifar_flax.run.observers.terminal import FirstStep, PlainLines, ProgressBar

__all__ = ["ObserverGroup", "Observer", "Progress", "Run", "create"]


def create(
  stream: TextIO = sys.stderr, start_time: float | None = None
) -> list[Observer]:
  """Creates all observers of a run.

  Args:
    stream: receives a progress bar if it is a terminal, else plain lines.
    start_time: when the program started, by `time.monotonic`; if given, the time until
      the first step is printed.
  """
  lines = ProgressBar if stream.isatty() else PlainLines
  files = [ConfigFile(), MetricsFile(), TensorBoard(), Curves(), SummaryFile()]
  start = [] if start_time is None else [FirstStep(stream, start_time)]
  return [*files, *start, lines(stream)]
