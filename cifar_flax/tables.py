"""Tables as text and as Markdown."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence


@dataclasses.dataclass
class Table:
  """A finished table.

  Attributes:
    title: one line.
    columns: their heads.
    rows: cells, as many as columns.
    notes: lines below it: what it means, what was left out and why.
  """

  title: str
  columns: Sequence[str]
  rows: list[list[str]] = dataclasses.field(default_factory=list)
  notes: list[str] = dataclasses.field(default_factory=list)

  def note(self, *notes: str, row: str = "") -> None:
    """Adds those that are not there yet, of a row if it is named."""
    lines = [f"{row}: {note}" if row else note for note in notes]
    self.notes.extend(line for line in lines if line not in self.notes)

  def text(self) -> str:
    """For a terminal: columns aligned by spaces."""
    lines = _lines([list(self.columns), *self.rows], "  ".join)
    rule = "-" * max(map(len, lines))
    body = [lines[0], rule, *lines[1:]] if self.rows else []
    return "\n".join([self.title, *body, *_notes(self.notes), ""])

  def markdown(self) -> str:
    """For a file."""

    def row(cells):
      return "| " + " | ".join(cells) + " |"

    rule = ["-" * len(head) for head in self.columns]
    body = [row(self.columns), row(rule), *map(row, self.rows)] if self.rows else []
    return "\n".join([f"## {self.title}", "", *body, "", *_notes(self.notes), ""])


def spread(values: Sequence[float], digits: int = 2, sign: str = "") -> str:
  """Mean ± standard deviation (n - 1) as text; no deviation for one value.

  Args:
    values: at least one.
    digits: after the point.
    sign: "+" for a sign before positive means too.
  """
  text = f"{statistics.mean(values):{sign},.{digits}f}"
  deviation = f" ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else ""
  return text + deviation


def _notes(notes: Sequence[str]) -> list[str]:
  return [f"- {note}" for note in notes]


def _lines(rows: list[list[str]], join: Callable) -> list[str]:
  """Rows as lines of one width: the first column to the left, the others right."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  ]
