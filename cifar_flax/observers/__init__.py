"""What watches a run: terminal, metrics.jsonl, TensorBoard, pictures, summary."""

import sys
from typing import TextIO

from cifar_flax.observers.base import Observer, Progress, Run
from cifar_flax.observers.files import (
  ConfigFile,
  Curves,
  MetricsFile,
  SummaryFile,
  TensorBoard,
)
from cifar_flax.observers.terminal import PlainLines, ProgressBar

__all__ = ["Observer", "Progress", "Run", "create"]


def create(stream: TextIO = sys.stderr) -> list[Observer]:
  """All observers of a run; `stream` gets a bar if it is a terminal, else lines."""
  lines = ProgressBar if stream.isatty() else PlainLines
  files = [ConfigFile(), MetricsFile(), TensorBoard(), Curves(), SummaryFile()]
  return [*files, lines(stream)]
