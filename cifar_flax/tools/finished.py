"""Finished runs, read back to be compared: what they were, and what they answer."""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from cifar_flax import config as config_lib
from cifar_flax import published
from cifar_flax.config import Config
from cifar_flax.data import datasets
from cifar_flax.errors import UserError
from cifar_flax.run import directory
from cifar_flax.tools import structure, summary
from cifar_flax.tools.trained import Trained, probabilities


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
    label: what tells it from the other groups of a report.
    runs: at least one.
    parameters, multiply_adds: of the network.
    published: what is published of a config of this name, None if nothing compares or
      the report has other runs of it, with changes.
    labels: of the evaluation images.
    chances: probabilities that the first run's last checkpoint gives them,
      `[images, classes]`.
    images: the evaluation images.
    class_names: of the labels.
  """

  def __init__(self, runs: Sequence[Run], label: str = ""):
    """Evaluates the first run's last checkpoint.

    Raises:
      UserError: its checkpoint or its data are not there, or are other ones.
    """
    self.runs = list(runs)
    first = self.runs[0]
    self.name = name_of(first)
    self.label = label or self.name
    self.parameters = first.facts["parameters"]
    comparable = first.config.data.dataset == published.DATASET
    epochs = len(first.rows)
    comparable = comparable and self.label == self.name
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
    layers = structure.layers(first.config.model, len(self.class_names))
    self.multiply_adds = summary.totals(layers)["multiply_adds"]
    self.chances = probabilities(trained.logits(self.images))

  def values(self, name: str) -> list[float]:
    """A figure of every run: a key of the last row, `gap`, `speed` or `seconds`.

    `speed` is in images/s of training, `seconds` are of all epochs.
    """
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


def name_of(run: Run) -> str:
  """What its config is called."""
  return run.config.name or run.config.model.name


def settings(run: Run) -> dict[str, Any]:
  """What makes a run's config what it is: its keys without seed, places and names."""
  free = {"seed", *directory.FREE_KEYS}
  values = config_lib.flatten(run.config).items()
  return {key: value for key, value in values if key not in free}


def labels(groups: Sequence[Sequence[Run]]) -> list[str]:
  """A name for each group: its config's, and the values that others of it have not.

  Where all are of one config, the values alone.
  """
  names = [name_of(same[0]) for same in groups]
  values = [settings(same[0]) for same in groups]
  found = []
  for name, mine in zip(names, values, strict=True):
    alike = [other for n, other in zip(names, values, strict=True) if n == name]
    differ = [key for key in mine if any(other[key] != mine[key] for other in alike)]
    short = len(differ) == 1
    parts = [
      str(mine[key]) if short else f"{key.rpartition('.')[2]}={mine[key]}"
      for key in differ
    ]
    whole = parts and len(alike) == len(groups)
    found.append(", ".join(parts if whole else [name, *parts]))
  return found


def group(runs: Sequence[Run]) -> list[list[Run]]:
  """Runs that differ in their seed alone, together, in the order of their first."""
  groups: dict[str, list[Run]] = {}
  for run in runs:
    groups.setdefault(json.dumps(settings(run)), []).append(run)
  for same in groups.values():
    seeds = [run.config.seed for run in same]
    if len(set(seeds)) < len(seeds):
      places = ", ".join(str(run.workdir) for run in same)
      raise UserError(f"two runs of the same config and seed: {places}")
  return list(groups.values())
