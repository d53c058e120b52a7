"""Draws a network: one box per layer, parallel branches side by side, on an A4 page.

The drawing is laid out as one long strip of rows first. The strip is then cut into up
to three columns and scaled, so that it fits the page with the largest text.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Polygon

from cifar_flax.figures import FAINT, TEXT
from cifar_flax.tools.layout import (
  DOT,
  GAP,
  LARGE,
  LINE,
  PAD,
  SMALL,
  Frame,
  Node,
  Strip,
  text_width,
)
from cifar_flax.tools.structure import Layer

PAGE = (8.27, 11.69)  # inches: width and height of A4
LEAST = 5.0  # points: the smallest text, after scaling
# Inches before scaling: between columns, around the page; a line's end before a mark,
# the radius of a mark, an arrow's head.
GUTTER, MARGIN = 0.4, 0.2
STUB, RADIUS, HEAD = 0.14, 0.085, 0.09
WIRE, FRAME = "#777777", "#4c78a8"
COLORS = {
  "Conv": "#cfe1f2",
  "Dense": "#d9d2e9",
  "BatchNormReLU": "#e8efdc",
  "BatchNorm": "#e8efdc",
  "Dropout": "#f1f1f1",
  "max_pool": "#fbe0c3",
}
KEY = (
  "mult-adds: multiply-adds for one image",
  "sees: pixels of the image that an output depends on, padding included",
)
DOTS = "dot: outputs that are added, multiplied or concatenated"


def draw(layers: Sequence[Layer], title: str) -> Figure:
  """Draws the layers from the image at the top down to the logits at the bottom.

  The layers of one module, such as the branches of a convolution, are framed together
  and labelled with the module's name. A line that skips rows runs beside them. Text is
  never smaller than `LEAST`; where that needs more than a page, the page grows.

  Args:
    layers: as `structure.layers` returns them.
    title: printed above the drawing, before the network's total costs.
  """
  bound = "at least " if any(layer.unknown for layer in layers) else ""
  parameters = sum(layer.parameters for layer in layers)
  multiply_adds = sum(layer.multiply_adds for layer in layers)
  totals = f"{parameters:,} parameters, {bound}{multiply_adds:,} multiply-adds"
  strip = Strip(layers)
  pages = [Page(strip, firsts, f"{title}: {totals}") for firsts in strip.cuts()]
  return max(pages, key=lambda page: page.score).paint()


class Page:
  """A strip that is cut into columns, and its scale.

  Attributes:
    score: larger if the text is larger and the page more like A4.
  """

  def __init__(self, strip: Strip, firsts: tuple[int, ...], heading: str):
    self._strip, self._firsts, self._heading = strip, firsts, heading
    self._key = KEY if all(node.lines for node in strip.nodes) else (*KEY, DOTS)
    least = max(
      text_width(heading, LARGE + 2, "bold"), *(text_width(t, SMALL) for t in KEY)
    )
    self._place_columns(least + 2 * MARGIN)
    fit = min(1.0, PAGE[0] / self._width, PAGE[1] / self._height)
    self._scale = max(fit, LEAST / SMALL)
    shape = math.log(self._height / self._width / (PAGE[1] / PAGE[0]))
    too_wide = self._width * self._scale > PAGE[0]
    self.score = fit - 0.1 * abs(shape) - 10 * too_wide  # its width matters most

  def _place_columns(self, least: float) -> None:
    """Sets the size of the page, at least this wide, and each column's shift on it."""
    strip, stops = self._strip, (*self._firsts[1:], len(self._strip.tops))
    shifts, x, bottom = list[tuple[float, float]](), 0.0, 0.0
    for first, stop in zip(self._firsts, stops, strict=True):
      # Lines come from where they are in the row before.
      extents = [strip.extent(row) for row in range(max(first - 1, 0), stop)]
      lefts, rights = zip(*extents, strict=True)
      top = MARGIN + 0.35 + (GAP + STUB + 2 * RADIUS if first else 0)
      shifts.append((x - min(lefts), top - strip.begins[first]))
      x += max(rights) - min(lefts) + GUTTER
      end = top + strip.ends[stop - 1] - strip.begins[first]
      bottom = max(bottom, end + (STUB + 2 * RADIUS if stop < stops[-1] else 0))
    self._width = max(x - GUTTER + 2 * MARGIN, least)
    self._height = bottom + 0.18 + LINE * len(self._key) + MARGIN
    indent = (self._width - x + GUTTER) / 2
    self._shifts = [(dx + indent, dy) for dx, dy in shifts]

  def paint(self) -> Figure:
    """Returns the drawing."""
    size = (self._width * self._scale, self._height * self._scale)
    figure = Figure(figsize=size, dpi=min(150, 60_000 / size[1]))  # Agg's limit: 2**16
    self._axes = figure.add_axes((0, 0, 1, 1))
    self._axes.set(xlim=(0, self._width), ylim=(self._height, 0))
    self._axes.axis("off")
    self._write(MARGIN, MARGIN + 0.07, self._heading, LARGE + 2, weight="bold")
    for number, text in enumerate(reversed(self._key)):
      y = self._height - MARGIN - LINE * (number + 0.5)
      self._write(MARGIN, y, text, SMALL, color=WIRE)
    for frame in self._strip.frames:
      self._paint_frame(frame)
    self._paint_wires()
    for node in self._strip.nodes:
      self._paint_node(node)
    return figure

  def _column(self, row: int) -> int:
    return sum(first <= row for first in self._firsts) - 1

  def _point(self, row: int, x: float, y: float) -> tuple[float, float]:
    """Returns where a point of the strip, near a row, is on the page."""
    dx, dy = self._shifts[self._column(row)]
    return x + dx, y + dy

  def _write(self, x: float, y: float, text: str, size: float, **style: Any) -> None:
    style = {"color": TEXT, "va": "center"} | style
    self._axes.text(x, y, text, fontsize=size * self._scale, zorder=4, **style)

  def _rectangle(self, corner: tuple[float, float], width, height, **style) -> None:
    rounded = "round,pad=0,rounding_size=0.06"
    self._axes.add_patch(FancyBboxPatch(corner, width, height, rounded, **style))

  def _middle(self, node: Node) -> float:
    return (self._strip.tops[node.row] + self._strip.bottoms[node.row]) / 2

  def _paint_node(self, node: Node) -> None:
    x, y = self._point(node.row, node.x, self._middle(node))
    if not node.lines:
      self._axes.add_patch(Circle((x, y), DOT, color=WIRE, lw=0, zorder=3))
      return
    width, height = self._strip.width, node.height
    color = COLORS.get(node.layer.kind, "#ffffff") if node.layer else "#ffffff"
    edge = {"ec": FAINT, "lw": 0.8 * self._scale, "zorder": 3}
    self._rectangle((x - width / 2, y - height / 2), width, height, fc=color, **edge)
    y -= (len(node.lines) - 1) / 2 * LINE
    for number, line in enumerate(node.lines):
      size = SMALL if number else LARGE
      self._write(x, y + number * LINE, line, size, ha="center")

  def _paint_frame(self, frame: Frame) -> None:
    strip, (first, last) = self._strip, frame.rows
    for _, run in itertools.groupby(range(first, last + 1), self._column):
      rows = list(run)
      top, bottom = strip.begins[rows[0]] - PAD, strip.ends[rows[-1]] + PAD
      if rows[0] == first:
        top = strip.tops[first] - strip.header(frame)
        for number, text in enumerate(frame.label):
          y = top + PAD / 2 + (number + 0.5) * LINE
          at = self._point(first, frame.left + PAD / 2 + 0.01, y)
          self._write(*at, text, SMALL, color=FRAME)
      if rows[-1] == last:
        bottom = strip.bottoms[last] + strip.footer(frame)
      corner, width = self._point(rows[0], frame.left, top), frame.right - frame.left
      style = {"fc": "none", "ec": FRAME, "lw": self._scale, "ls": (0, (4, 2))}
      self._rectangle(corner, width, bottom - top, **style)

  def _paint_wires(self) -> None:
    """Draws the lines, and a mark with the source's number where one is cut."""
    numbers: dict[int, str] = {}
    marks = dict[tuple[float, float], str]()
    for target, node in enumerate(self._strip.nodes):
      for source in sorted(node.inputs):
        pieces = self._pieces(source, target)
        for piece in pieces:
          style: dict[str, Any] = {"color": WIRE, "lw": 0.9 * self._scale, "zorder": 2}
          self._axes.plot(*zip(*piece, strict=True), **style)
        for piece, following in itertools.pairwise(pieces):
          number = numbers.setdefault(source, str(len(numbers) + 1))
          (x, y), (next_x, next_y) = piece[-1], following[0]
          marks |= {(x, y + RADIUS): number, (next_x, next_y - RADIUS): number}
      if node.inputs and node.lines:
        x, y = pieces[-1][-1]
        head = [(x, y), (x - HEAD / 3, y - HEAD), (x + HEAD / 3, y - HEAD)]
        self._axes.add_patch(Polygon(head, color=WIRE, lw=0, zorder=2))
    for (x, y), number in marks.items():
      edge = {"ec": WIRE, "lw": 0.8 * self._scale, "zorder": 3}
      self._axes.add_patch(Circle((x, y), RADIUS, fc="#ffffff", **edge))
      self._write(x, y, number, SMALL, ha="center", va="center_baseline")

  def _pieces(self, source: int, target: int) -> list[list[tuple[float, float]]]:
    """Returns the points of a line, cut where it goes on in the next column."""
    strip, (begin, end) = self._strip, (self._strip.nodes[i] for i in (source, target))
    y = self._middle(begin) + begin.height / 2
    pieces = [[self._point(begin.row, begin.x, y)]]
    for row in range(begin.row, end.row):
      above = begin.x if row == begin.row else strip.wires[source, target]
      below = end.x if row + 1 == end.row else strip.wires[source, target]
      pieces[-1].append(self._point(row, above, strip.ends[row]))
      if self._column(row) != self._column(row + 1):
        pieces[-1].append(self._point(row, above, strip.ends[row] + STUB))
        start = strip.begins[row + 1] - GAP
        ys = (start - STUB, start)
        pieces.append([self._point(row + 1, above, y) for y in ys])
      lift = HEAD if row + 1 == end.row and end.lines else 0
      pieces[-1].append(self._point(row + 1, below, strip.begins[row + 1] - lift))
    y = self._middle(end) - end.height / 2
    pieces[-1].append(self._point(end.row, end.x, y))
    return pieces
