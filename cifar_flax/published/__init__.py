"""The published results: four networks, trained once each by two Keras 2.2.4 notebooks.

The table below and the CSV file of each curve, `<config>.csv`, are facts to compare
runs with. They hold for CIFAR-10 alone: 50,000 training and 10,000 test images. The
files are rounded (accuracies to four digits, the time of an epoch to a second), so
their ends differ from the table by up to 0.01 points and 4 % of the seconds.
"""

import csv
import dataclasses
import functools
import importlib.resources
import re
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Published:
  """One published network; its result is of a single run (n = 1).

  Attributes:
    config: the config in `configs/` that reproduces it.
    parameters: all of them, BatchNorm's moving averages included, as Keras counts.
    epochs: passes over the 50,000 training images.
    test_accuracy: after the last epoch, on all test images, 0..1; None where this
      config was written up but never run.
    max_train_accuracy: the best epoch's running mean, 0..1, or None.
    seconds: of training, on one GPU of 2019, or None.
  """

  config: str
  parameters: int
  epochs: int
  test_accuracy: float | None
  max_train_accuracy: float | None
  seconds: int | None


_ALL = (
  Published("net6a_dense", 1_172_410, 100, 0.8332, 0.9235, 874),
  Published("net6a_wide", 649_656, 100, 0.7983, 0.9647, 2775),
  # The write-up of net6a names a staircase that its code never passed on: what ran,
  # and reached 84.84 %, is net6a_constant.
  Published("net6a", 294_112, 100, None, None, None),
  Published("net6a_constant", 294_112, 100, 0.8484, 0.9400, 2209),
  Published("net6b", 151_404, 50, 0.8548, 0.9227, 1243),
)

DATASET = "cifar10"
EXAMPLES = {"train": 50_000, "test": 10_000}  # images of each split of CIFAR-10
# What a gap is, in every table and figure of the project.
GAP = (
  "The gap is the highest training accuracy of an epoch so far minus the evaluation "
  "accuracy, as in the published figures."
)
CONFIGS = tuple(row.config for row in _ALL)
# Configs with another recipe -> the config of the same network that they are compared
# with.
TUNED = {
  "net6a_dense_tuned": "net6a_dense",
  "net6a_wide_tuned": "net6a_wide",
  "net6a_tuned": "net6a_constant",
  "net6b_tuned": "net6b",
}


def lookup(config_name: str) -> Published | None:
  """Returns the published network that a config of this name reproduces, or None."""
  return next((row for row in _ALL if row.config == config_name), None)


@functools.cache
def _read(config_name: str) -> tuple[dict[str, float], ...]:
  file = importlib.resources.files(__package__) / f"{config_name}.csv"
  rows = csv.DictReader(file.read_text().splitlines())
  return tuple({k: float(v) for k, v in row.items()} for row in rows)


def curves(config_name: str) -> list[dict[str, float]] | None:
  """Returns the published run of a config, epoch by epoch, or None.

  Returns:
    A row per epoch: epoch, seconds, train_loss, train_accuracy, test_loss,
    test_accuracy; accuracies 0..1.
  """
  row = lookup(config_name)
  if row is None or row.test_accuracy is None:
    return None
  return [dict(row) for row in _read(config_name)]


def gap(max_train_accuracy: float, eval_accuracy: float) -> float:
  """Returns the gap after an epoch, as `GAP` defines it.

  Args:
    max_train_accuracy: the highest training accuracy of this and all earlier epochs.
    eval_accuracy: the accuracy on the evaluation split after this epoch.
  """
  return max_train_accuracy - eval_accuracy


@dataclasses.dataclass(frozen=True)
class Outcome:
  """A run, such as a published one, after some epochs; accuracies are 0..1."""

  epochs: int
  test_accuracy: float
  max_train_accuracy: float
  seconds: int

  @property
  def gap(self) -> float:
    """The gap after these epochs."""
    return gap(self.max_train_accuracy, self.test_accuracy)


def obstacle(data: Mapping[str, Any]) -> str:
  """Returns why a run cannot be compared with the published ones; "" if it can.

  Only a run that is trained on all training images of CIFAR-10, each once per epoch,
  and evaluated on all of its test images can.

  Args:
    data: the `data` of its `summary.json`. The numbers of images are missing before
      the data are read; then only the splits `train` and `test` are known to have all.
  """
  if (name := data["name"]) != DATASET:
    return f"its data set is {name}, not {DATASET}"
  for wanted, field, did in (
    ("train", "train", "trained"),
    ("test", "eval", "evaluated"),
  ):
    split = data[f"{field}_split"] or wanted
    names = {part.strip() for part in re.sub(r"\[.*?\]", "", split).split("+")}
    number = data.get(f"{field}_examples", EXAMPLES[wanted] if split == wanted else 0)
    every = f"not on all {EXAMPLES[wanted]:,} images of {wanted}"
    if number != EXAMPLES[wanted] or names != {wanted}:
      images = f"{number:,} images of " if number else ""
      return f"it was {did} on {images}{split}, {every}"
    if data.get("repeated_images"):
      return f"its splits name {data['repeated_images']:,} images more than once"
  return ""


def after(config_name: str, epochs: int) -> Outcome | None:
  """Returns the outcome of a config's published run after `epochs`.

  Returns:
    The figures of the table at its end, of the curves before; None if it had no such
    epoch.
  """
  end, rows = lookup(config_name), curves(config_name)
  if end is None or rows is None or not 1 <= epochs <= end.epochs:
    return None
  if epochs == end.epochs:
    assert end.test_accuracy and end.max_train_accuracy and end.seconds
    return Outcome(epochs, end.test_accuracy, end.max_train_accuracy, end.seconds)
  best = max(row["train_accuracy"] for row in rows[:epochs])
  seconds = round(sum(row["seconds"] for row in rows[:epochs]))
  return Outcome(epochs, rows[epochs - 1]["test_accuracy"], best, seconds)
