"""Draws a network: one box per layer, parallel branches side by side, on an A4 page.

The drawing is laid out as one long strip of rows first. The strip is then cut into up
to three columns and scaled, so that it fits the page with the largest text.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, FancyBboxPatch, Polygon
from matplotlib.textpath import TextPath

from cifar_flax.figures import FAINT, TEXT
from cifar_flax.tools.structure import IMAGE, Layer

PAGE = (8.27, 11.69)  # inches: width and height of A4
LARGE, SMALL, LEAST = 8.0, 6.8, 5.0  # points: a box's name, other text, when scaled
# Inches before scaling: a line of text, between rows, from box to box, from lane to
# lane, from a frame to what it contains, between columns, around the page.
LINE, GAP, BESIDE, LANE, PAD, GUTTER, MARGIN = 0.126, 0.2, 0.16, 0.18, 0.07, 0.4, 0.2
# A line's end before a mark, the radius of a mark and of a dot, an arrow's head.
STUB, RADIUS, DOT, HEAD = 0.14, 0.085, 0.045, 0.09
MOST = 4  # boxes in a row
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


@dataclasses.dataclass(eq=False)
class Node:
  """A box, or a dot where outputs meet that several layers read together.

  Attributes:
    inputs: numbers of the nodes whose output it reads.
    lines: the text in the box; a dot has none.
    layer: what it stands for; None for the image and for a dot.
    row: its depth along the longest path from the image.
    track: its place among the parallel branches of a row, from the left.
    x: its centre in the strip.
  """

  inputs: frozenset[int]
  lines: tuple[str, ...] = ()
  layer: Layer | None = None
  row: int = 0
  track: int = 0
  x: float = 0.0

  @property
  def height(self) -> float:
    """The height of the box or dot."""
    return len(self.lines) * LINE + 0.07 if self.lines else 2 * DOT


@dataclasses.dataclass
class Frame:
  """A frame around the layers of a submodule.

  Attributes:
    label: lines above its first box: the submodule's name and class.
    members: numbers of the nodes in it.
    rows: its first and last row.
    pad: distance from its boxes; larger if it contains other frames.
    left, right: its extent in the strip, `pad` included.
  """

  label: tuple[str, ...]
  members: frozenset[int]
  rows: tuple[int, int]
  pad: float
  left: float = 0.0
  right: float = 0.0


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


@functools.lru_cache(maxsize=4096)
def _width(text: str, size: float, weight: str = "normal") -> float:
  """Returns the width of a line of text in inches, with a little room to spare."""
  font = FontProperties(size=size, weight=weight)
  return TextPath((0, 0), text, prop=font).get_extents().width / 72 * 1.04 + 0.02


def _short(number: int) -> str:
  """Returns a number with three digits, such as `9.22 k` or `1.8 M`."""
  rounded = float(f"{number:.3g}")
  for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
    if rounded >= unit:
      return f"{rounded / unit:.3g} {letter}"
  return str(number)


def _clip(text: str) -> str:
  return text if len(text) <= 28 else f"{text[:13]}…{text[-14:]}"


def _by(values: Iterable[int]) -> str:
  return "x".join(map(str, values))


def _lines(layer: Layer) -> tuple[str, ...]:
  """Returns the text in a layer's box: its kind, output and field, and costs."""
  words = {"BatchNormReLU": "BatchNorm, ReLU", "max_pool": "max pool"}
  name = words.get(layer.kind, _clip(layer.kind))
  name += f" {_by(layer.kernel)}" if layer.kernel else ""
  if layer.groups and layer.groups > 1:
    name += f", {layer.groups} groups"
  if layer.dilation and max(layer.dilation) > 1:
    name += f", dilation {max(layer.dilation)}"
  if layer.strides and max(layer.strides) > 1 and layer.strides != layer.kernel:
    name += f", stride {max(layer.strides)}"
  field = layer.receptive_field
  sees = f"sees {'' if field.exact else '≤ '}{_by(field.size)}"
  costs = [f"{_short(layer.parameters)} params"] if layer.parameters else []
  if layer.multiply_adds or layer.unknown:
    bound = "≥ " if layer.unknown else ""
    costs.append(f"{bound}{_short(layer.multiply_adds)} mult-adds")
  return (name, f"{_by(layer.output)}, {sees}", *([", ".join(costs)] if costs else []))


def make_nodes(layers: Sequence[Layer]) -> list[Node]:
  """Returns the image, the layers and the dots, each after what it reads.

  A sum or a concatenation is no layer. Where several layers read all of the same
  outputs, such as the blocks of a residual network, these meet in one dot.
  """
  nodes = [Node(frozenset(), ("image 32x32x3",))]
  places, dots = {IMAGE: 0}, dict[frozenset[int], int]()
  inputs = [layer.receptive_field.inputs for layer in layers]
  for number, layer in enumerate(layers):
    sources, met = inputs[number], set[int]()
    meeting = len(sources) > 1 and sum(sources <= each for each in inputs) > 1
    for group in sorted(dots, key=len, reverse=True):
      if group <= sources:
        met.add(dots[group])
        sources -= group
    read = frozenset(met | {places[source] for source in sources})
    if meeting and len(read) > 1:
      nodes.append(Node(read))
      dots[inputs[number]] = len(nodes) - 1
      read = frozenset({len(nodes) - 1})
    places[number] = len(nodes)
    nodes.append(Node(read, _lines(layer), layer))
  return nodes


class Strip:
  """The drawing before it is cut into columns; x is 0 in its middle.

  Attributes:
    nodes: its boxes and dots.
    frames: outer frames before inner ones.
    width: width of every box.
    wires: for each pair of nodes (source, target), where its line passes the rows
      between them.
    begins, tops, bottoms, ends: heights of each row: where its frames begin, its boxes
      begin and end, and its frames end.
  """

  def __init__(self, layers: Sequence[Layer]):
    self.nodes = make_nodes(layers)
    self._place_nodes()
    self.frames = list(self._make_frames())
    texts = [n.lines for n in self.nodes if n.lines]
    widths = [_width(lines[0], LARGE) for lines in texts]
    widths += [_width(line, SMALL) for lines in texts for line in lines[1:]]
    # A label stays left of the line that enters the first box of its frame.
    widths += [2 * _width(text, SMALL) for f in self.frames for text in f.label]
    self.width = max(widths) + 0.12
    self._place_tracks()
    self._stack_rows()
    self.wires: dict[tuple[int, int], float] = {}
    self._route()

  def _place_nodes(self) -> None:
    """Sets each node's row and track."""
    readers: list[list[Node]] = [[] for _ in self.nodes]
    counts: dict[int, int] = {}
    for node in self.nodes:
      node.row = max((self.nodes[i].row + 1 for i in node.inputs), default=0)
      while counts.get(node.row, 0) == MOST:
        node.row += 1
      counts[node.row] = counts.get(node.row, 0) + 1
      for source in node.inputs:
        readers[source].append(node)
    last: dict[int, int] = {}  # by track: its lowest node so far
    for number in sorted(range(len(self.nodes)), key=lambda i: self.nodes[i].row):
      node, tracks = self.nodes[number], set(range(MOST))
      tracks -= {t for t, i in last.items() if self.nodes[i].row == node.row}
      own = {t for t in tracks if last.get(t) in node.inputs}
      waiting = {
        track
        for track, i in last.items()
        if any(reader.row >= node.row for reader in readers[i] if reader is not node)
      }
      node.track = min(own or tracks - waiting or tracks)
      last[node.track] = number

  def _place_tracks(self) -> None:
    """Sets each node's x: parallel branches are centred, from fork to join."""
    most = [0] * (1 + max(node.row for node in self.nodes))
    for number, node in enumerate(self.nodes):
      below = [other.row for other in self.nodes if number in other.inputs]
      for row in range(node.row, max([*below, node.row + 1])):
        most[row] = max(most[row], node.track)
    for _, run in itertools.groupby(range(len(most)), lambda row: most[row] > 0):
      rows = set(run)
      middle = max(most[row] for row in rows) / 2
      for node in self.nodes:
        if node.row in rows:
          node.x = (node.track - middle) * (self.width + BESIDE)
    for frame in self.frames:
      centres = [self.nodes[i].x for i in frame.members]
      frame.left = min(centres) - self.width / 2 - frame.pad
      frame.right = max(centres) + self.width / 2 + frame.pad

  def _make_frames(self) -> Iterator[Frame]:
    """Yields a frame for each submodule that directly contains a layer."""
    names = {n: node.layer.name for n, node in enumerate(self.nodes) if node.layer}
    parents = {name.rpartition("/")[0]: n for n, name in names.items()}
    parents.pop("", None)
    for parent in sorted(parents, key=lambda name: (name.count("/"), name)):
      inside = {n for n, name in names.items() if f"{name}/".startswith(f"{parent}/")}
      layer = self.nodes[parents[parent]].layer
      rows = [self.nodes[n].row for n in inside]
      depth = max(p.count("/") for p in parents if f"{p}/".startswith(f"{parent}/"))
      yield Frame(
        (_clip(parent), _clip(layer.part_of if layer else "")),
        frozenset(inside),
        (min(rows), max(rows)),
        PAD * (1 + depth - parent.count("/")),
      )

  def header(self, frame: Frame) -> float:
    """Returns the height of a frame above the boxes of its first row."""
    inner = [f for f in self.frames if f.members < frame.members]
    heights = [self.header(f) for f in inner if f.rows[0] == frame.rows[0]]
    return max(heights, default=0) + 2 * LINE + PAD

  def footer(self, frame: Frame) -> float:
    """Returns the height of a frame below the boxes of its last row."""
    inner = [f for f in self.frames if f.members < frame.members]
    heights = [self.footer(f) for f in inner if f.rows[1] == frame.rows[1]]
    return max(heights, default=0) + PAD

  def _stack_rows(self) -> None:
    """Sets the heights of the rows."""
    self.begins, self.tops = list[float](), list[float]()
    self.bottoms, self.ends = list[float](), list[float]()
    for row in range(1 + max(node.row for node in self.nodes)):
      heads = [self.header(f) for f in self.frames if f.rows[0] == row]
      feet = [self.footer(f) for f in self.frames if f.rows[1] == row]
      self.begins.append(self.ends[-1] + GAP if row else 0.0)
      self.tops.append(self.begins[-1] + max(heads, default=0))
      height = max(node.height for node in self.nodes if node.row == row)
      self.bottoms.append(self.tops[-1] + height)
      self.ends.append(self.bottoms[-1] + max(feet, default=0))

  def _route(self) -> None:
    """Sets where the lines that skip rows run: straight down, or in a lane beside."""
    beside: dict[int, list[int]] = {}  # by source: the targets that its lane leads to
    span = lambda s, t: self.nodes[t].row - self.nodes[s].row  # noqa: E731
    pairs = [(s, t) for t, node in enumerate(self.nodes) for s in node.inputs]
    for s, t in sorted(pairs, key=lambda pair: span(*pair)):
      straight = (self.nodes[s].x, self.nodes[t].x)
      clear = [x for x in straight if span(s, t) > 1 and self._is_clear(x, s, t)]
      if clear:
        self.wires[s, t] = clear[0]
      elif span(s, t) > 1:
        beside.setdefault(s, []).append(t)
    for s in sorted(beside, key=lambda s: span(s, beside[s][-1])):
      first, last = self.nodes[s].row, self.nodes[beside[s][-1]].row
      around = [f for f in self.frames if s in f.members and last - 1 <= f.rows[1]]
      x = LANE + max(self.extent(row, around)[1] for row in range(first, last + 1))
      for frame in around:
        frame.right = max(frame.right, x + frame.pad)
      self.wires |= {(s, t): x for t in beside[s]}

  def _is_clear(self, x: float, source: int, target: int) -> bool:
    """Tells whether nothing is at x in the rows between two nodes."""
    rows = range(self.nodes[source].row + 1, self.nodes[target].row)
    reach, ends = self.width / 2 + PAD, {source, target}
    boxes = any(abs(n.x - x) < reach for n in self.nodes if n.row in rows)
    frames = any(
      frame.left - PAD < x < frame.right + PAD
      for frame in self.frames
      if frame.rows[0] <= rows[-1] and rows[0] <= frame.rows[1]
      if not ends & frame.members
    )
    wires = any(
      abs(other - x) < LANE
      for (s, t), other in self.wires.items()
      if self.nodes[s].row <= rows[-1] and rows[0] <= self.nodes[t].row
      if s != source
    )
    return not (boxes or frames or wires)

  def extent(self, row: int, leave_out: Sequence[Frame] = ()) -> tuple[float, float]:
    """Returns the left and right end of what a row contains."""
    half = self.width / 2
    ends = [(n.x - half, n.x + half) for n in self.nodes if n.row == row]
    for frame in self.frames:
      if frame.rows[0] <= row <= frame.rows[1] and frame not in leave_out:
        ends.append((frame.left, frame.right))
    for (s, t), x in self.wires.items():
      if self.nodes[s].row < row < self.nodes[t].row:
        ends.append((x, x))
    lefts, rights = zip(*ends, strict=True)
    return min(lefts), max(rights)

  def cuts(self) -> Iterator[tuple[int, ...]]:
    """Yields the best first rows of each of one, two and three columns."""
    rows = len(self.tops)
    cost = [0.0] * rows  # of a cut above each row
    for row in range(1, rows):
      crossing = {
        s
        for t, node in enumerate(self.nodes)
        for s in node.inputs
        if self.nodes[s].row < row <= node.row
      }
      framed = sum(f.rows[0] < row <= f.rows[1] for f in self.frames)
      # In inches of height that are worth a line or a frame that is not cut.
      cost[row] = 0.4 * (len(crossing) - 1) + 2 * framed

    def badness(firsts: tuple[int, ...]) -> float:
      ends = (*(first - 1 for first in firsts[1:]), rows - 1)
      high = [self.ends[e] - self.begins[f] for f, e in zip(firsts, ends, strict=True)]
      return max(high) + sum(cost[first] for first in firsts[1:])

    for columns in range(1, min(3, rows) + 1):
      choices = itertools.combinations(range(1, rows), columns - 1)
      yield min(((0, *choice) for choice in choices), key=badness)


class Page:
  """A strip that is cut into columns, and its scale.

  Attributes:
    score: larger if the text is larger and the page more like A4.
  """

  def __init__(self, strip: Strip, firsts: tuple[int, ...], heading: str):
    self._strip, self._firsts, self._heading = strip, firsts, heading
    self._key = KEY if all(node.lines for node in strip.nodes) else (*KEY, DOTS)
    least = max(_width(heading, LARGE + 2, "bold"), *(_width(t, SMALL) for t in KEY))
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
