"""Finds finished runs, and groups them, so that they can be compared."""

import dataclasses
import functools
import json
import math
import os
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cifar_flax import config as config_lib
from cifar_flax import effects, published, registry, tables
from cifar_flax.config import Config
from cifar_flax.errors import UserError
from cifar_flax.run import directory, evaluation
from cifar_flax.run.files import read_json_lines
from cifar_flax.text import shown
from cifar_flax.tools import predictions, structure, summary
from cifar_flax.tools.comparison import Entry
from cifar_flax.tools.predictions import Predictions

# A folder with one of these is a run directory, whatever became of the others.
_FILES = ("config.json", "metrics.jsonl", "summary.json")


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


def find(paths: Sequence[str]) -> tuple[list[FinishedRun], list[str]]:
  """Returns the finished runs in folders, each once, and a line for all else.

  Args:
    paths: run directories, or folders with run directories in them or below.
  """
  found: list[FinishedRun] = []
  notes: list[str] = []
  seen: set[str] = set()
  for path in paths:
    folder = pathlib.Path(path)
    if not folder.is_dir():
      what = "is a file" if os.path.lexists(folder) else "does not exist"
      notes.append(f"{shown(folder)}: left out: {what}")
      continue
    empty = True
    for workdir in run_directories(folder):
      empty = False
      if (real := os.path.realpath(workdir)) in seen:
        continue
      seen.add(real)
      try:
        found.append(load(workdir))
      except UserError as error:
        notes.append(f"{shown(workdir)}: left out: {shown(str(error))}")
    if empty:
      notes.append(f"{shown(folder)}: left out: there is no run in it")
  return found, list(dict.fromkeys(notes))


def run_directories(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a folder if it is a run directory, or else those below it, in order."""
  seen: set[str] = set()
  for top, names, files in os.walk(folder, followlinks=True):
    if (real := os.path.realpath(top)) in seen:  # a link to a folder above it
      names.clear()
      continue
    seen.add(real)
    names.sort()
    if not {*_FILES, "checkpoints"}.isdisjoint([*files, *names]):
      names.clear()
      yield pathlib.Path(top)


def load(workdir: pathlib.Path) -> FinishedRun:
  """Loads a finished run.

  Raises:
    UserError: the run is not finished, or its files are damaged.
  """
  for name in _FILES:
    if not (workdir / name).is_file():
      raise UserError(f"it is not finished (no {name})")
  config = config_lib.load(str(workdir / "config.json"))
  facts = directory.read_summary(workdir) or {}
  rows = read_json_lines(workdir / "metrics.jsonl")
  if not len(rows) == facts["num_epochs"] == config.num_epochs:
    raise UserError(
      f"it is not finished ({len(rows)} of {config.num_epochs} epochs; summary.json is "
      f"of {facts['num_epochs']})"
    )
  for row in rows:
    optional = () if row is rows[-1] else _EVALUATED
    _check_row(workdir / "metrics.jsonl", row, optional)
  return FinishedRun(workdir, config, rows, facts)


_EVALUATED = ("eval_accuracy", "eval_loss")
_TRAINED = ("train_accuracy", "train_loss", "images_per_second", "seconds")


def _check_row(path: pathlib.Path, row: Any, optional: Sequence[str]) -> None:
  """Raises UserError unless an epoch has finite numbers, or null if optional."""
  for name in (*_TRAINED, *_EVALUATED):
    value = row.get(name) if isinstance(row, dict) else None
    if value is None and name in optional:
      continue
    if not isinstance(value, int | float) or not math.isfinite(value):
      raise UserError(f"{path}: damaged ({name} is {value!r})")


class Group:
  """Finished runs of one config, on the same data, that differ only in their seed.

  Attributes:
    name: the config's name.
    label: distinguishes the group from the others in a report.
    runs: the runs, at least one.
    which: the checkpoint whose results are reported, `last` or `best`.
    parameters: of the network.
    published: the published result for a config of this name, or None.
    unpublished: why there is none although there is one for this name; or "".
    trouble: why predictions could not be made, a line for each run tried.
  """

  def __init__(self, runs: Sequence[FinishedRun], label: str = "", which: str = "last"):
    """Describes the runs; reads no checkpoint and no data.

    Args:
      runs: the runs; all but their seeds are equal.
      label: distinguishes the group from the others; the config's name by default.
      which: the checkpoint, `last` or `best`.
    """
    self.runs, self.which = list(runs), which
    first = self.runs[0]
    self.name = name_of(first)
    self.label = label or self.name
    self.parameters = first.facts["parameters"]
    self.data = first.facts["data"]
    self.trouble: list[str] = []
    self.published, self.unpublished = None, ""
    if published.curves(self.name):
      self.unpublished = self._obstacle()
      if not self.unpublished:
        self.published = published.after(self.name, len(first.rows))

  def _obstacle(self) -> str:
    """Returns why the published result is not comparable; "" if it is."""
    if reason := published.obstacle(self.data):
      return reason
    if self.label != self.name:
      return "there are other variants of this config here"
    if self.which == "best":
      return "it is a result after the last epoch"
    known = published.lookup(self.name)
    if known and len(self.runs[0].rows) > known.epochs:
      return f"it ended after {known.epochs} epochs"
    return ""

  @property
  def eval_split(self) -> str:
    """The split that the runs were evaluated on."""
    return self.data["eval_split"]

  @functools.cached_property
  def multiply_adds(self) -> int | None:
    """The multiply-adds for one image; None if the number of classes is unknown."""
    classes = self.data.get("classes")
    if classes is None:  # a run of an early version
      classes = len(self.predictions.class_names) if self.predictions else None
    if classes is None:
      return None
    layers = structure.layers(self.runs[0].config.model, classes)
    return summary.totals(layers)["multiply_adds"]

  @functools.cached_property
  def predictions(self) -> Predictions | None:
    """Those of the first run whose checkpoint and data are there; None without any."""
    for run in self.runs:
      try:
        return predictions.predict(run, self.which)
      except (UserError, OSError) as error:
        line = f"{shown(run.workdir)}: no predictions: {shown(str(error))}"
        self.trouble.append(line)
    return None

  def epochs_until(self, run: FinishedRun) -> list[dict[str, Any]]:
    """Returns the epochs of a run until the reported one: the last, or the best."""
    if self.which == "last":
      return run.rows
    accuracies = [row["eval_accuracy"] for row in run.rows]
    known = [-1.0 if value is None else value for value in accuracies]
    return run.rows[: known.index(max(known)) + 1]

  def values(self, name: str) -> list[float]:
    """Returns one metric of every run.

    Args:
      name: `gap` (as `published.GAP` says), `max_train_accuracy`, `speed` (images/s in
        training, median over epochs but the first), `seconds` (total over all epochs),
        or a key of `metrics.jsonl`, whose value after the reported epoch is returned.
    """
    if name == "gap":
      pairs = zip(
        self.values("max_train_accuracy"), self.values("eval_accuracy"), strict=True
      )
      return [published.gap(train, accuracy) for train, accuracy in pairs]
    if name == "speed":  # the first epoch includes compilation
      return [
        statistics.median(row["images_per_second"] for row in run.rows[1:] or run.rows)
        for run in self.runs
      ]
    if name == "seconds":
      return [sum(row["seconds"] for row in run.rows) for run in self.runs]
    epochs = [self.epochs_until(run) for run in self.runs]
    if name == "max_train_accuracy":
      return [max(row["train_accuracy"] for row in rows) for rows in epochs]
    return [rows[-1][name] for rows in epochs]

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

  def comparable_data(self) -> tuple:
    """Returns what groups must have in common for their accuracies to be compared."""
    return (*evaluation.eval_identity(self.runs[0].facts).values(),)


def relocate(runs: Sequence[FinishedRun], overrides: Mapping[str, str]) -> None:
  """Sets where the data of runs are now; their fingerprint is checked later.

  Args:
    runs: the runs.
    overrides: `data.data_dir`, `data.archive` and `data.dataset=folder:PATH` as text.
      The last applies to runs on folders of pictures.

  Raises:
    UserError: another key is given, or a value is wrong.
  """
  for key, text in overrides.items():
    movable = key == "data.dataset" and text.startswith(registry.FOLDER)
    if key not in ("data.data_dir", "data.archive") and not movable:
      raise UserError(
        f"config.{key}={text!r}: a report takes only where the data are: data.data_dir,"
        " data.archive or data.dataset=folder:PATH"
      )
    for run in runs:
      if not movable or run.config.data.dataset.startswith(registry.FOLDER):
        config_lib.override(run.config, {key: text})


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
  """Returns what defines a run: the keys of its config, its data, and NUMERICS.

  The seed, paths and names are left out. Data and NUMERICS have names of their own,
  such as `fingerprint`, that are no keys of the config.
  """
  free = {"seed", *directory.FREE_KEYS}
  identity = evaluation.identity(run.facts)
  splits = {
    f"data.{name}": identity.pop(name) for name in ("train_split", "eval_split")
  }
  values = config_lib.flatten(run.config) | splits
  if run.config.data.dataset.startswith(registry.FOLDER):
    del values["data.dataset"]  # the fingerprint tells folders apart
  return {key: value for key, value in values.items() if key not in free} | identity


def used_settings(run: FinishedRun) -> dict[str, Any]:
  """Returns the `settings` of a run without the keys that have no effect in it."""
  unused = effects.without_effect(run.config)
  return {key: value for key, value in settings(run).items() if key not in unused}


def differing(groups: Sequence[Group]) -> dict[str, list[str | None]]:
  """Returns each setting in which groups differ, with every group's value.

  A value is None in a group in which the setting has no effect.
  """
  values = [used_settings(group.runs[0]) for group in groups]
  keys = dict.fromkeys(key for mine in values for key in mine)
  return {
    key: [_value(mine[key]) if key in mine else None for mine in values]
    for key in keys
    if any(mine.get(key) != values[0].get(key) for mine in values)
  }


def labels(groups: Sequence[Sequence[FinishedRun]]) -> list[str]:
  """Returns a label for each group.

  The label is the config's name, followed by the values in which the group differs from
  other groups of the same name, such as `learning_rate=0.003`. If all groups have the
  same name, it is left out.
  """
  names = [name_of(same[0]) for same in groups]
  values = [settings(same[0]) for same in groups]
  found = []
  for name, mine in zip(names, values, strict=True):
    alike = [other for n, other in zip(names, values, strict=True) if n == name]
    differ = [key for key in mine if any(other[key] != mine[key] for other in alike)]
    parts = [f"{_short(key)}={_value(mine[key])}" for key in differ]
    without_name = parts and len(alike) == len(groups)
    found.append(", ".join(parts if without_name else [name, *parts]))
  return found


def _short(key: str) -> str:
  """Returns the last part of a key, or all of it if another key has the same."""
  last = [each.rpartition(".")[2] for each in config_lib.fields()]
  short = key.rpartition(".")[2]
  return short if last.count(short) <= 1 else key


def _value(value: Any) -> str:
  is_hash = isinstance(value, str) and len(value) == 64 and value.isalnum()
  return value[:12] if is_hash else str(value)


def group(runs: Sequence[FinishedRun]) -> tuple[list[list[FinishedRun]], list[str]]:
  """Groups runs that differ only in their seed, or in keys without effect.

  Runs of a group have the same data, splits and NUMERICS. Groups are in the order of
  their first runs.

  Returns:
    The groups, and a line for each run that was left out because another one has the
    same config, data and seed.
  """
  groups: dict[str, dict[int, FinishedRun]] = {}
  notes = []
  for run in runs:
    # A type whose class was changed is another network under the same name.
    network = run.facts["parameters"]
    same = groups.setdefault(json.dumps([used_settings(run), network]), {})
    other = same.setdefault(run.config.seed, run)
    if other is not run:
      notes.append(
        f"{shown(run.workdir)}: left out: {shown(other.workdir)} has the same config, "
        "data and seed"
      )
  return [list(same.values()) for same in groups.values()], notes


def most_accurate(groups: Sequence[Group], number: int) -> list[Group]:
  """Returns the groups of the highest mean accuracies, at most `number`, in order."""
  means = [tables.mean_and_deviation(g.values("eval_accuracy"))[0] for g in groups]
  order = sorted(range(len(groups)), key=lambda index: -means[index])
  return [groups[index] for index in sorted(order[:number])]
