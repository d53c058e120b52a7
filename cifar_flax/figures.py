"""Helpers for Matplotlib figures: colours, axes, conversion to PNG and SVG.

Any thread can draw: of Matplotlib's global state, they only set that ids in SVG files
are not random.
"""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import (
  EngFormatter,
  FixedFormatter,
  FixedLocator,
  MaxNLocator,
  NullLocator,
)

from cifar_flax.text import shortened

matplotlib.rcParams["svg.hashsalt"] = "cifar_flax"

MAX_PIXELS = 3000  # of each side of a picture
LABEL = 60  # characters of a name in a legend; longer ones lose their middle
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


def log_axis(axes: Any, low: float, high: float) -> None:
  """Makes the horizontal axis logarithmic, with at least two labelled round ticks.

  Args:
    axes: the axes.
    low: its lower limit.
    high: its upper limit, at least 10 % more.
  """
  axes.set_xscale("log")
  axes.set_xlim(low, high)
  ticks = _log_ticks(low, high)
  short = EngFormatter(sep="")
  texts = [short(tick) if tick >= 1000 else f"{tick:g}" for tick in ticks]
  axes.xaxis.set_major_locator(FixedLocator(ticks))
  axes.xaxis.set_major_formatter(FixedFormatter(texts))
  axes.xaxis.set_minor_locator(NullLocator())


def _log_ticks(low: float, high: float) -> list[float]:
  """Returns the round numbers within a range: powers of ten, or closer ones if few."""
  powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  for digits in ((1,), (1, 3), (1, 2, 5)):
    ticks = [digit * 10.0**power for power in powers for digit in digits]
    if len(found := [tick for tick in ticks if low <= tick <= high]) > 3:
      return found
  values = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
  return [float(tick) for tick in values if low <= tick <= high]


def marker_legend(
  figure: Figure, markers: Mapping[str, str], corner: tuple[float, float], columns: int
) -> None:
  """Draws a legend of markers by name, with its upper left corner in this place."""
  handles = [
    Line2D([], [], color=TEXT, marker=marker, lw=0, ms=5.5)
    for marker in markers.values()
  ]
  legend(
    figure,
    handles,
    [name or "others" for name in markers],
    loc="upper left",
    bbox_to_anchor=corner,
    ncols=columns,
    fontsize=8,
    handletextpad=0.1,
    columnspacing=1.2,
  )


def legend(
  figure: Figure, handles: Sequence[Any], names: Sequence[str], **style: Any
) -> None:
  """Draws a legend without a frame that shows names as they are, `_a` or `$b$` too.

  Args:
    figure: the figure.
    handles: the line of each name.
    names: the names; `LABEL` characters of each are shown.
    **style: arguments of Matplotlib's `legend`.
  """
  # Matplotlib leaves out names that begin with an underscore, so they are set later.
  places = [str(number) for number in range(len(names))]
  made = figure.legend(handles, places, frameon=False, labelcolor=TEXT, **style)
  for text, name in zip(made.get_texts(), names, strict=True):
    text.set_text(shortened(name, LABEL))


def legend_columns(texts: Sequence[str], width: float) -> int:
  """Returns how many columns a legend needs to fit into a width.

  Args:
    texts: its entries, in 8 points.
    width: in inches.
  """
  widths = [0.062 * min(len(text), LABEL) + 0.35 for text in texts]
  if sum(widths) <= width:
    return max(1, len(texts))
  return max(1, int(width / max(widths)))


def literal(figure: Figure) -> None:
  """Makes every text of a figure show `$` as it is; before measuring or drawing."""
  for text in figure.findobj(Text):
    text.set_parse_math(False)  # type: ignore[attr-defined]


def png(figure: Figure) -> bytes:
  """Returns the figure as the bytes of a PNG file, at most `MAX_PIXELS` wide and high.

  No text is taken for mathematics. Characters that the font lacks become boxes.
  """
  inches = max(figure.get_size_inches())
  figure.set_dpi(min(figure.get_dpi(), MAX_PIXELS / inches))
  return _saved(figure, "png")


def svg(figure: Figure) -> bytes:
  """Returns the figure as the bytes of an SVG file, the same ones each time."""
  return _saved(figure, "svg", metadata={"Date": None})


def _saved(figure: Figure, kind: str, **options: Any) -> bytes:
  literal(figure)
  buffer = io.BytesIO()
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Glyph .* missing from font")
    figure.savefig(buffer, format=kind, dpi=figure.get_dpi(), **options)
  return buffer.getvalue()
