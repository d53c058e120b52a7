"""Compares finished runs: `python -m cifar_flax report RUN [RUN ...] --output DIR`.

RUN is a run directory, or a folder with run directories in it or below. Writes
DIR/report.md with its pictures and DIR/report.html, which embeds the pictures. Runs of
one config on the same data with different seeds are one row. What is no finished run is
named and left out.
"""

import base64
import html
import itertools
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cifar_flax import command_line, published, tables, text
from cifar_flax.errors import UserError
from cifar_flax.run import evaluation
from cifar_flax.run.files import name_in_errors
from cifar_flax.tables import Table, spread
from cifar_flax.text import shortened, shown

if TYPE_CHECKING:
  from cifar_flax.tools.finished import FinishedRun, Group, Predictions

MOST_PREDICTIONS = 20  # rows whose predictions are shown
MOST_CLASSES = 40  # in a table of classes
MOST_NOTES = 20  # on what was left out
_HEADING = 80  # characters of a label


def row(group: "Group", groups: Sequence["Group"]) -> dict[str, str]:
  """Returns the cells of a group in the table of runs, by heading.

  Args:
    group: the group.
    groups: all groups of the table; their common split is named in a heading.
  """

  def percent(name: str) -> str:
    return spread([100 * value for value in group.values(name)])

  best = "best accuracy" if group.which == "best" else "accuracy"
  outcome, splits = group.published, {each.eval_split for each in groups}
  on = f" on {shown(group.eval_split)}" if len(splits) == 1 else ""
  cells = {
    "config": group.label,
    "n": str(len(group.runs)),
    "parameters": f"{group.parameters:,}",
    "multiply-adds": f"{group.multiply_adds:,}" if group.multiply_adds else "-",
    "epochs": str(len(group.runs[0].rows)),
  }
  if len({each.comparable_data() for each in groups}) > 1:
    cells["evaluated on"] = evaluated_on(group)
  return cells | {
    f"{best}{on}, %": percent("eval_accuracy"),
    "published": f"{100 * outcome.test_accuracy:.2f}" if outcome else "-",
    "max train accuracy, %": percent("max_train_accuracy"),
    "gap, points": percent("gap"),
    "images/s": spread(group.values("speed"), digits=0),
    "seconds": spread(group.values("seconds"), digits=0),
  }


def evaluated_on(group: "Group") -> str:
  """Returns split, data set, number of images, fingerprint and NUMERICS."""
  facts = group.runs[0].facts
  data = facts["data"]
  return (
    f"{group.eval_split} of {data['name']} ({data['eval_examples']:,} images, "
    f"{data['fingerprint'][:12]}, numerics {facts.get('numerics', 'unknown')})"
  )


def table(groups: Sequence["Group"]) -> list[list[str]]:
  """Returns the table of runs; the first row has the headings."""
  rows = [row(group, groups) for group in groups]
  return [list(rows[0]), *(list(cells.values()) for cells in rows)]


def class_rows(found: "Predictions") -> list[list[str]]:
  """Returns a row per class: images, accuracy, most frequent wrong prediction.

  Of more than `MOST_CLASSES` classes, those with the lowest and the highest accuracy
  have a row, lowest first; classes without images have none.
  """
  import numpy as np

  from cifar_flax.tools import finished

  number = len(found.class_names)
  total = np.bincount(found.labels, minlength=number)
  right = found.labels == found.predicted
  correct = np.bincount(found.labels[right], minlength=number)
  confused: dict[int, str] = {}
  for count, label, predicted in finished.confusions(found):
    confused.setdefault(label, f"{found.class_names[predicted]} ({count})")
  chosen = list(range(number))
  if number > MOST_CLASSES:
    known = np.flatnonzero(total)
    order = known[np.argsort(correct[known] / total[known], kind="stable")].tolist()
    half = MOST_CLASSES // 2
    chosen = order if len(order) <= MOST_CLASSES else order[:half] + order[-half:]
  return [
    [
      found.class_names[label],
      str(total[label]),
      f"{100 * correct[label] / total[label]:.1f}" if total[label] else "-",
      confused.get(label, "-"),
    ]
    for label in chosen
  ]


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
    found.append(f"Published: - for {_some(labels)}, because {reason}.")
  return found + _data_notes([run for group in groups for run in group.runs])


def _some(names: Sequence[str], most: int = 5) -> str:
  more = len(names) - most
  return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _data_notes(runs: Sequence["FinishedRun"]) -> list[str]:
  """Returns a line for each data set, each caution about it, and each device."""
  from cifar_flax.tools import results

  data = [run.facts["data"] for run in runs]
  lines = [results.describe_data(each, plain=True) for each in data]
  for each in data:
    lines += [f"Warning: {caution}." for caution in evaluation.cautions(each)]
  lines += [f"Trained on {run.facts['device']}." for run in runs]
  return list(dict.fromkeys(lines))


def compose(groups: Sequence["Group"], left_out: Sequence[str] = ()) -> list[Any]:
  """Returns the parts of the report.

  A string is a heading or a paragraph, a list is the rows of a table with the head
  first, and a tuple is the name and the PNG of a picture.

  Args:
    groups: the rows of the report.
    left_out: a line for each run that is not in it.
  """
  from cifar_flax import figures
  from cifar_flax.tools import finished, plots

  shown_groups = finished.most_accurate(groups, MOST_PREDICTIONS)
  parts: list[Any] = ["# Runs", table(groups), *notes(groups)]
  parts += left_out[:MOST_NOTES]
  if (more := len(left_out) - MOST_NOTES) > 0:
    parts += [f"{more:,} more were left out."]
  parts += ["## Curves", ("curves.png", figures.png(plots.curves(groups)))]
  parts += _costs(groups)
  for number, group in enumerate(shown_groups):
    parts += _predictions(group, number)
  if len(shown_groups) < len(groups):
    parts += [
      f"Predictions are shown for the {len(shown_groups)} most accurate of "
      f"{len(groups)} rows."
    ]
  return parts


def _predictions(group: "Group", number: int) -> list[Any]:
  """Returns the parts on a group's predictions; `number` is in its pictures' names."""
  from cifar_flax import figures
  from cifar_flax.tools import finished, plots

  label, found = shortened(group.label, _HEADING), group.predictions
  if found is None:
    return [f"## {label}: no predictions", *group.trouble]
  seed = found.run.config.seed
  checkpoint = " of the best epoch" if group.which == "best" else ""
  parts: list[Any] = [f"## {label}: predictions{checkpoint}, seed {seed}"]
  parts += group.trouble
  rows = class_rows(found)
  if (classes := len(found.class_names)) > MOST_CLASSES:
    parts.append(
      f"{len(rows)} of {classes:,} classes: those with the lowest and those with the "
      "highest accuracy."
    )
  parts.append([["class", "images", "accuracy, %", "most often confused with"], *rows])
  parts.append((f"confusion_{number}.png", figures.png(plots.confusion(found))))
  if finished.mistakes(found, 1):
    parts.append("The most confident mistakes: true class, then predicted class.")
    parts.append((f"mistakes_{number}.png", figures.png(plots.mistakes(found))))
  return parts


def _costs(groups: Sequence["Group"]) -> list[Any]:
  """Returns pictures of accuracy against each cost, and what they show.

  Groups that were evaluated on different data are in different pictures.
  """
  together: dict[tuple, list[Group]] = {}
  for group in groups:
    together.setdefault(group.comparable_data(), []).append(group)
  compared = [same for same in together.values() if len(same) > 1]
  parts: list[Any] = ["## Costs"] if compared else []
  for number, same in enumerate(compared):
    if len(together) > 1:
      parts.append(f"Evaluated on {evaluated_on(same[0])}:")
    parts += _costs_of(same, "" if not number else f"{number}_")
  return parts


def _costs_of(groups: Sequence["Group"], prefix: str) -> list[Any]:
  """Returns a picture of accuracy against each cost, and what it shows."""
  from cifar_flax import figures
  from cifar_flax.tools import comparison, finished, plots

  entries = [group.entry() for group in groups]
  best = "best " if groups[0].which == "best" else ""
  label = f"{best}accuracy on {shown(groups[0].eval_split)}, %"
  parts: list[Any] = []
  for number, cost in enumerate(entries[0].costs):
    picture = plots.cost(entries, cost, label, finished.budget(groups))
    parts.append((f"cost_{prefix}{number}.png", figures.png(picture)))
  least = comparison.LEAST_SEEDS
  common = [
    len(one.accuracies.keys() & other.accuracies.keys())
    for one, other in itertools.combinations(entries, 2)
  ]
  parts.append("Bars are standard deviations (n - 1) over the seeds.")
  if max(common) < least:
    parts[-1] += (
      f" No Pareto front is drawn: no two configs have {least} seeds in common."
    )
  else:
    parts[-1] += (
      " The line is the Pareto front. It joins configs of which each is clearly more "
      f"accurate than the one before it: over at least {least} common seeds, the "
      f"{100 * comparison.CONFIDENCE:g} % interval of the mean difference is above "
      "zero. A figure without a line has no such pair."
    )
  return parts


def markdown(parts: Sequence[Any]) -> str:
  """Returns the report as Markdown that links to its pictures.

  No name in a cell, a heading or a paragraph is taken for markup.
  """
  lines = []
  for part in parts:
    if isinstance(part, tuple):
      lines.append(f"![{part[0].removesuffix('.png')}]({part[0]})")
    elif isinstance(part, list):
      head, *rows = tables.escaped(part)
      lines.append("\n".join(tables.markdown(head, rows)))
    else:
      marks = part[: _level(part)]
      lines.append(f"{marks} {text.markdown(part[len(marks) :].strip())}".strip())
  return "\n\n".join(lines) + "\n"


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #333; max-width: 1300px;
  margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0 }
th, td { padding: 3px 10px; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
img { max-width: 100% }
"""


def page(parts: Sequence[Any]) -> str:
  """Returns the report as one HTML page with its pictures embedded."""
  body = []
  for part in parts:
    if isinstance(part, tuple):
      name, picture = part
      data = base64.b64encode(picture).decode()
      label = html.escape(name.removesuffix(".png"))
      body.append(f'<img alt="{label}" src="data:image/png;base64,{data}">')
    elif isinstance(part, list):
      body.append(tables.html(part))
    else:
      level = _level(part)
      tag = f"h{level}" if level else "p"
      body.append(f"<{tag}>{html.escape(shown(part[level:].strip()))}</{tag}>")
  content = "\n".join(body)
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f"<title>Runs</title><style>{_STYLE}</style></head>\n<body>\n{content}\n"
    "</body></html>\n"
  )


def _level(part: str) -> int:
  """Returns the level of a heading, 1 or 2; 0 for a paragraph."""
  return 1 if part.startswith("# ") else 2 if part.startswith("## ") else 0


def write(
  groups: Sequence["Group"], output: pathlib.Path, left_out: Sequence[str] = ()
) -> None:
  """Writes report.md, report.html and the pictures; creates the folder if needed.

  Args:
    groups: the rows of the report.
    output: the folder.
    left_out: a line for each run that is not in the report.
  """
  parts = compose(groups, left_out)
  with name_in_errors(output):
    output.mkdir(parents=True, exist_ok=True)
  files = {"report.md": markdown(parts).encode(), "report.html": page(parts).encode()}
  files |= dict(part for part in parts if isinstance(part, tuple))
  for name, data in files.items():
    with name_in_errors(path := output / name):
      path.write_bytes(data)


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
  parser.add_argument("--output", metavar="DIR", help="folder to write the report to")
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
  if flags.output is None:
    raise UserError("--output=DIR is missing; for example --output=report")
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
  write(groups, pathlib.Path(flags.output), left_out)
  head, *rows = table(groups)
  printed = Table("Runs", head, rows)
  printed.note(*left_out, *(line for group in groups for line in group.trouble))
  printed.note(*notes(groups)[1:])
  print(printed.text())
  print(shown(pathlib.Path(flags.output) / "report.html"))


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns 0, 1 if a file cannot be written, 2 for wrong input."""
  return command_line.answer(run, argv)
