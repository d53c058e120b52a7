"""Lays out the drawing of a network: one long strip of rows of boxes.

`drawing` cuts the strip into the columns of a page and paints it. Lengths are inches
before scaling.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from cifar_flax.tools.structure import IMAGE, Layer

LARGE, SMALL = 8.0, 6.8  # points: a box's name, other text
# A line of text, between rows, from box to box, from lane to lane, from a frame to what
# it contains.
LINE, GAP, BESIDE, LANE, PAD = 0.126, 0.2, 0.16, 0.18, 0.07
DOT = 0.045  # radius
MOST = 4  # boxes in a row


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


@functools.lru_cache(maxsize=4096)
def text_width(text: str, size: float, weight: str = "normal") -> float:
  """Returns the width of a line of text in inches, with a little room to spare."""
  font = FontProperties(size=size, weight=weight)
  return TextPath((0, 0), text, prop=font).get_extents().width / 72 * 1.04 + 0.02


def short(number: int) -> str:
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
  costs = [f"{short(layer.parameters)} params"] if layer.parameters else []
  if layer.multiply_adds or layer.unknown:
    bound = "≥ " if layer.unknown else ""
    costs.append(f"{bound}{short(layer.multiply_adds)} mult-adds")
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
    widths = [text_width(lines[0], LARGE) for lines in texts]
    widths += [text_width(line, SMALL) for lines in texts for line in lines[1:]]
    # A label stays left of the line that enters the first box of its frame.
    widths += [2 * text_width(text, SMALL) for f in self.frames for text in f.label]
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
