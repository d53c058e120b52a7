"""Formats tables as text or Markdown, and means with their standard deviations."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence


@dataclasses.dataclass
class Table:
  """A table of text cells.

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

  def text(self) -> str:
    """Returns the table as text with aligned columns, for a terminal."""
    lines = align([list(self.columns), *self.rows])
    rule = "-" * max(map(len, lines))
    body = [lines[0], rule, *lines[1:]] if self.rows else []
    return "\n".join([self.title, *body, *_notes(self.notes), ""])

  def markdown(self) -> str:
    """Returns the table as Markdown, with its title as a heading."""
    body = markdown(self.columns, self.rows) if self.rows else []
    return "\n".join([f"## {self.title}", "", *body, "", *_notes(self.notes), ""])


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]] = ()) -> list[str]:
  """Returns the lines of a Markdown table."""
  return [markdown_row(columns), "|" + "---|" * len(columns), *map(markdown_row, rows)]


def markdown_row(cells: Sequence[str]) -> str:
  """Returns a line of a Markdown table; a `|` in a cell is escaped."""
  return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def align(rows: Sequence[Sequence[str]], gap: str = "  ") -> list[str]:
  """Returns a line of text per row: first column left-aligned, the others right."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    gap.join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
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


def _notes(notes: Sequence[str]) -> list[str]:
  return [f"- {note}" for note in notes]
