"""Writes tables and pictures from `results/`: `make evidence`.

Each table replaces the lines of a Markdown file between its two marks. Each network
with a published curve that was trained whole gets a picture, docs/<config>_curves.png.
`publish` adds runs to `results/`, and the study's command writes study.json beside its
own. With nothing else running, `make evidence ARGS=--measure` first measures how fast
each config trains on this machine, from which the hours of a run follow, and writes
results/measured.json.
"""

import argparse
import json
import pathlib
import statistics
import sys
from collections import Counter
from typing import Any

from cifar_flax import command_line, effects, figures, published, tables
from cifar_flax import config as config_lib
from cifar_flax.config import Config
from cifar_flax.errors import UserError
from cifar_flax.run import directory
from cifar_flax.run.files import read_json, write_atomically
from cifar_flax.tables import Cell, Number, Table
from cifar_flax.tools import comparison, finished
from cifar_flax.tools.comparison import Entry
from cifar_flax.tools.finished import Group
from cifar_flax.tools.study import BASE, MEASURED

BEGIN, END = "<!-- {}: made by `make evidence` -->", "<!-- until here -->"
# Tables; the others are comparisons of types. SEARCH and SHORT are folders as well.
NETWORKS, REACHED, SEARCH, SHORT = "networks", "reached", "search", "short"
README, RECIPE = "README.md", "docs/recipe.md"
FIRST = "on_test/first/net6b_tuned"  # of SEARCH: a run of the recipe it began with
# Keys that have a column of their own in a table of trials, or follow from one.
OWN_COLUMNS = ("model.name", "num_epochs", "data.train_split", "data.eval_split")
COSTS = ("parameters", "multiply-adds")  # of a type
WINDOWS = 5  # of a second each, when speed is measured
COLUMNS = (
  "network",
  "recipe",
  "n",
  "trained on",
  "epochs",
  "test accuracy, %",
  "max. train accuracy, %",
  "gap, points",
  "hours on two cores",
)


def read(folder: pathlib.Path) -> dict[str, Group]:
  """Returns the runs directly in a folder by the name of their config.

  Raises:
    UserError: something in it is no finished run, or runs of one config differ in more
      than their seed.
  """
  groups = _grouped([str(file.parent) for file in sorted(folder.glob("*/*.jsonl"))])
  found = {finished.name_of(group.runs[0]): group for group in groups}
  if len(found) < len(groups):
    raise UserError(f"{str(folder)!r}: runs of one config differ in more than the seed")
  return found


def networks(groups: dict[str, Group], speeds: dict[str, Any]) -> Table:
  """Returns a row for each recipe of each network: published, faithful, tuned.

  Args:
    groups: the runs by the name of their config.
    speeds: the `networks` of measured.json, by the name of their config.
  """
  found = Table("Published and ours", COLUMNS)
  tuned_of = {network: tuned for tuned, network in published.TUNED.items()}
  for network in published.CONFIGS:
    names = {"faithful": network, "tuned": tuned_of.get(network, "")}
    ours = {recipe: groups[name] for recipe, name in names.items() if name in groups}
    if not ours:
      continue
    rows = _published_rows(network)
    rows += [[recipe, *_cells(group, speeds)] for recipe, group in ours.items()]
    found.rows += [
      ["" if number else f"`{network}`", *row] for number, row in enumerate(rows)
    ]
  return found


def _published_rows(network: str) -> list[list[Cell]]:
  """Returns a row with the published result of a network, if it has one."""
  known = published.lookup(network)
  outcome = known and published.after(network, known.epochs)
  if not outcome:
    return []
  return [
    [
      "published",
      Number(1, digits=0),
      None,
      Number(outcome.epochs, digits=0),
      Number(100 * outcome.test_accuracy),
      Number(100 * outcome.max_train_accuracy),
      Number(100 * outcome.gap),
      None,
    ]
  ]


def _cells(group: Group, speeds: dict[str, Any]) -> list[Cell]:
  """Returns a group's cells; hours are training alone, at the measured speed."""
  seconds = _seconds(group, speeds)
  return [
    Number(len(group.runs), digits=0),
    _devices(group),
    Number(len(group.runs[0].rows), digits=0),
    *_outcome(group),
    Number(seconds / 3600, digits=1) if seconds else None,
  ]


def _seconds(group: Group, speeds: dict[str, Any]) -> float | None:
  """Returns how long a run of a group trains at the measured speed of its config."""
  run = group.runs[0]
  if not (measured := speeds.get(finished.name_of(run))):
    return None
  images = len(run.rows) * run.facts["data"]["train_examples"]
  return images / statistics.median(measured["training"])


def _outcome(group: Group) -> list[Cell]:
  """Returns a group's accuracy, highest training accuracy and gap, in percent."""
  names = ("eval_accuracy", "max_train_accuracy", "gap")
  return [Number.of([100 * value for value in group.values(name)]) for name in names]


def _devices(group: Group) -> str:
  """Returns what a group's runs were trained on, such as "1 CPU, 2 GPU"."""
  kinds = Counter(_kind(run.facts["device"]) for run in group.runs)
  if len(kinds) == 1:
    return next(iter(kinds))
  return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _kind(device: str) -> str:
  """Returns the kind of a device that `provenance.hardware` describes."""
  name = device.split(" x ", 1)[1].upper()
  return next((kind for kind in ("CPU", "TPU") if name.startswith(kind)), "GPU")


def reached(tuned: list[Group], speeds: dict[str, Any]) -> Table:
  """Returns each network's shortest tuned runs that reach the published accuracy.

  A network whose tuned runs do not reach it has dashes.

  Args:
    tuned: runs of tuned configs, of any length, evaluated on anything.
    speeds: the `networks` of measured.json, by the name of their config.
  """
  columns = ("network", "published accuracy, %", "its epochs")
  ours = ("epochs of ours that reach it", "test accuracy, %", "minutes on two cores")
  found = Table("The published accuracy in fewer epochs", (*columns, *ours))
  for name, network in published.TUNED.items():
    of_network = [g for g in tuned if finished.name_of(g.runs[0]) == name]
    known = published.lookup(network)
    if not (of_network and known and known.test_accuracy):
      continue
    passed = [
      group
      for group in of_network
      if not published.obstacle(group.runs[0].facts["data"])
      and statistics.fmean(group.values("eval_accuracy")) >= known.test_accuracy
    ]
    target = Number(100 * known.test_accuracy), Number(known.epochs, digits=0)
    shortest = min(passed, key=_length_then_error, default=None)
    found.rows.append([f"`{network}`", *target, *_shortest(shortest, speeds)])
  return found


def _length_then_error(group: Group) -> tuple[int, float]:
  return len(group.runs[0].rows), -statistics.fmean(group.values("eval_accuracy"))


def _shortest(group: Group | None, speeds: dict[str, Any]) -> list[Cell]:
  if group is None:
    return [None, None, None]
  seconds = _seconds(group, speeds)
  return [
    Number(len(group.runs[0].rows), digits=0),
    _outcome(group)[0],
    Number(seconds / 60, digits=0) if seconds else None,
  ]


def trials(tried: list[Group], recipe: str, of_network: dict[str, Config]) -> Table:
  """Returns a row for each recipe that was tried, the longest and best first.

  Args:
    tried: the runs, of several networks and lengths.
    recipe: what the recipe is called that the others were made from.
    of_network: its config for each network.
  """
  columns = ("network", "epochs", "evaluated on", f"changed in the {recipe} recipe")
  title = f"What was tried, from the {recipe} recipe on"
  own = {"seed", *directory.FREE_KEYS, *OWN_COLUMNS}
  found = Table(title, (*columns, "n", "accuracy, %", *COLUMNS[6:8]))

  def order(group: Group) -> tuple[Any, ...]:
    mean = statistics.fmean(group.values("eval_accuracy"))
    epochs = len(group.runs[0].rows)
    return group.runs[0].config.model.name, -epochs, group.eval_split, -mean

  for group in sorted(tried, key=order):
    config = group.runs[0].config
    network = config.model.name
    changed = effects.differences(of_network[network], config).items()
    words = [f"`{key}={value}`" for key, (_, value) in changed if key not in own]
    found.rows.append(
      [
        f"`{network}`",
        Number(len(group.runs[0].rows), digits=0),
        f"`{group.eval_split}`",
        ", ".join(words) or "nothing",
        Number(len(group.runs), digits=0),
        *_outcome(group),
      ]
    )
  return found


def types(study: dict[str, Any]) -> dict[str, Table]:
  """Returns a table for each comparison of a study, with a row for each type.

  Args:
    study: the content of its study.json.
  """
  columns = ("type", *COSTS, "images/s", "accuracy, %", f"against {BASE}, points")
  found = {}
  for name, of_kind in study["comparisons"].items():
    title = f"What a type costs and gains: the same {name.replace('_', '-')}"
    found[name] = Table(title, columns)
    entries = [Entry(k, of["accuracies"], of["costs"]) for k, of in of_kind.items()]
    base = next(entry for entry in entries if entry.name == BASE)
    found[name].rows = [_type_row(entry, base) for entry in entries]
  return found


def _type_row(entry: Entry, base: Entry) -> list[Cell]:
  """Returns a type's costs, accuracy, and difference to the base with its interval."""
  microseconds = entry.costs.get("training time per image, µs")
  speed = 1e6 / microseconds if microseconds else None
  gap = comparison.difference(entry, base) if entry is not base else None
  return [
    f"`{entry.name}`",
    *(_whole(cost) for cost in (*map(entry.costs.get, COSTS), speed)),
    Number.of(list(entry.accuracies.values())),
    gap.text() if gap else None,
  ]


def _whole(value: float | None) -> Cell:
  return None if value is None else Number(value, digits=0)


def replace(text: str, name: str, lines: list[str]) -> str:
  """Returns a Markdown text with other lines between the marks of a table."""
  begin = BEGIN.format(name)
  before, found, rest = text.partition(begin)
  _, ended, after = rest.partition(END)
  if not (found and ended):
    raise UserError(f"the lines {begin} and {END} are missing")
  return "\n".join([before + found, "", *lines, "", END + after])


def below(folder: pathlib.Path) -> list[Group]:
  """Returns the runs anywhere in a folder, those with equal settings together.

  Raises:
    UserError: there is none, or something in it is no finished run.
  """
  return _grouped([str(folder)])


def _grouped(paths: list[str]) -> list[Group]:
  runs, notes = finished.find(paths)
  groups, doubled = finished.group(runs)
  if notes or doubled or not groups:
    raise UserError("; ".join([*notes, *doubled]) or f"{paths}: no finished run")
  return [Group(group) for group in groups]


def measure(root: pathlib.Path) -> None:
  """Measures how fast the configs in `results/` train, and keeps it there."""
  from cifar_flax.tools import measurement

  results = root / "results"
  groups = [*below(results / SHORT), *read(results).values()]
  configs = {finished.name_of(g.runs[0]): g.runs[0].config for g in groups}
  found = measurement.record(configs, num_classes=10, windows=WINDOWS)
  text = json.dumps(found, indent=2) + "\n"
  write_atomically(results / MEASURED, text.encode())


def made(root: pathlib.Path) -> dict[str, dict[str, Table]]:
  """Returns the tables of each file, for the results in the repository in `root`."""
  results = root / "results"
  groups, measured = read(results), results / MEASURED
  speeds = read_json(measured)["networks"] if measured.exists() else {}
  short = below(results / SHORT) + [groups[n] for n in published.TUNED if n in groups]
  first = config_lib.load(str(results / SEARCH / FIRST / "config.json"))
  configs = [config_lib.load(str(root / f"configs/{n}.py")) for n in published.TUNED]
  tuned = {config.model.name: config for config in configs}
  return {
    README: {
      NETWORKS: networks(groups, speeds),
      REACHED: reached(short, speeds),
      **types(read_json(results / "study" / "study.json")),
    },
    RECIPE: {
      SEARCH: trials(below(results / SEARCH), "first", dict.fromkeys(tuned, first)),
      SHORT: trials(short, "tuned", tuned),
    },
  }


def write(root: pathlib.Path) -> None:
  """Writes the tables and the pictures of the repository in `root`."""
  from cifar_flax.tools import plots

  for file, of_file in made(root).items():
    text = (root / file).read_text()
    for name, table in of_file.items():
      rows = [[tables.cell_text(cell) for cell in row] for row in table.rows]
      text = replace(text, name, tables.markdown(table.columns, rows))
      print(table.text())
    write_atomically(root / file, text.encode())
  for name, group in read(root / "results").items():
    known = published.lookup(name)
    if group.published and known and len(group.runs[0].rows) == known.epochs:
      picture = figures.png(plots.curves([group])["accuracy"])
      write_atomically(root / "docs" / f"{name}_curves.png", picture)


def main() -> int:
  """Runs the command; returns 0, or 2 if `results/` or a file is not as expected."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--measure", action="store_true", help="measures speed first")
  flags = parser.parse_args()
  try:
    if flags.measure:
      measure(pathlib.Path.cwd())
    write(pathlib.Path.cwd())
    return 0
  except UserError as error:
    return command_line.report_error(error)


if __name__ == "__main__":
  sys.exit(main())
