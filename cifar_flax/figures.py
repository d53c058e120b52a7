"""Helpers for Matplotlib figures: colours, axes, conversion to PNG.

They do not use Matplotlib's global state, so any thread can draw.
"""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

TEXT, GRID, EDGE, FAINT = "#444444", "#e8e8e8", "#cccccc", "#999999"
# The first eight differ with any colour-vision deficiency too (Okabe and Ito 2008).
# Each of the others is as far as possible from all before it, with and without one.
COLORS = (
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#e69f00",
  "#56b4e9",
  "#7f7f7f",
  "#000000",
  "#3333bb",
  "#550055",
  "#553300",
  "#bb9955",
  "#770033",
  "#bb0033",
  "#005555",
  "#bb0099",
  "#5577dd",
  "#bb5555",
  "#009900",
  "#770099",
)


def style_axes(axes: Any) -> None:
  """Styles axes: a faint grid, and only the left and bottom spines."""
  axes.grid(color=GRID, lw=0.8)
  axes.set_axisbelow(True)
  axes.tick_params(colors=TEXT, labelsize=8, length=0)
  for side, spine in axes.spines.items():
    spine.set_visible(side in ("left", "bottom"))
    spine.set_color(EDGE)


def panels(number: int, width: float, height: float) -> tuple[Figure, Sequence[Any]]:
  """Returns a figure with `number` axes side by side, each of this size in inches."""
  figure = Figure(figsize=(width * number, height), dpi=100, layout="constrained")
  axes = figure.subplots(1, number, squeeze=False)[0]
  for each in axes:
    style_axes(each)
  return figure, axes


def png(figure: Figure) -> bytes:
  """Returns the figure as the bytes of a PNG file."""
  buffer = io.BytesIO()
  FigureCanvasAgg(figure).print_png(buffer)
  return buffer.getvalue()
