"""Formats tables as text or Markdown, and means with their standard deviations."""

import dataclasses
import html as html_lib
import re
import statistics
from collections.abc import Callable, Sequence

from cifar_flax import text as text_lib
from cifar_flax.text import shown


@dataclasses.dataclass(repr=False)
class Table:
  """A table of text cells; a notebook shows it as HTML.

  Attributes:
    title: one line above the table.
    columns: the head of each column.
    rows: the cells of each row, one per column.
    notes: lines below the table.
  """

  title: str
  columns: Sequence[str]
  rows: list[list[str]] = dataclasses.field(default_factory=list)
  notes: list[str] = dataclasses.field(default_factory=list)

  def note(self, *notes: str, row: str = "") -> None:
    """Adds notes, prefixed with the name of a row if given; skips duplicates."""
    lines = [f"{row}: {note}" if row else note for note in notes]
    self.notes.extend(line for line in lines if line not in self.notes)

  def select(self, *columns: str) -> "Table":
    """Returns the table with these columns only."""
    places = [self.columns.index(column) for column in columns]
    rows = [[row[place] for place in places] for row in self.rows]
    return Table(self.title, columns, rows, self.notes)

  def __repr__(self) -> str:
    return self.text()

  def _repr_html_(self) -> str:
    title, *notes = (html_lib.escape(shown(t)) for t in (self.title, *self.notes))
    small = f"<small>{'<br>'.join(notes)}</small>" if notes else ""
    return f"<b>{title}</b>{html([self.columns, *self.rows])}{small}"

  def text(self) -> str:
    """Returns the table as text with aligned columns, for a terminal."""
    lines = align([list(self.columns), *self.rows])
    rule = "-" * max(map(text_lib.width, lines))
    body = [lines[0], rule, *lines[1:]] if self.rows else []
    notes = [f"- {shown(note)}" for note in self.notes]
    return "\n".join([shown(self.title), *body, *notes, ""])

  def markdown(self) -> str:
    """Returns the table as Markdown, with its title as a heading.

    Title, cells and notes are shown as they are: nothing in them is markup.
    """
    columns, *rows = escaped([self.columns, *self.rows])
    body = markdown(columns, rows) if rows else []
    notes = [f"- {text_lib.markdown(note)}" for note in self.notes]
    title = f"## {text_lib.markdown(self.title)}"
    return "\n".join([title, "", *body, "", *notes, ""])


def escaped(rows: Sequence[Sequence[str]]) -> list[list[str]]:
  """Returns cells of Markdown that show those of a table as they are."""
  return [[text_lib.markdown(cell) for cell in row] for row in rows]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]] = ()) -> list[str]:
  """Returns the lines of a Markdown table, whose cells are Markdown; see `escaped`."""
  return [markdown_row(columns), "|" + "---|" * len(columns), *map(markdown_row, rows)]


def markdown_row(cells: Sequence[str]) -> str:
  """Returns a line of a Markdown table; a `|` in a cell is escaped if it is not yet."""
  joined = " | ".join(re.sub(r"(?<!\\)\|", r"\\|", shown(cell)) for cell in cells)
  return f"| {joined} |"


def html(rows: Sequence[Sequence[str]]) -> str:
  """Returns an HTML table that shows cells of text as they are; the first row heads."""

  def line(cells: Sequence[str], tag: str) -> str:
    inner = (f"<{tag}>{html_lib.escape(shown(cell))}</{tag}>" for cell in cells)
    return f"<tr>{''.join(inner)}</tr>"

  head, *body = rows
  lines = [line(head, "th"), *(line(cells, "td") for cells in body)]
  return "<table>{}</table>".format("\n".join(lines))


def align(rows: Sequence[Sequence[str]], gap: str = "  ") -> list[str]:
  """Returns a line of text per row: first column left-aligned, the others right."""
  cells = [[shown(cell) for cell in row] for row in rows]
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


def spread(
  values: Sequence[float], digits: int = 2, sign: str = "", scale: float = 1.0
) -> str:
  """Returns "mean ± standard deviation" (n - 1), or the mean alone for n = 1.

  Args:
    values: the n values, at least one.
    digits: number of decimals.
    sign: "+" to print a "+" before means that are zero or positive.
    scale: factor applied to the values, such as 100 for percent.
  """
  mean, deviation = mean_and_deviation([scale * value for value in values])
  return show_spread(mean, deviation, lambda x: f"{x:,.{digits}f}", sign)


def show_spread(
  mean: float, deviation: float | None, show: Callable[[float], str], sign: str = ""
) -> str:
  """Returns "mean ± deviation", or the mean alone if `deviation` is None.

  Args:
    mean: the mean.
    deviation: its standard deviation, or None.
    show: formats a number.
    sign: "+" to print a "+" before means that are zero or positive.
  """
  text = show(mean)
  if sign and not text.startswith("-"):
    text = sign + text
  return text if deviation is None else f"{text} ± {show(deviation)}"
