"""Writes README's tables and pictures from `results/`: `make evidence`.

Each table replaces the lines of README between its two marks. Each network that was
trained to its published length gets a picture, docs/<config>_curves.png. `publish` adds
runs to `results/`, and the study's command writes study.json beside its own.
"""

import pathlib
import sys
from typing import Any

from cifar_flax import command_line, figures, published, tables
from cifar_flax.errors import UserError
from cifar_flax.run.files import read_json, write_atomically
from cifar_flax.tables import Cell, Number, Table
from cifar_flax.tools import comparison, finished
from cifar_flax.tools.comparison import Entry
from cifar_flax.tools.finished import Group
from cifar_flax.tools.study import BASE

BEGIN, END = "<!-- {}: made by `make evidence` -->", "<!-- until here -->"
NETWORKS, TYPES = "networks", "types"  # README's tables
COLUMNS = (
  "network",
  "recipe",
  "n",
  "epochs",
  "test accuracy, %",
  "max. train accuracy, %",
  "gap, points",
  "hours",
)


def read(folder: pathlib.Path) -> dict[str, Group]:
  """Returns the runs directly in a folder by the name of their config.

  Raises:
    UserError: something in it is no finished run, or runs of one config differ in more
      than their seed.
  """
  runs, notes = finished.find([str(f.parent) for f in sorted(folder.glob("*/*.jsonl"))])
  groups, doubled = finished.group(runs)
  if notes or doubled:
    raise UserError("; ".join([*notes, *doubled]))
  found = {finished.name_of(group[0]): Group(group) for group in groups}
  if len(found) < len(groups):
    raise UserError(f"{str(folder)!r}: runs of one config differ in more than the seed")
  return found


def networks(groups: dict[str, Group]) -> Table:
  """Returns a row for each recipe of each network: published, faithful, tuned."""
  found = Table("Published and ours", COLUMNS)
  tuned_of = {network: tuned for tuned, network in published.TUNED.items()}
  for network in published.CONFIGS:
    names = {"faithful": network, "tuned": tuned_of.get(network, "")}
    ours = {recipe: groups[name] for recipe, name in names.items() if name in groups}
    if not ours:
      continue
    rows = [_published_row(network)]
    rows += [[recipe, *_cells(group)] for recipe, group in ours.items()]
    found.rows += [
      ["" if number else f"`{network}`", *row] for number, row in enumerate(rows)
    ]
  return found


def _published_row(network: str) -> list[Cell]:
  known = published.lookup(network)
  outcome = known and published.after(network, known.epochs)
  if not outcome:
    return ["published", None, None, None, None, None, None]
  return [
    "published",
    Number(1, digits=0),
    Number(outcome.epochs, digits=0),
    Number(100 * outcome.test_accuracy),
    Number(100 * outcome.max_train_accuracy),
    Number(100 * outcome.gap),
    None,
  ]


def _cells(group: Group) -> list[Cell]:
  """Returns a group's cells; hours are those at the speed of its fastest epoch."""
  run = group.runs[0]
  images = len(run.rows) * run.facts["data"]["train_examples"]
  fastest = max(row["images_per_second"] for run in group.runs for row in run.rows)
  percent = ("eval_accuracy", "max_train_accuracy", "gap")
  return [
    Number(len(group.runs), digits=0),
    Number(len(run.rows), digits=0),
    *(Number.of([100 * value for value in group.values(name)]) for name in percent),
    Number(images / fastest / 3600, digits=1),
  ]


def types(study: dict[str, Any]) -> Table:
  """Returns a row for each type of convolution: its costs, and each comparison.

  Args:
    study: the content of the study.json of a study that has compared slots.
  """
  compared = {
    name: {kind: _entry(kind, found) for kind, found in of_name.items()}
    for name, of_name in study["comparisons"].items()
  }
  columns = ["type", "parameters", "multiply-adds", "images/s, training"]
  for name in compared:
    columns += [f"accuracy, % (same {name.replace('_', '-')})", "difference to plain"]
  found = Table("What a type costs and gains", columns)
  for kind, of_kind in study["comparisons"]["slots"].items():
    costs = of_kind["costs"]
    microseconds = costs.get("training time per image, µs")
    cells: list[Cell] = [
      Number(costs["parameters"], digits=0),
      Number(costs["multiply-adds"], digits=0),
      Number(1e6 / microseconds, digits=0) if microseconds else None,
    ]
    for of_name in compared.values():
      cells += _compared(of_name.get(kind), of_name[BASE])
    found.rows.append([f"`{kind}`", *cells])
  return found.without_empty_columns()


def _entry(kind: str, found: dict[str, Any]) -> Entry:
  return Entry(kind, found["accuracies"], found["costs"])


def _compared(entry: Entry | None, base: Entry) -> list[Cell]:
  """Returns an accuracy, and its difference to that of the base, with its interval."""
  if entry is None:
    return [None, None]
  gap = comparison.difference(entry, base) if entry is not base else None
  return [Number.of(list(entry.accuracies.values())), gap.text() if gap else None]


def replace(text: str, name: str, lines: list[str]) -> str:
  """Returns a Markdown text with other lines between the marks of a table."""
  begin = BEGIN.format(name)
  before, found, rest = text.partition(begin)
  _, ended, after = rest.partition(END)
  if not (found and ended):
    raise UserError(f"README.md: the lines {begin} and {END} are missing")
  return "\n".join([before + found, "", *lines, "", END + after])


def write(root: pathlib.Path) -> None:
  """Writes README's tables and the pictures of the repository in `root`."""
  from cifar_flax.tools import plots

  groups = read(root / "results")
  made = {NETWORKS: networks(groups)}
  if (study := root / "results" / "study" / "study.json").exists():
    made[TYPES] = types(read_json(study))
  text = (root / "README.md").read_text()
  for name, table in made.items():
    rows = [[tables.cell_text(cell) for cell in row] for row in table.rows]
    text = replace(text, name, tables.markdown(table.columns, rows))
    print(table.text())
  write_atomically(root / "README.md", text.encode())
  for name, group in groups.items():
    known = published.lookup(name)
    if group.published and known and len(group.runs[0].rows) == known.epochs:
      picture = figures.png(plots.curves([group])["accuracy"])
      write_atomically(root / "docs" / f"{name}_curves.png", picture)


def main() -> int:
  """Runs the command; returns 0, or 2 if `results/` or README are not as expected."""
  try:
    write(pathlib.Path.cwd())
    return 0
  except UserError as error:
    return command_line.report_error(error)


if __name__ == "__main__":
  sys.exit(main())
