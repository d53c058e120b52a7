"""Draws a network: one box per layer, parallel branches side by side."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from cifar_flax.figures import FAINT, TEXT
from cifar_flax.tools.structure import IMAGE, Layer

WIDTH, HEIGHT, GAP = 2.6, 0.34, 0.22  # inches: size of a box, gap between boxes
COLORS = {
  "Conv": "#cfe1f2",
  "Dense": "#d9d2e9",
  "BatchNormReLU": "#e8efdc",
  "Dropout": "#f1f1f1",
  "max_pool": "#fbe0c3",
}


def draw(layers: Sequence[Layer], title: str) -> Figure:
  """Draws the layers from the image at the top down to the logits at the bottom.

  The layers of one module, such as the branches of a convolution, are framed together
  and labelled with the module's name.

  Args:
    layers: as `structure.layers` returns them.
    title: printed above the drawing.
  """
  rows = _rows(layers)
  most = max(rows.count(row) for row in rows)
  height = (max(rows) + 2) * (HEIGHT + GAP) + 0.6
  width = max(most * (WIDTH + GAP), WIDTH) + 3.0
  figure = Figure(figsize=(width, height), dpi=100)
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set(xlim=(0, width), ylim=(height, 0))
  axes.axis("off")
  centers = _centers(rows, width)
  centers[IMAGE] = (width / 2, 0.75)
  axes.text(0.2, 0.3, title, fontsize=12, fontweight="bold", color=TEXT)
  _draw_frames(axes, layers, centers)
  for number, layer in enumerate(layers):
    for source in layer.receptive_field.inputs:
      _draw_arrow(axes, centers[source], centers[number])
  _draw_box(axes, centers[IMAGE], "image 32x32x3", "#ffffff")
  for number, layer in enumerate(layers):
    _draw_box(axes, centers[number], _label(layer), COLORS.get(layer.kind, "#ffffff"))
    field = "x".join(map(str, layer.receptive_field.size))
    if rows.count(rows[number]) == 1:
      side = centers[number][0] + WIDTH / 2 + 0.2
      axes.text(
        side,
        centers[number][1],
        f"sees {field}",
        fontsize=7.5,
        va="center",
        color=FAINT,
      )
  return figure


def _rows(layers: Sequence[Layer]) -> list[int]:
  """Returns each layer's row: its depth along the longest path from the image."""
  rows: list[int] = []
  for layer in layers:
    inputs = layer.receptive_field.inputs
    rows.append(1 + max((rows[i] for i in inputs if i != IMAGE), default=-1))
  return rows


def _centers(rows: list[int], width: float) -> dict[int, tuple[float, float]]:
  """Returns the centre of each layer's box, (x, y) in inches."""
  centers = {}
  for number, row in enumerate(rows):
    same_row = [i for i, other in enumerate(rows) if other == row]
    offset = same_row.index(number) - (len(same_row) - 1) / 2
    x = width / 2 + offset * (WIDTH + GAP)
    centers[number] = (x, 0.75 + (row + 1) * (HEIGHT + GAP))
  return centers


def _label(layer: Layer) -> str:
  """Returns the text in a layer's box, such as `Conv 3x3 | 32x32x16`."""
  words = {"BatchNormReLU": "BatchNorm, ReLU", "max_pool": "max pool"}
  parts = [words.get(layer.kind, layer.kind)]
  if layer.kernel:
    parts.append("x".join(map(str, layer.kernel)))
  if layer.groups and layer.groups > 1:
    parts.append(f"{layer.groups} groups")
  if layer.dilation and max(layer.dilation) > 1:
    parts.append(f"dilation {max(layer.dilation)}")
  return f"{' '.join(parts)}  |  {'x'.join(map(str, layer.output))}"


def _draw_box(axes, center: tuple[float, float], label: str, color: str) -> None:
  corner = (center[0] - WIDTH / 2, center[1] - HEIGHT / 2)
  style = "round,pad=0,rounding_size=0.06"
  axes.add_patch(
    FancyBboxPatch(
      corner, WIDTH, HEIGHT, boxstyle=style, fc=color, ec=FAINT, lw=0.8, zorder=3
    )
  )
  axes.text(
    *center, label, fontsize=7.5, ha="center", va="center", color=TEXT, zorder=4
  )


def _draw_arrow(axes, source: tuple[float, float], target: tuple[float, float]) -> None:
  begin, end = (source[0], source[1] + HEIGHT / 2), (target[0], target[1] - HEIGHT / 2)
  axes.annotate(
    "",
    end,
    begin,
    zorder=2,
    arrowprops={
      "arrowstyle": "-|>",
      "color": FAINT,
      "lw": 0.9,
      "shrinkA": 0,
      "shrinkB": 0,
    },
  )


def _draw_frames(
  axes, layers: Sequence[Layer], centers: dict[int, tuple[float, float]]
) -> None:
  """Draws a labelled frame around the layers of each submodule."""
  groups: dict[str, list[int]] = {}
  for number, layer in enumerate(layers):
    parent = layer.name.rpartition("/")[0]
    groups.setdefault(parent, []).append(number)
  groups.pop("", None)
  for name, numbers in groups.items():
    across, down = zip(*(centers[number] for number in numbers), strict=True)
    left, top = min(across) - WIDTH / 2 - 0.1, min(down) - HEIGHT / 2 - 0.08
    wide = max(across) - min(across) + WIDTH + 0.2
    high = max(down) - min(down) + HEIGHT + 0.16
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(
      FancyBboxPatch(
        (left, top),
        wide,
        high,
        boxstyle=style,
        fc="none",
        ec="#4c78a8",
        lw=1,
        ls=(0, (4, 2)),
      )
    )
    label = f"{name}\n{layers[numbers[0]].part_of}"
    axes.text(
      left - 0.08,
      top + high / 2,
      label,
      fontsize=7.5,
      ha="right",
      va="center",
      color="#4c78a8",
    )
