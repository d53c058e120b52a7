"""Compares finished runs: `python -m cifar_flax report RUN [RUN ...] --output DIR`.

RUN is a run directory, or a folder with run directories in it or below. Runs of one
config on the same data with different seeds are one row. What is no finished run is
named and left out.

Writes DIR/report.html, which embeds its pictures, the same as DIR/report.md, every
table as CSV, JSON and LaTeX in DIR/tables, and every picture as PNG and SVG in
DIR/pictures.
"""

import dataclasses
import itertools
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cifar_flax import command_line, published
from cifar_flax.errors import UserError
from cifar_flax.run import evaluation, provenance
from cifar_flax.tables import Cell, Number, Table
from cifar_flax.text import shortened, shown
from cifar_flax.tools.document import Document, Part, Picture, Section, origin

if TYPE_CHECKING:
  from cifar_flax.tools.finished import Group

MOST_PREDICTIONS = 20  # rows whose predictions are shown
MOST_NOTES = 20  # on what was left out
MOST_VALUES = 12  # of a setting, on top
_HEADING = 80  # characters of a label


def row(group: "Group", groups: Sequence["Group"]) -> dict[str, Cell]:
  """Returns the cells of a group in the table of runs, by heading.

  Args:
    group: the group.
    groups: all groups of the table; their common split is named in a heading.
  """

  def percent(name: str) -> Number:
    return Number.of([100 * value for value in group.values(name)])

  def count(number: int) -> Number:
    return Number(number, digits=0)

  adds, outcome = group.multiply_adds, group.published
  cells: dict[str, Cell] = {
    "config": group.label,
    "n": count(len(group.runs)),
    _accuracy(groups): percent("eval_accuracy"),
    "published": Number(100 * outcome.test_accuracy) if outcome else None,
    "max train accuracy, %": percent("max_train_accuracy"),
    "gap, points": percent("gap"),
    "epochs": count(len(group.runs[0].rows)),
    "parameters": count(group.parameters),
    "multiply-adds": None if adds is None else count(adds),
    "images/s": Number.of(group.values("speed"), digits=0),
    "seconds": Number.of(group.values("seconds"), digits=0),
  }
  if len({each.comparable_data() for each in groups}) > 1:
    cells["evaluated on"] = evaluated_on(group)
  return cells


def _accuracy(groups: Sequence["Group"]) -> str:
  """Returns the heading of the accuracies; it names the split if there is only one."""
  best = "best accuracy" if groups[0].which == "best" else "accuracy"
  splits = {each.eval_split for each in groups}
  on = f" on {shown(groups[0].eval_split)}" if len(splits) == 1 else ""
  return f"{best}{on}, %"


def evaluated_on(group: "Group") -> str:
  """Returns split, data set, number of images, fingerprint and NUMERICS."""
  facts = group.runs[0].facts
  data = facts["data"]
  return (
    f"{group.eval_split} of {data['name']} ({data['eval_examples']:,} images, "
    f"{data['fingerprint'][:12]}, numerics {facts.get('numerics', 'unknown')})"
  )


def table(groups: Sequence["Group"]) -> Table:
  """Returns the table of runs.

  The best numbers are marked where they can be compared: accuracies on the same data,
  times on the same machine.
  """
  rows = [row(group, groups) for group in groups]
  best = {"parameters": min, "multiply-adds": min}
  if len({group.comparable_data() for group in groups}) == 1:
    best[_accuracy(groups)] = max
  if len({run.facts["device"] for group in groups for run in group.runs}) == 1:
    best |= {"images/s": max, "seconds": min}
  found = Table(
    "Accuracies and costs",
    list(rows[0]),
    [list(cells.values()) for cells in rows],
    notes(groups),
    "runs",
    best,
  )
  if found.marked():
    found.note("The best mean of a column is marked; its lead may be due to chance.")
  return found.without_empty_columns()


def notes(groups: Sequence["Group"]) -> list[str]:
  """Returns what a reader of the table must know."""
  which = groups[0].which
  after = "those after the last epoch"
  if which == "best":
    after = "those of the run's best epoch"
  found = [
    "Mean ± standard deviation (n - 1) over n seeds; no deviation for n = 1. "
    f"Accuracies are {after}; training accuracy is measured during training, with "
    f"dropout and augmentation. {published.GAP} Published: one run, after the same "
    "number of epochs. Multiply-adds are per image. images/s is the median over the "
    "epochs after the first, without evaluation."
  ]
  if which == "best":
    choices = [
      evaluation.choice("best", run.rows, group.eval_split)
      for group in groups
      for run in group.runs
    ]
    found.append(
      f"Each run's epoch is the {' or '.join(dict.fromkeys(choices))}: its accuracy on "
      "these images is too high."
    )
  if len({group.comparable_data() for group in groups}) > 1:
    found.append(
      "Accuracies are comparable only between rows that were evaluated on the same."
    )
  by_reason: dict[str, list[str]] = {}
  for group in groups:
    if group.unpublished:
      by_reason.setdefault(group.unpublished, []).append(shortened(group.label, 60))
  for reason, labels in by_reason.items():
    found.append(f"No published result for {_some(labels)}, because {reason}.")
  data = [run.facts["data"] for group in groups for run in group.runs]
  cautions = [f"Warning: {each}." for one in data for each in evaluation.cautions(one)]
  return found + list(dict.fromkeys(cautions))


def _some(names: Sequence[str], most: int = 5) -> str:
  more = len(names) - most
  return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def facts(groups: Sequence["Group"], command: str) -> dict[str, list[str]]:
  """Returns what is said on top: how the report was made, and of which data."""
  from cifar_flax.tools import finished

  every = [run.facts for group in groups for run in group.runs]
  commits = [
    provenance.describe_commit(each.get("commit"), each.get("modified"))
    for each in every
  ]
  settings = []
  for name, values in finished.differing(groups).items():
    distinct = list(dict.fromkeys(value or "-" for value in values))
    settings.append(f"{name}: {_some(distinct, MOST_VALUES)}")
  found = origin(command) | {
    "trained at commit": commits,
    "trained on": [each["device"] for each in every],
    "data": [evaluation.describe_data(each["data"], plain=True) for each in every],
    "settings that differ": settings,
  }
  return {name: list(dict.fromkeys(lines)) for name, lines in found.items()}


def settings_table(groups: Sequence["Group"]) -> Table:
  """Returns the table of the settings in which the groups differ."""
  from cifar_flax.tools import finished

  differ = finished.differing(groups)
  values = zip(*differ.values(), strict=True)
  rows = [[group.label, *row] for group, row in zip(groups, values, strict=True)]
  unused = any(None in column for column in differ.values())
  notes = ["A setting has no effect where there is -."] if unused else []
  return Table("Those that differ", ["config", *differ], rows, notes, "settings")


def compose(
  groups: Sequence["Group"], left_out: Sequence[str] = (), command: str = ""
) -> Document:
  """Returns the report.

  Args:
    groups: the rows of the report.
    left_out: a line for each run that is not in it.
    command: the command line that makes it.
  """
  from cifar_flax.tools import plots

  curves = plots.curves(groups).items()
  more = len(left_out) - MOST_NOTES
  also = [f"{more:,} more were left out."] if more > 0 else []
  sections = [
    Section("Results", [table(groups)]),
    Section("Left out", [*left_out[:MOST_NOTES], *also]),
    Section("Curves", [Picture(f"curves_{k}", f"{k} by epoch", v) for k, v in curves]),
    *_costs(groups),
    *_predictions(groups),
  ]
  if len(groups) > 1:
    sections.append(Section("Settings", [settings_table(groups)], is_open=False))
  what = shortened(groups[0].label, _HEADING)
  if len(groups) > 1:
    what = f"{len(groups)} configs"
  data = dict.fromkeys(group.data["name"] for group in groups)
  title = f"{what} on {_some(list(data))}"
  return Document(title, facts(groups, command), sections)


def _predictions(groups: Sequence["Group"]) -> list[Section]:
  """Returns the sections on what the most accurate groups predict."""
  from cifar_flax.tools import finished, plots, predictions

  chosen = finished.most_accurate(groups, MOST_PREDICTIONS)
  matrices: list[Part] = []
  mistakes: list[Part] = []
  classes: list[Part] = []
  trouble = []
  for number, group in enumerate(chosen):
    found = group.predictions
    trouble += group.trouble
    if found is None:
      continue
    title = f"{shortened(group.label, _HEADING)}, seed {found.run.config.seed}"
    matrix = plots.confusion(found)
    matrices.append(Picture(f"confusion_{number}", title, matrix))
    if predictions.mistakes(found, 1):
      wrong = plots.mistakes(found)
      mistakes.append(Picture(f"mistakes_{number}", title, wrong, is_photo=True))
    classes.append(predictions.class_table(found, title, f"classes_{number}"))
  if matrices:
    of = " of the best epoch" if groups[0].which == "best" else ""
    text = f"Predictions{of}, in percent of the images of each class."
    if len(chosen) < len(groups):
      text += f" Those of the {len(chosen)} most accurate of {len(groups)} rows."
    matrices.insert(0, text)
  if mistakes:
    mistakes.insert(0, "Above each image: its class, then the predicted one.")
  return [
    Section("No predictions", trouble),
    Section("Confusion matrices", matrices),
    Section("Most confident mistakes", mistakes),
    Section("Accuracy by class", classes, is_open=len(chosen) == 1),
  ]


def _costs(groups: Sequence["Group"]) -> list[Section]:
  """Returns sections with pictures of accuracy against each cost.

  Groups that were evaluated on different data are in different sections.
  """
  together: dict[tuple, list[Group]] = {}
  for group in groups:
    together.setdefault(group.comparable_data(), []).append(group)
  compared = [same for same in together.values() if len(same) > 1]
  return [
    Section(
      f"Costs, evaluated on {evaluated_on(same[0])}" if len(together) > 1 else "Costs",
      _costs_of(same, f"{number}_" if number else ""),
    )
    for number, same in enumerate(compared)
  ]


def _costs_of(groups: Sequence["Group"], prefix: str) -> list[Part]:
  """Returns a picture of accuracy against each cost that differs, and what it shows."""
  from cifar_flax.tools import comparison, finished, plots

  entries = [group.entry() for group in groups]
  best = "best " if groups[0].which == "best" else ""
  label = f"{best}accuracy on {shown(groups[0].eval_split)}, %"
  parts: list[Part] = []
  for number, cost in enumerate(entries[0].costs):
    if len({entry.costs[cost] for entry in entries}) == 1:
      continue  # such as the parameters of networks that differ in their learning rate
    picture = plots.cost(entries, cost, label, finished.budget(groups))
    name, _, _ = cost.partition(",")
    parts.append(Picture(f"cost_{prefix}{number}", f"accuracy against {name}", picture))
  least = comparison.LEAST_SEEDS
  common = [
    len(one.accuracies.keys() & other.accuracies.keys())
    for one, other in itertools.combinations(entries, 2)
  ]
  text = "Bars are standard deviations (n - 1) over the seeds."
  if max(common) < least:
    text += f" No Pareto front is drawn: no two configs have {least} seeds in common."
  else:
    text += (
      " The line is the Pareto front. It joins configs of which each is clearly more "
      f"accurate than the one before it: over at least {least} common seeds, the "
      f"{100 * comparison.CONFIDENCE:g} % interval of the mean difference is above "
      "zero. A figure without a line has no such pair."
    )
  return [*parts, text] if parts else []


_MOVED = (
  "--config.data.data_dir=DIR and --config.data.dataset=folder:PATH say where the\n"
  "data of the runs are now"
)


def run(argv: list[str]) -> None:
  """Writes the report of a command line and prints its table."""
  parser = command_line.Parser("report", __doc__, _MOVED)
  parser.add_argument(
    "runs", nargs="*", metavar="RUN", help="run directories, or folders of them"
  )
  parser.add_argument("--output", metavar="DIR", default="report", help="%(default)s")
  parser.add_argument(
    "--checkpoint",
    default="last",
    help="best or last: the epoch whose results are reported (%(default)s)",
  )
  overrides, others = command_line.split_overrides(argv)
  flags = parser.parse_args(others)
  command_line.check_choice(flags, "checkpoint", command_line.CHECKPOINTS)
  if not flags.runs:
    raise UserError("no RUN is given; give run directories, such as runs/net6b")
  from cifar_flax.tools import finished  # imports JAX

  runs, left_out = finished.find(flags.runs)
  if not runs:
    raise UserError(f"there is no finished run to report: {_some(left_out, 3)}")
  finished.relocate(runs, overrides)
  grouped, twice = finished.group(runs)
  left_out += twice
  labels = finished.labels(grouped)
  groups = [
    finished.Group(same, label, flags.checkpoint)
    for same, label in zip(grouped, labels, strict=True)
  ]
  command = provenance.command(sys.orig_argv, os.getcwd())
  document = compose(groups, left_out, command)
  document.write(pathlib.Path(flags.output), "report")
  found = table(groups)
  trouble = [line for group in groups for line in group.trouble]
  found.notes = [*left_out, *trouble, *found.notes[1:], *document.facts["data"]]
  print(dataclasses.replace(found, title="Runs").text())
  print(shown(pathlib.Path(flags.output) / "report.html"))
