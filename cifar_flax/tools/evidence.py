"""Writes README's table and pictures of whole runs from `results/`: `make evidence`.

The table replaces the lines of README between its two marks. Each network that was
trained to its published length gets a picture, docs/<config>_curves.png. `publish` adds
a run to `results/`.
"""

import pathlib
import sys

from cifar_flax import command_line, figures, published, tables
from cifar_flax.errors import UserError
from cifar_flax.run.files import write_atomically
from cifar_flax.tables import Cell, Number, Table
from cifar_flax.tools import finished
from cifar_flax.tools.finished import Group

BEGIN, END = "<!-- made by `make evidence` -->", "<!-- until here -->"
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


def table(groups: dict[str, Group]) -> Table:
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


def replace(text: str, lines: list[str]) -> str:
  """Returns a Markdown text with other lines between its marks."""
  before, found, rest = text.partition(BEGIN)
  _, ended, after = rest.partition(END)
  if not (found and ended):
    raise UserError(f"the lines {BEGIN} and {END} are missing")
  return "\n".join([before + found, "", *lines, "", END + after])


def write(root: pathlib.Path) -> None:
  """Writes README's table and the pictures of the repository in `root`."""
  from cifar_flax.tools import plots

  groups = read(root / "results")
  made = table(groups)
  rows = [[tables.cell_text(cell) for cell in row] for row in made.rows]
  readme = root / "README.md"
  text = replace(readme.read_text(), tables.markdown(COLUMNS, rows))
  write_atomically(readme, text.encode())
  for name, group in groups.items():
    known = published.lookup(name)
    if group.published and known and len(group.runs[0].rows) == known.epochs:
      picture = figures.png(plots.curves([group])["accuracy"])
      write_atomically(root / "docs" / f"{name}_curves.png", picture)
  print(made.text())


def main() -> int:
  """Runs the command; returns 0, or 2 if `results/` or README are not as expected."""
  try:
    write(pathlib.Path.cwd())
    return 0
  except UserError as error:
    return command_line.report_error(error)


if __name__ == "__main__":
  sys.exit(main())
