"""What watches a run: terminal, metrics.jsonl, TensorBoard, pictures, summary."""

import sys
from typing import TextIO

from cifar_flax.run.observers.base import Everyone, Observer, Progress, Run
from cifar_flax.run.observers.files import (
  ConfigFile,
  Curves,
  MetricsFile,
  SummaryFile,
  TensorBoard,
)
from cifar_flax.run.observers.terminal import FirstStep, PlainLines, ProgressBar

__all__ = ["Everyone", "Observer", "Progress", "Run", "create"]


def create(stream: TextIO = sys.stderr, began: float | None = None) -> list[Observer]:
  """All observers of a run.

  Args:
    stream: gets a bar if it is a terminal, else lines.
    began: when the program did, by `time.monotonic`, to say how long it took to start.
  """
  lines = ProgressBar if stream.isatty() else PlainLines
  files = [ConfigFile(), MetricsFile(), TensorBoard(), Curves(), SummaryFile()]
  start = [] if began is None else [FirstStep(stream, began)]
  return [*files, *start, lines(stream)]
