"""Compares finished runs: `python -m cifar_flax report RUN [RUN ...] --output DIR`.

Writes DIR/report.md with its pictures and DIR/report.html, which embeds the pictures.
Runs of one config with different seeds are one row.
"""

import base64
import html
import itertools
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cifar_flax import command_line, tables
from cifar_flax.errors import UserError
from cifar_flax.run.files import name_in_errors
from cifar_flax.tables import Table, spread

if TYPE_CHECKING:
  from cifar_flax.tools.finished import Group

COLUMNS = (
  "config",
  "n",
  "parameters",
  "multiply-adds",
  "epochs",
  "test accuracy, %",
  "published",
  "train accuracy, %",
  "gap, points",
  "images/s",
  "seconds",
)
NOTE = (
  "Mean ± standard deviation (n - 1) over n seeds; no deviation for n = 1. Accuracies "
  "are those after the last epoch; training accuracy is measured during training, with "
  "dropout and augmentation. Published: one run, after the same number of epochs. "
  "Multiply-adds are per image. images/s is the median over the epochs after the "
  "first, without evaluation."
)


def row(group: "Group") -> list[str]:
  """Returns the row of a group in the table of runs."""

  def percent(name: str) -> str:
    return spread([100 * value for value in group.values(name)])

  published = group.published
  return [
    group.label,
    str(len(group.runs)),
    f"{group.parameters:,}",
    f"{group.multiply_adds:,}",
    str(len(group.runs[0].rows)),
    percent("eval_accuracy"),
    f"{100 * published.test_accuracy:.2f}" if published else "-",
    percent("train_accuracy"),
    percent("gap"),
    spread(group.values("speed"), digits=0),
    spread(group.values("seconds"), digits=0),
  ]


def class_rows(group: "Group") -> list[list[str]]:
  """Returns a row per class: images, accuracy, most frequent wrong prediction."""
  matrix, rows = group.confusion(), []
  for label, name in enumerate(group.class_names):
    total, correct = int(matrix[label].sum()), int(matrix[label, label])
    wrong = matrix[label].copy()
    wrong[label] = 0
    confused_with = (
      f"{group.class_names[wrong.argmax()]} ({wrong.max()})" if wrong.any() else "-"
    )
    accuracy = f"{100 * correct / total:.1f}" if total else "-"
    rows.append([name, str(total), accuracy, confused_with])
  return rows


def compose(groups: Sequence["Group"]) -> list[Any]:
  """Returns the parts of the report.

  A string is a heading or a paragraph, a list is the rows of a table with the head
  first, and a tuple is the name and the PNG of a picture.
  """
  from cifar_flax import figures
  from cifar_flax.tools import plots

  devices = sorted({run.facts["device"] for group in groups for run in group.runs})
  parts: list[Any] = ["# Runs", [list(COLUMNS), *map(row, groups)], NOTE]
  parts += [f"Trained on {device}." for device in devices]
  parts += ["## Curves", ("curves.png", figures.png(plots.curves(groups)))]
  if len(groups) > 1:
    parts += ["## Costs", *_costs(groups)]
  for number, group in enumerate(groups):
    seed = group.runs[0].config.seed
    parts += [f"## {group.label}: predictions of the first run (seed {seed})"]
    parts += [[["class", "images", "accuracy, %", "most often confused with"]]]
    parts[-1] += class_rows(group)
    parts += [(f"confusion_{number}.png", figures.png(plots.confusion(group)))]
    if group.mistakes(1):
      parts += ["The most confident mistakes: true class, then predicted class."]
      parts += [(f"mistakes_{number}.png", figures.png(plots.mistakes(group)))]
  return parts


def _costs(groups: Sequence["Group"]) -> list[Any]:
  """Returns a picture of accuracy against each cost, and what it shows."""
  from cifar_flax import figures
  from cifar_flax.tools import comparison, finished, plots

  entries = [group.entry() for group in groups]
  runs = [run for group in groups for run in group.runs]
  splits = dict.fromkeys(run.facts["data"]["eval_split"] for run in runs)
  label = f"accuracy on {', '.join(splits)}, %"
  parts: list[Any] = []
  for number, cost in enumerate(entries[0].costs):
    picture = plots.cost(entries, cost, label, finished.budget(groups))
    parts.append((f"cost_{number}.png", figures.png(picture)))
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
  """Returns the report as Markdown that links to its pictures."""
  lines = []
  for part in parts:
    if isinstance(part, tuple):
      lines.append(f"![{part[0].removesuffix('.png')}]({part[0]})")
    elif isinstance(part, list):
      lines.append("\n".join(tables.markdown(part[0], part[1:])))
    else:
      lines.append(part)
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
      body.append(_table(part))
    else:
      level = len(part) - len(part.lstrip("#"))
      tag, text = (f"h{level}", part[level + 1 :]) if level else ("p", part)
      body.append(f"<{tag}>{html.escape(text)}</{tag}>")
  content = "\n".join(body)
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f"<title>Runs</title><style>{_STYLE}</style></head>\n<body>\n{content}\n"
    "</body></html>\n"
  )


def _table(rows: list[list[str]]) -> str:
  def line(cells: list[str], tag: str) -> str:
    return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)

  body = "\n".join(f"<tr>{line(cells, 'td')}</tr>" for cells in rows[1:])
  return f"<table><tr>{line(rows[0], 'th')}</tr>\n{body}</table>"


def write(groups: Sequence["Group"], output: pathlib.Path) -> None:
  """Writes report.md, report.html and the pictures; creates the folder if needed."""
  parts = compose(groups)
  with name_in_errors(output):
    output.mkdir(parents=True, exist_ok=True)
  files = {"report.md": markdown(parts).encode(), "report.html": page(parts).encode()}
  files |= dict(part for part in parts if isinstance(part, tuple))
  for name, data in files.items():
    with name_in_errors(path := output / name):
      path.write_bytes(data)


def run(argv: list[str]) -> None:
  """Writes the report of a command line and prints its table."""
  parser = command_line.Parser("report", __doc__)
  parser.add_argument("runs", nargs="*", metavar="RUN", help="finished run directories")
  parser.add_argument("--output", metavar="DIR", help="folder to write the report to")
  flags = parser.parse_args(argv)
  if not flags.runs:
    raise UserError("no RUN is given; give run directories, such as runs/net6b")
  if flags.output is None:
    raise UserError("--output=DIR is missing; for example --output=report")
  from cifar_flax.tools import finished  # imports JAX

  runs = [finished.load(pathlib.Path(folder)) for folder in flags.runs]
  grouped = finished.group(runs)
  labels = finished.labels(grouped)
  groups = [finished.Group(*pair) for pair in zip(grouped, labels, strict=True)]
  write(groups, pathlib.Path(flags.output))
  print(Table("Runs", COLUMNS, [row(group) for group in groups]).text())
  print(pathlib.Path(flags.output) / "report.html")


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns 0, 1 if a file cannot be written, 2 for wrong input."""
  return command_line.answer(run, argv)
