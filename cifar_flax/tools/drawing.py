"""The picture of a network: a box a layer, branches side by side, as PNG bytes."""

import io
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from cifar_flax.tools.structure import IMAGE, Layer

WIDTH, HEIGHT, GAP = 2.6, 0.34, 0.22  # inches: of a box, and between two
TEXT, LINE = "#333333", "#999999"
COLORS = {
  "Conv": "#cfe1f2",
  "Dense": "#d9d2e9",
  "BatchNormReLU": "#e8efdc",
  "Dropout": "#f1f1f1",
  "max_pool": "#fbe0c3",
}


def render(layers: Sequence[Layer], title: str) -> bytes:
  """Draws the layers from the image, at the top, down to the logits.

  Convolutions that are one in the network's code, such as the branches of a group,
  have a frame with its name.

  Args:
    layers: as `structure.layers` returns them.
    title: above them.
  """
  rows = _rows(layers)
  most = max(rows.count(row) for row in rows)
  height = (max(rows) + 2) * (HEIGHT + GAP) + 0.6
  width = max(most * (WIDTH + GAP), WIDTH) + 2.6
  figure = Figure(figsize=(width, height), dpi=100)
  canvas = FigureCanvasAgg(figure)
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set(xlim=(0, width), ylim=(height, 0))
  axes.axis("off")
  places = _places(rows, width)
  places[IMAGE] = (width / 2, 0.75)
  axes.text(0.2, 0.3, title, fontsize=12, fontweight="bold", color=TEXT)
  _frames(axes, layers, places)
  for number, layer in enumerate(layers):
    for source in layer.reach.sources:
      _arrow(axes, places[source], places[number])
  _box(axes, places[IMAGE], "image 32x32x3", "#ffffff")
  for number, layer in enumerate(layers):
    _box(axes, places[number], _label(layer), COLORS.get(layer.kind, "#ffffff"))
    field = "x".join(map(str, layer.reach.field))
    if rows.count(rows[number]) == 1:
      side = places[number][0] + WIDTH / 2 + 0.2
      axes.text(side, places[number][1], f"sees {field}", fontsize=7.5, va="center",
                color=LINE)  # fmt: skip
  picture = io.BytesIO()
  canvas.print_png(picture)
  return picture.getvalue()


def _rows(layers: Sequence[Layer]) -> list[int]:
  """How many layers lie between each and the image, by the longest way."""
  rows: list[int] = []
  for layer in layers:
    rows.append(1 + max(rows[s] if s != IMAGE else -1 for s in layer.reach.sources))
  return rows


def _places(rows: list[int], width: float) -> dict[int, tuple[float, float]]:
  """Where the middle of each layer's box is, in inches."""
  places = {}
  for number, row in enumerate(rows):
    beside = [i for i, other in enumerate(rows) if other == row]
    offset = beside.index(number) - (len(beside) - 1) / 2
    x = width / 2 + offset * (WIDTH + GAP)
    places[number] = (x, 0.75 + (row + 1) * (HEIGHT + GAP))
  return places


def _label(layer: Layer) -> str:
  words = {"BatchNormReLU": "BatchNorm, ReLU", "max_pool": "max pool"}
  parts = [words.get(layer.kind, layer.kind)]
  if layer.kernel:
    parts.append("x".join(map(str, layer.kernel)))
  if layer.groups and layer.groups > 1:
    parts.append(f"{layer.groups} groups")
  if layer.dilation and max(layer.dilation) > 1:
    parts.append(f"dilation {max(layer.dilation)}")
  return f"{' '.join(parts)}  |  {'x'.join(map(str, layer.output))}"


def _box(axes, middle: tuple[float, float], label: str, color: str) -> None:
  corner = (middle[0] - WIDTH / 2, middle[1] - HEIGHT / 2)
  style = "round,pad=0,rounding_size=0.06"
  axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle=style, fc=color,
                                ec=LINE, lw=0.8, zorder=3))  # fmt: skip
  axes.text(*middle, label, fontsize=7.5, ha="center", va="center", color=TEXT,
            zorder=4)  # fmt: skip


def _arrow(axes, source: tuple[float, float], target: tuple[float, float]) -> None:
  begin, end = (source[0], source[1] + HEIGHT / 2), (target[0], target[1] - HEIGHT / 2)
  axes.annotate("", end, begin, zorder=2,
                arrowprops={"arrowstyle": "-|>", "color": LINE, "lw": 0.9,
                            "shrinkA": 0, "shrinkB": 0})  # fmt: skip


def _frames(axes, layers: Sequence[Layer], places) -> None:
  """Around the layers of a module that has several."""
  groups: dict[str, list[int]] = {}
  for number, layer in enumerate(layers):
    parent = layer.name.rpartition("/")[0]
    groups.setdefault(parent, []).append(number)
  groups.pop("", None)
  for name, numbers in groups.items():
    across, down = zip(*(places[number] for number in numbers), strict=True)
    left, top = min(across) - WIDTH / 2 - 0.1, min(down) - HEIGHT / 2 - 0.08
    wide = max(across) - min(across) + WIDTH + 0.2
    high = max(down) - min(down) + HEIGHT + 0.16
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch((left, top), wide, high, boxstyle=style, fc="none",
                                  ec="#4c78a8", lw=1, ls=(0, (4, 2))))  # fmt: skip
    kind = name.rpartition("/")[2].rpartition("_")[0] or name
    axes.text(left - 0.08, top + high / 2, kind, fontsize=7.5, ha="right", va="center",
              color="#4c78a8")  # fmt: skip
