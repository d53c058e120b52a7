"""Tables, as text, Markdown, HTML, CSV, JSON or LaTeX, and means with deviations."""

import csv
import dataclasses
import html
import io
import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from cifar_flax import text as text_lib
from cifar_flax.text import shown


@dataclasses.dataclass(frozen=True)
class Number:
  """A number of a table, or the mean of several with their standard deviation.

  >>> str(Number(71034, digits=0)), str(Number.of([90.0, 92.0]))
  ('71,034', '91.00 ± 1.41')

  Attributes:
    mean: the number, or the mean.
    deviation: the standard deviation (n - 1); None if there is none.
    digits: how many decimals are shown.
    sign: "+" to show a "+" before numbers that are zero or positive.
  """

  mean: float
  deviation: float | None = None
  digits: int = 2
  sign: str = ""

  @classmethod
  def of(cls, values: Sequence[float], digits: int = 2, sign: str = "") -> "Number":
    """Returns the mean and the deviation of n values, at least one."""
    return cls(*mean_and_deviation(values), digits, sign)

  def __str__(self) -> str:
    mean = f"{self.mean:{self.sign},.{self.digits}f}"
    if self.deviation is None:
      return mean
    return f"{mean} ± {self.deviation:,.{self.digits}f}"


Cell: TypeAlias = str | Number | None  # None: unknown, shown as "-"


def cell_text(cell: Cell) -> str:
  """Returns what a cell shows, in one line."""
  return "-" if cell is None else shown(str(cell))


@dataclasses.dataclass(repr=False)
class Table:
  """A table, which is written in many formats; a notebook shows it as HTML.

  Attributes:
    title: one line above the table.
    columns: the head of each column.
    rows: the cells of each row, one per column.
    notes: lines below the table.
    name: of its files, without a suffix.
    best: `max` or `min` by column, for the columns whose best numbers are marked.
  """

  title: str
  columns: Sequence[str]
  rows: list[list[Cell]] = dataclasses.field(default_factory=list)
  notes: list[str] = dataclasses.field(default_factory=list)
  name: str = ""
  best: Mapping[str, Callable] = dataclasses.field(default_factory=dict)

  def note(self, *notes: str, row: str = "") -> None:
    """Adds notes, prefixed with the name of a row if given; skips duplicates."""
    lines = [f"{row}: {note}" if row else note for note in notes]
    self.notes.extend(line for line in lines if line not in self.notes)

  def without_empty_columns(self) -> "Table":
    """Returns the table without the columns of which no cell is known."""
    kept = [i for i in range(len(self.columns)) if any(row[i] for row in self.rows)]
    rows = [[row[i] for i in kept] for row in self.rows]
    return dataclasses.replace(self, columns=[self.columns[i] for i in kept], rows=rows)

  def marked(self) -> set[tuple[int, int]]:
    """Returns row and column of the best numbers, as far as the digits tell them apart.

    A column whose numbers all look the same has none.
    """
    found = set()
    for column, heading in enumerate(self.columns):
      cells = [row[column] for row in self.rows]
      numbers = [
        (row, round(cell.mean, cell.digits))
        for row, cell in enumerate(cells)
        if isinstance(cell, Number)
      ]
      if heading in self.best and len({number for _, number in numbers}) > 1:
        best = self.best[heading](number for _, number in numbers)
        found |= {(row, column) for row, number in numbers if number == best}
    return found

  def text(self) -> str:
    """Returns the table as text with aligned columns, for a terminal."""
    lines = align([list(self.columns), *self.rows])
    rule = "-" * max(map(text_lib.width, lines))
    body = [lines[0], rule, *lines[1:]] if self.rows else []
    notes = [f"- {shown(note)}" for note in self.notes]
    return "\n".join([shown(self.title), *body, *notes, ""])

  def markdown(self, level: int = 2) -> str:
    """Returns the table as Markdown, with its title as a heading of this level.

    Title, cells and notes are shown as they are: nothing in them is markup.
    """
    body = self._markdown_rows() if self.rows else []
    notes = [f"- {text_lib.markdown(note)}" for note in self.notes]
    title = f"{'#' * level} {text_lib.markdown(self.title)}"
    return "\n".join([title, "", *body, "", *notes, ""])

  def _markdown_rows(self) -> list[str]:
    columns, *rows = escaped([self.columns, *self.rows])
    for row, column in self.marked():
      rows[row][column] = f"**{rows[row][column]}**"
    return markdown(columns, rows)

  def html(self) -> str:
    """Returns the table as HTML, with its title as the caption, and then its notes."""
    textual, marked = self._textual(), self.marked()

    def cell(tag: str, content: Cell, column: int, strong: bool = False) -> str:
      style = ' class="text"' if column in textual else ""
      inner = html.escape(cell_text(content))
      if not column:  # labels may be long, such as "convolution=plain, width=2"
        inner = f"<div>{inner.replace('=', '=<wbr>')}</div>"
      return f"<{tag}{style}>{f'<strong>{inner}</strong>' if strong else inner}</{tag}>"

    lines = ["".join(cell("th", name, i) for i, name in enumerate(self.columns))]
    for number, row in enumerate(self.rows):
      cells = [
        cell("td" if i else "th", content, i, (number, i) in marked)
        for i, content in enumerate(row)
      ]
      lines.append("".join(cells))
    head, *body = (f"<tr>{line}</tr>" for line in lines)
    caption = f"<caption>{html.escape(shown(self.title))}</caption>"
    notes = "".join(f"<li>{html.escape(shown(note))}</li>" for note in self.notes)
    return (
      f'<div class="scroll" tabindex="0"><table>{caption}\n<thead>{head}</thead>\n'
      f"<tbody>{chr(10).join(body)}</tbody></table></div>"
      + (f"\n<ul>{notes}</ul>" if notes else "")
    )

  def __repr__(self) -> str:
    return self.text()

  _repr_html_ = html

  def _textual(self) -> set[int]:
    """Returns the columns that are aligned to the left: those with words in them."""
    return {
      i
      for i in range(len(self.columns))
      if any(isinstance(row[i], str) for row in self.rows)
    }

  def records(self) -> list[dict[str, Any]]:
    """Returns the rows as numbers and texts by column, means with all their digits.

    The deviations of a column are in a column of their own, such as "seconds, std".
    """
    columns = {
      name: [row[i] for row in self.rows] for i, name in enumerate(self.columns)
    }
    found: dict[str, list[Any]] = {}
    for name, cells in columns.items():
      numbers = [cell if isinstance(cell, Number) else None for cell in cells]
      found[name] = [
        number.mean if number else cell and cell_text(cell)
        for cell, number in zip(cells, numbers, strict=True)
      ]
      deviations = [number.deviation if number else None for number in numbers]
      if any(deviation is not None for deviation in deviations):
        found[f"{name}, std"] = deviations
    names = [shown(name) for name in found]
    return [
      dict(zip(names, row, strict=True)) for row in zip(*found.values(), strict=True)
    ]

  def csv(self) -> str:
    """Returns `records` as CSV; what is unknown is empty."""
    buffer = io.StringIO()
    records = self.records()
    writer = csv.DictWriter(buffer, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()

  def json(self) -> str:
    """Returns title, `records` and notes as a JSON object."""
    content = {
      "title": shown(self.title),
      "rows": self.records(),
      "notes": [shown(note) for note in self.notes],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

  def latex(self) -> str:
    r"""Returns the table as LaTeX for `\input`; it needs the package booktabs."""
    textual, marked = self._textual(), self.marked()
    rows = [[_latex(name) for name in self.columns]]
    rows += [
      [_latex(cell, (i, j) in marked) for j, cell in enumerate(row)]
      for i, row in enumerate(self.rows)
    ]
    head, *body = (" & ".join(row) + r" \\" for row in rows)
    align = "".join("l" if i in textual else "r" for i in range(len(self.columns)))
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", head, r"\midrule"]
    lines += [*body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(
      [f"% {shown(self.title)}; needs \\usepackage{{booktabs}}", *lines, ""]
    )


def _latex(cell: Cell, strong: bool = False) -> str:
  r"""Returns a cell as LaTeX, numbers as `$91.00 \pm 1.41$`."""
  if not isinstance(cell, Number):
    return text_lib.latex(cell_text(cell))
  mean, *deviation = str(cell).replace(",", "{,}").split(" ± ")
  mean = rf"\mathbf{{{mean}}}" if strong else mean
  return "$" + r" \pm ".join([mean, *deviation]) + "$"


def escaped(rows: Sequence[Sequence[Cell]]) -> list[list[str]]:
  """Returns cells of Markdown that show those of a table as they are."""
  return [[text_lib.markdown(cell_text(cell)) for cell in row] for row in rows]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]] = ()) -> list[str]:
  """Returns the lines of a Markdown table, whose cells are Markdown; see `escaped`."""
  return [markdown_row(columns), "|" + "---|" * len(columns), *map(markdown_row, rows)]


def markdown_row(cells: Sequence[str]) -> str:
  """Returns a line of a Markdown table; a `|` in a cell is escaped if it is not yet."""
  joined = " | ".join(re.sub(r"(?<!\\)\|", r"\\|", shown(cell)) for cell in cells)
  return f"| {joined} |"


def align(rows: Sequence[Sequence[Cell]], gap: str = "  ") -> list[str]:
  """Returns a line of text per row: first column left-aligned, the others right."""
  cells = [[cell_text(cell) for cell in row] for row in rows]
  widths = [max(map(text_lib.width, column)) for column in zip(*cells, strict=True)]

  def padded(cell: str, column: int) -> str:
    space = " " * (widths[column] - text_lib.width(cell))
    return space + cell if column else cell + space

  return [
    gap.join(padded(cell, column) for column, cell in enumerate(row)).rstrip()
    for row in cells
  ]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
  """Returns the mean and the standard deviation (n - 1), which is None for n = 1."""
  deviation = statistics.stdev(values) if len(values) > 1 else None
  return statistics.fmean(values), deviation
