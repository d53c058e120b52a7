"""Loads finished runs and their predictions, so that they can be compared."""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from cifar_flax import config as config_lib
from cifar_flax import effects, published
from cifar_flax.config import Config
from cifar_flax.data import datasets
from cifar_flax.errors import UserError
from cifar_flax.run import directory
from cifar_flax.tools import structure, summary
from cifar_flax.tools.comparison import Entry
from cifar_flax.tools.trained import Trained, softmax


@dataclasses.dataclass(frozen=True)
class FinishedRun:
  """A finished run directory.

  Attributes:
    workdir: its path.
    config: the run's config.
    rows: the lines of `metrics.jsonl`, one per epoch.
    facts: the contents of `summary.json`.
  """

  workdir: pathlib.Path
  config: Config
  rows: list[dict[str, Any]]
  facts: dict[str, Any]


def load(workdir: pathlib.Path) -> FinishedRun:
  """Loads a finished run.

  Raises:
    UserError: the directory has no finished run, or its files are damaged.
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
  return FinishedRun(workdir, config_lib.load(str(files[0])), rows, facts)


class Group:
  """Finished runs of one config that differ only in their seed.

  Attributes:
    name: the config's name.
    label: distinguishes the group from the others in a report.
    runs: the runs, at least one.
    parameters, multiply_adds: of the network.
    published: the published result for a config of this name. None if there is none,
      if the data are not comparable, or if `label` is not the name, which means that
      the report also has other variants of the config.
    images: the evaluation images.
    labels: their labels.
    class_names: the name of each label, in order.
    probabilities: what the first run's last checkpoint predicts for the evaluation
      images, `[images, classes]`.
  """

  def __init__(self, runs: Sequence[FinishedRun], label: str = ""):
    """Evaluates the last checkpoint of the first run.

    Args:
      runs: the runs; all but their seeds are equal.
      label: distinguishes the group from the others; the config's name by default.

    Raises:
      UserError: the checkpoint or the data are missing, the checkpoint is damaged, or
        the data are not those of the run.
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
    self.probabilities = softmax(trained.logits(self.images))

  def values(self, name: str) -> list[float]:
    """Returns one metric of every run.

    Args:
      name: `gap` (training minus evaluation accuracy after the last epoch), `speed`
        (images/s in training, median over epochs), `seconds` (total over all epochs),
        or a key of `metrics.jsonl`, whose value after the last epoch is returned.
    """
    if name == "gap":
      pairs = [
        (run.rows[-1]["train_accuracy"], run.rows[-1]["eval_accuracy"])
        for run in self.runs
      ]
      return [train - test for train, test in pairs]
    if name == "speed":  # the first epoch includes compilation
      return [
        statistics.median(row["images_per_second"] for row in run.rows[1:] or run.rows)
        for run in self.runs
      ]
    if name == "seconds":
      return [sum(row["seconds"] for row in run.rows) for run in self.runs]
    return [run.rows[-1][name] for run in self.runs]

  def entry(self) -> Entry:
    """Returns the accuracies by seed, in percent, and the costs."""
    seeds = [run.config.seed for run in self.runs]
    accuracies = [100 * value for value in self.values("eval_accuracy")]
    costs = {
      "parameters": self.parameters,
      "multiply-adds": self.multiply_adds,
      "training time per image, µs": 1e6 / statistics.fmean(self.values("speed")),
    }
    return Entry(self.label, dict(zip(seeds, accuracies, strict=True)), costs)

  def confusion(self) -> np.ndarray:
    """Returns the number of images by class (rows) and predicted class (columns)."""
    count = len(self.class_names)
    matrix = np.zeros((count, count), int)
    np.add.at(matrix, (self.labels, self.probabilities.argmax(-1)), 1)
    return matrix

  def mistakes(self, number: int) -> list[int]:
    """Returns the indices of the most confident mistakes, most confident first."""
    predicted = self.probabilities.argmax(-1)
    wrong = np.flatnonzero(predicted != self.labels)
    order = np.argsort(-self.probabilities[wrong, predicted[wrong]], kind="stable")
    return [int(image) for image in wrong[order][:number]]


def name_of(run: FinishedRun) -> str:
  """Returns the name of a run's config."""
  return run.config.name or run.config.model.name


def budget(groups: Sequence[Group]) -> str:
  """Returns the data set, the training images, the epochs and n, or their ranges."""
  data = [run.facts["data"] for group in groups for run in group.runs]
  names = ", ".join(dict.fromkeys(each["name"] for each in data))
  images = _range([each["train_examples"] for each in data])
  epochs = _range([len(run.rows) for group in groups for run in group.runs])
  n = _range([len(group.runs) for group in groups])
  unit = "epoch" if epochs == "1" else "epochs"
  return f"{names}, {images} training images, {epochs} {unit}, n = {n}"


def _range(values: Sequence[int]) -> str:
  low, high = min(values), max(values)
  return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def settings(run: FinishedRun) -> dict[str, Any]:
  """Returns the keys of a run's config that define it: no seed, paths or names."""
  free = {"seed", *directory.FREE_KEYS}
  values = config_lib.flatten(run.config).items()
  return {key: value for key, value in values if key not in free}


def labels(groups: Sequence[Sequence[FinishedRun]]) -> list[str]:
  """Returns a label for each group.

  The label is the config's name, followed by the values in which the group differs from
  other groups of the same name. If all groups have the same name, it is left out.
  """
  names = [name_of(same[0]) for same in groups]
  values = [settings(same[0]) for same in groups]
  found = []
  for name, mine in zip(names, values, strict=True):
    alike = [other for n, other in zip(names, values, strict=True) if n == name]
    differ = [key for key in mine if any(other[key] != mine[key] for other in alike)]
    value_only = len(differ) == 1
    parts = [
      str(mine[key]) if value_only else f"{key.rpartition('.')[2]}={mine[key]}"
      for key in differ
    ]
    without_name = parts and len(alike) == len(groups)
    found.append(", ".join(parts if without_name else [name, *parts]))
  return found


def group(runs: Sequence[FinishedRun]) -> list[list[FinishedRun]]:
  """Groups runs that differ only in their seed, or in keys without effect.

  Groups are in the order of their first runs.

  Raises:
    UserError: two runs have the same config and the same seed.
  """
  groups: dict[str, list[FinishedRun]] = {}
  for run in runs:
    unused = effects.without_effect(run.config)
    used = {key: value for key, value in settings(run).items() if key not in unused}
    groups.setdefault(json.dumps(used), []).append(run)
  for same in groups.values():
    seeds = [run.config.seed for run in same]
    if len(set(seeds)) < len(seeds):
      places = ", ".join(str(run.workdir) for run in same)
      raise UserError(f"two runs of the same config and seed: {places}")
  return list(groups.values())
