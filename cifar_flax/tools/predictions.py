"""Evaluates the checkpoint of a finished run, and counts what it confuses."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cifar_flax import config as config_lib
from cifar_flax.data import datasets
from cifar_flax.data.sources import download
from cifar_flax.errors import UserError
from cifar_flax.tables import Number, Table
from cifar_flax.tools.trained import BATCH, Trained, softmax

if TYPE_CHECKING:
  from cifar_flax.tools.finished import FinishedRun

MOST_CLASSES = 40  # in a table of classes


@dataclasses.dataclass(frozen=True)
class Predictions:
  """What a checkpoint predicts for the evaluation images.

  Attributes:
    run: the run of the checkpoint.
    images: the evaluation images.
    labels: their labels.
    class_names: the name of each label, in order.
    predicted: the likeliest class of each image.
    confidence: its probability.
  """

  run: "FinishedRun"
  images: np.ndarray
  labels: np.ndarray
  class_names: Sequence[str]
  predicted: np.ndarray
  confidence: np.ndarray


@functools.lru_cache(maxsize=1)  # many groups read the same images
def _evaluation_data(data: str) -> tuple[datasets.Split, datasets.Info]:
  with download.forbidden("report"):
    dataset = datasets.load(config_lib.Data(**json.loads(data)))
  return dataset.eval, dataset.info


def predict(run: "FinishedRun", which: str) -> Predictions:
  """Evaluates a checkpoint of a run.

  Raises:
    UserError: the checkpoint or the data are missing, the checkpoint is damaged, or
      the data are not those of the run.
  """
  trained = Trained(run.workdir, which)
  if (epochs := len(run.rows)) != trained.epoch and which == "last":
    raise UserError(f"its newest checkpoint is of epoch {trained.epoch}, not {epochs}")
  split, info = _evaluation_data(json.dumps(dataclasses.asdict(run.config.data)))
  if info.fingerprint != run.facts["data"]["fingerprint"]:
    raise UserError(
      "it was evaluated on other data than "
      f"{config_lib.shown_data(run.config.data)} holds now"
    )
  predicted = np.zeros(len(split.labels), np.int64)
  confidence = np.zeros(len(split.labels))
  size = 16 * BATCH  # all probabilities of 1,000 classes would take gigabytes
  for first in range(0, len(predicted), size):
    chosen = slice(first, first + size)
    probabilities = softmax(trained.logits(split.images[chosen]))
    predicted[chosen] = probabilities.argmax(-1)
    confidence[chosen] = probabilities.max(-1)
  return Predictions(
    run, split.images, split.labels, info.class_names, predicted, confidence
  )


def confusion(found: Predictions, classes: Sequence[int] | None = None) -> np.ndarray:
  """Returns the number of images by class (rows) and predicted class (columns).

  Args:
    found: the predictions.
    classes: the classes that have a row and a column; all by default.
  """
  number = len(found.class_names)
  place = np.full(number, -1)
  chosen = np.arange(number) if classes is None else np.asarray(classes, int)
  place[chosen] = np.arange(len(chosen))
  rows, columns = place[found.labels], place[found.predicted]
  inside = (rows >= 0) & (columns >= 0)
  matrix = np.zeros((len(chosen), len(chosen)), int)
  np.add.at(matrix, (rows[inside], columns[inside]), 1)
  return matrix


def confusions(found: Predictions) -> list[tuple[int, int, int]]:
  """Returns each confusion: its number, class and predicted class; most first."""
  wrong = found.predicted != found.labels
  pairs = np.stack([found.labels[wrong], found.predicted[wrong]], -1)
  unique, counts = np.unique(pairs.reshape(-1, 2), axis=0, return_counts=True)
  order = np.argsort(-counts, kind="stable")
  return [(int(counts[i]), int(unique[i, 0]), int(unique[i, 1])) for i in order]


def most_confused(found: Predictions, number: int) -> list[int]:
  """Returns the classes of the most frequent confusions, at most `number`, in order."""
  if len(found.class_names) <= number:
    return list(range(len(found.class_names)))
  chosen: set[int] = set()
  for _, label, predicted in confusions(found):
    if len(chosen | {label, predicted}) > number:
      break
    chosen |= {label, predicted}
  return sorted(chosen) or list(range(number))


def mistakes(found: Predictions, number: int) -> list[int]:
  """Returns the indices of the most confident mistakes, most confident first."""
  wrong = np.flatnonzero(found.predicted != found.labels)
  order = np.argsort(-found.confidence[wrong], kind="stable")
  return [int(image) for image in wrong[order][:number]]


def class_table(found: Predictions, title: str, name: str) -> Table:
  """Returns a row per class: images, accuracy, most frequent wrong prediction.

  Of more than `MOST_CLASSES` classes, those with the lowest and the highest accuracy
  have a row, lowest first; classes without images have none.
  """
  number = len(found.class_names)
  total = np.bincount(found.labels, minlength=number)
  right = found.labels == found.predicted
  correct = np.bincount(found.labels[right], minlength=number)
  confused: dict[int, str] = {}
  for count, label, predicted in confusions(found):
    confused.setdefault(label, f"{found.class_names[predicted]} ({count})")
  chosen = list(range(number))
  if number > MOST_CLASSES:
    known = np.flatnonzero(total)
    order = known[np.argsort(correct[known] / total[known], kind="stable")].tolist()
    half = MOST_CLASSES // 2
    chosen = order if len(order) <= MOST_CLASSES else order[:half] + order[-half:]
  columns = ("class", "images", "accuracy, %", "most often confused with")
  rows = [
    [
      found.class_names[label],
      Number(int(total[label]), digits=0),
      Number(100 * correct[label] / total[label], digits=1) if total[label] else None,
      confused.get(label),
    ]
    for label in chosen
  ]
  left_out = (
    f"{len(rows)} of {number:,} classes: those with the lowest and those with the "
    "highest accuracy."
  )
  return Table(title, columns, rows, [left_out] if number > MOST_CLASSES else [], name)
