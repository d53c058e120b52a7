"""Finished runs, read back to be compared: what they were, and what they answer."""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from cifar_flax import config as config_lib
from cifar_flax import published, run_directory, structure, summary
from cifar_flax.config import Config
from cifar_flax.data import datasets
from cifar_flax.errors import UserError
from cifar_flax.trained import Trained, probabilities


@dataclasses.dataclass(frozen=True)
class Run:
  """A run directory.

  Attributes:
    workdir: where it is.
    config: of the run.
    rows: of `metrics.jsonl`.
    facts: of `summary.json`.
  """

  workdir: pathlib.Path
  config: Config
  rows: list[dict[str, Any]]
  facts: dict[str, Any]


def load(workdir: pathlib.Path) -> Run:
  """Reads a finished run.

  Raises:
    UserError: it is not one.
  """
  files = [workdir / name for name in ("config.json", "metrics.jsonl", "summary.json")]
  for file in files:
    if not file.is_file():
      raise UserError(f"{workdir}: no finished run here (no {file.name})")
  try:
    rows = [json.loads(line) for line in files[1].read_text().splitlines()]
    facts = json.loads(files[2].read_text())
  except ValueError as error:
    raise UserError(f"{workdir}: damaged ({error})") from None
  return Run(workdir, config_lib.load(str(files[0])), rows, facts)


class Group:
  """Runs of one config with different seeds.

  Attributes:
    name: of the config.
    runs: at least one.
    parameters, multiply_adds: of the network.
    published: what is published of it, None if nothing compares.
    labels: of the evaluation images.
    chances: probabilities that the first run's last checkpoint gives them,
      `[images, classes]`.
    images: the evaluation images.
    class_names: of the labels.
  """

  def __init__(self, runs: Sequence[Run]):
    """Evaluates the first run's last checkpoint.

    Raises:
      UserError: its checkpoint or its data are not there, or are other ones.
    """
    self.runs = list(runs)
    first = self.runs[0]
    self.name = first.config.name or first.config.model.name
    sums = summary.totals(structure.layers(first.config.model))
    self.parameters = first.facts["parameters"]
    self.multiply_adds = sums["multiply_adds"]
    comparable = first.config.data.dataset == published.DATASET
    epochs = len(first.rows)
    self.published = published.after(self.name, epochs) if comparable else None
    dataset = datasets.load(first.config.data)
    if dataset.info.fingerprint != first.facts["data"]["fingerprint"]:
      raise UserError(
        f"{first.workdir}: was evaluated on other data than "
        f"config.data.data_dir={first.config.data.data_dir!r} holds now"
      )
    trained = Trained(first.workdir, "last")
    self.images, self.labels = dataset.eval.images, dataset.eval.labels
    self.class_names = dataset.info.class_names
    self.chances = probabilities(trained.logits(self.images))

  def values(self, name: str) -> list[float]:
    """A figure of every run: a key of the last row, `gap`, `speed` or `seconds`."""
    if name == "gap":
      pairs = [(run.rows[-1]["train_accuracy"], run.rows[-1]["eval_accuracy"])
               for run in self.runs]  # fmt: skip
      return [train - test for train, test in pairs]
    if name == "speed":  # the first epoch has compilation in it
      return [
        statistics.median(row["images_per_second"] for row in run.rows[1:] or run.rows)
        for run in self.runs
      ]
    if name == "seconds":
      return [sum(row["seconds"] for row in run.rows) for run in self.runs]
    return [run.rows[-1][name] for run in self.runs]

  def confusion(self) -> np.ndarray:
    """How many images of each class (rows) got which answer (columns)."""
    count = len(self.class_names)
    matrix = np.zeros((count, count), int)
    np.add.at(matrix, (self.labels, self.chances.argmax(-1)), 1)
    return matrix

  def mistakes(self, number: int) -> list[int]:
    """The images answered wrongly with the highest probability, highest first."""
    answers = self.chances.argmax(-1)
    wrong = np.flatnonzero(answers != self.labels)
    order = np.argsort(-self.chances[wrong, answers[wrong]], kind="stable")
    return [int(image) for image in wrong[order][:number]]


def group(runs: Sequence[Run]) -> list[list[Run]]:
  """Runs that differ in their seed alone, together, in the order of their first."""
  free = {"seed", *run_directory.FREE_KEYS}
  groups: dict[str, list[Run]] = {}
  for run in runs:
    values = config_lib.flatten(run.config).items()
    key = json.dumps([(name, value) for name, value in values if name not in free])
    groups.setdefault(key, []).append(run)
  for same in groups.values():
    seeds = [run.config.seed for run in same]
    if len(set(seeds)) < len(seeds):
      places = ", ".join(str(run.workdir) for run in same)
      raise UserError(f"two runs of the same config and seed: {places}")
  return list(groups.values())
