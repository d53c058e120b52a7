"""Draws the figures of a report."""

import dataclasses
import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
  EngFormatter,
  FixedFormatter,
  FixedLocator,
  MaxNLocator,
  NullLocator,
)

from cifar_flax import figures, published, tables
from cifar_flax.figures import COLORS, FAINT, TEXT
from cifar_flax.tools import comparison, labels
from cifar_flax.tools.comparison import Entry
from cifar_flax.tools.finished import Group

MARKERS = "osD^vPX<>"
SEVERAL = "in several of these"


def curves(groups: Sequence[Group]) -> Figure:
  """Draws accuracy, loss and train-test gap by epoch.

  Lines are means over the seeds; the shaded areas of test accuracy, test loss and gap
  are the range over the seeds. Published test accuracy is dashed.
  """
  figure, panels = figures.panels(3, 4.2, 4.2)
  for number, group in enumerate(groups):
    color = COLORS[number % len(COLORS)]
    length = min(len(run.rows) for run in group.runs)
    epochs = range(1, length + 1)

    def by_seed(name: str, runs=group.runs, length=length) -> np.ndarray:
      rows = [[row[name] for row in run.rows[:length]] for run in runs]
      return np.array(rows, float)  # None, for epochs without evaluation, becomes NaN

    test, train = 100 * by_seed("eval_accuracy"), 100 * by_seed("train_accuracy")
    bold = [
      (panels[0], test),
      (panels[1], by_seed("eval_loss")),
      (panels[2], train - test),
    ]
    evaluated = np.flatnonzero(~np.isnan(test).any(0))  # epochs - 1
    for axes, values in bold:
      style = {"color": color, "marker": "o" if len(evaluated) < 3 else None, "ms": 4}
      style["label"] = group.label if axes is panels[0] else None
      known = values[:, evaluated]
      axes.plot(1 + evaluated, known.mean(0), lw=1.6, **style)
      axes.fill_between(
        1 + evaluated, known.min(0), known.max(0), color=color, alpha=0.15, lw=0
      )
    for axes, values in ((panels[0], train), (panels[1], by_seed("train_loss"))):
      axes.plot(epochs, values.mean(0), color=color, lw=0.8, alpha=0.5)
    if group.published and (rows := published.curves(group.name)):
      rows = rows[: len(group.runs[0].rows)]
      panels[0].plot(
        [row["epoch"] for row in rows],
        [100 * row["test_accuracy"] for row in rows],
        color=color,
        lw=1,
        ls=(0, (4, 2)),
        label=f"{group.label}, published",
      )
  names = (
    "accuracy, %: test (train faint)",
    "loss: test (train faint)",
    "gap, train - test, points",
  )
  for axes, name in zip(panels, names, strict=True):
    axes.set_title(name, fontsize=10, color=TEXT, loc="left")
    axes.set_xlabel("epoch", color=TEXT, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
  panels[0].legend(fontsize=8, frameon=False, labelcolor=TEXT)
  return figure


@dataclasses.dataclass
class _Point:
  """A point of a figure of costs: its position, and the groups that it belongs to."""

  entry: Entry
  x: float
  y: float
  deviation: float | None
  groups: list[str]


def cost(
  entries: Sequence[Entry], cost: str, accuracy_label: str, subtitle: str
) -> Figure:
  """Draws accuracy against a cost, on a logarithmic axis.

  Error bars are standard deviations (n - 1) over the seeds; the grey line is the Pareto
  front. A name has one color, and a group one marker. An entry that several groups have
  in common is drawn once. Entries whose cost is unknown are named below the axes.

  Args:
    entries: what to draw.
    cost: a key of the entries' costs; its unit, if it has one, follows a comma.
    accuracy_label: label of the vertical axis.
    subtitle: data, budget and n.
  """
  figure = Figure(figsize=(7, 5), dpi=100)
  axes = figure.add_axes((0.095, 0.17, 0.885, 0.65))
  figures.style_axes(axes)
  what = cost.partition(",")[0]
  text: Any = {"color": TEXT, "fontsize": 9}
  figure.text(0.02, 0.98, f"Accuracy against {what}", color=TEXT, fontsize=12, va="top")
  figure.text(0.02, 0.925, subtitle, va="top", **text)
  axes.set_ylabel(accuracy_label, **text)
  axes.set_xlabel(cost, **text)
  points, missing = _points(entries, cost)
  notes = []
  if points:
    _scale(axes, points)
    notes = _draw_points(figure, axes, points, [entry.name for entry in entries])
    front = comparison.front([point.entry for point in points], cost)
    if len(front) > 1:
      notes.append("Line: Pareto front.")
    _draw_front_and_labels(figure, axes, points, front)
  else:
    axes.set(xticks=[], yticks=[])
    sentence = f"No {what} are known." if entries else "There are no results."
    axes.text(0.5, 0.5, sentence, ha="center", transform=axes.transAxes, **text)
  if missing and points:
    notes.append(f"Not shown ({what} unknown): {', '.join(missing)}.")
  small = "\n".join(textwrap.wrap(" ".join(notes), 110))
  figure.text(0.02, 0.015, small, fontsize=8, color=TEXT, va="bottom")
  return figure


def _points(entries: Sequence[Entry], cost: str) -> tuple[list[_Point], list[str]]:
  """Returns the distinct points, and the names of the entries whose cost is unknown."""
  points: dict[tuple, _Point] = {}
  missing: dict[str, None] = {}
  for entry in entries:
    x = entry.costs.get(cost)
    if x is None or x <= 0:
      missing[entry.name] = None
      continue
    values = list(entry.accuracies.values())
    key = (entry.name, x, tuple(sorted(entry.accuracies.items())))
    y, deviation = tables.mean_and_deviation(values)
    point = points.setdefault(key, _Point(entry, x, y, deviation, []))
    if entry.group not in point.groups:
      point.groups.append(entry.group)
  return list(points.values()), list(missing)


def _scale(axes: Any, points: Sequence[_Point]) -> None:
  """Sets limits that leave room for labels, and the ticks of the logarithmic axis."""
  low = min(point.y - (point.deviation or 0) for point in points)
  high = max(point.y + (point.deviation or 0) for point in points)
  room = 0.12 * (high - low) + max(0, 1 - (high - low)) / 2
  axes.set_ylim(low - room, high + room)
  axes.yaxis.set_major_locator(MaxNLocator(7))
  left, right = min(p.x for p in points), max(p.x for p in points)
  factor = (right / left) ** 0.15 * max(1, 1.1 * left / right)
  axes.set_xscale("log")
  axes.set_xlim(left / factor, right * factor)
  ticks = _log_ticks(left / factor, right * factor)
  axes.xaxis.set_major_locator(FixedLocator(ticks))
  axes.xaxis.set_major_formatter(FixedFormatter(_tick_labels(ticks)))
  axes.xaxis.set_minor_locator(NullLocator())


def _log_ticks(low: float, high: float) -> list[float]:
  """Returns round numbers within a range: powers of ten, or closer ones if few."""
  powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  for digits in ((1,), (1, 3), (1, 2, 5)):
    ticks = [digit * 10.0**power for power in powers for digit in digits]
    if len(found := [tick for tick in ticks if low <= tick <= high]) > 3:
      return found
  values = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
  return [float(tick) for tick in values if low <= tick <= high]


def _tick_labels(ticks: Sequence[float]) -> list[str]:
  """Returns labels such as 0.5, 20, 10k and 7.6M, or all digits if these are equal."""
  short = EngFormatter(sep="")
  labels = [short(tick) if tick >= 1000 else f"{tick:g}" for tick in ticks]
  return (
    labels if len(set(labels)) == len(ticks) else [f"{tick:,.12g}" for tick in ticks]
  )


def _draw_points(
  figure: Figure, axes: Any, points: Sequence[_Point], names: Sequence[str]
) -> list[str]:
  """Draws points, error bars and a legend of the groups; returns what to note below."""
  colors = {name: i for i, name in enumerate(dict.fromkeys(names))}
  groups = list(dict.fromkeys(group for point in points for group in point.groups))
  kinds = dict(zip([*groups, SEVERAL], itertools.cycle(MARKERS), strict=False))
  kinds[SEVERAL] = "*"
  for point in points:
    color = COLORS[colors[point.entry.name] % len(COLORS)]
    kind = kinds[point.groups[0] if len(point.groups) == 1 else SEVERAL]
    style = {"color": color, "marker": kind, "ms": 9 if kind == "*" else 5.5, "lw": 0}
    style |= {"mec": "white", "mew": 0.5, "zorder": 3}
    axes.errorbar(
      point.x, point.y, point.deviation, capsize=2, elinewidth=1, ecolor=color, **style
    )
  if len(groups) > 1:
    shared = any(len(point.groups) > 1 for point in points)
    handles = [
      Line2D([], [], color=TEXT, marker=kinds[group], lw=0, ms=5.5, label=group or "-")
      for group in [*groups, SEVERAL][: len(groups) + shared]
    ]
    figure.legend(
      handles=handles,
      loc="upper left",
      bbox_to_anchor=(0.01, 0.895),
      ncols=4,
      fontsize=8,
      frameon=False,
      labelcolor=TEXT,
      handletextpad=0.1,
      columnspacing=1.2,
    )
  several = any(point.deviation is not None for point in points)
  return ["Bars: standard deviation over seeds."] if several else []


def _draw_front_and_labels(
  figure: Figure, axes: Any, points: Sequence[_Point], front: Sequence[Entry]
) -> None:
  """Draws the Pareto front, and the name of each point where nothing crosses it."""
  to_pixels = axes.transData.transform
  on_front = [next(p for p in points if p.entry is entry) for entry in front]
  line = np.array([(point.x, point.y) for point in on_front])
  if len(front) > 1:
    axes.plot(*line.T, color="#bbbbbb", lw=1, zorder=1)
  corners = to_pixels(line)
  places = to_pixels([(point.x, point.y) for point in points])
  spread = [point.deviation or 0 for point in points]
  ends = [
    to_pixels(
      [(point.x, point.y + sign * sd) for point, sd in zip(points, spread, strict=True)]
    )
    for sign in (-1, 1)
  ]
  obstacles = labels.Obstacles(
    markers=np.concatenate([places - 5, places + 5], -1),
    bars=np.concatenate([ends[0] - (3, 0.5), ends[1] + (3, 0.5)], -1),
    lines=np.concatenate([corners[:-1], corners[1:]], -1),
    frame=axes.get_window_extent().extents,
  )
  texts = [
    axes.annotate(
      point.entry.name,
      (point.x, point.y),
      (0, 0),
      textcoords="offset points",
      fontsize=8,
      color=TEXT,
      zorder=4,
    )
    for point in points
  ]
  renderer = FigureCanvasAgg(figure).get_renderer()
  extents = np.array([text.get_window_extent(renderer).extents for text in texts])
  boxes = labels.place(places, extents[:, 2:] - extents[:, :2], obstacles)
  moves = (boxes - extents)[:, :2] * 72 / figure.dpi
  lines = [labels.leader(*pair) for pair in zip(places, boxes, strict=True)]
  for text, move, leader in zip(texts, moves, lines, strict=True):
    text.xyann = tuple(move)
    if labels.length(leader) > labels.NEAR:
      axes.plot(
        *axes.transData.inverted().transform(leader.reshape(2, 2)).T,
        color=FAINT,
        lw=0.6,
        zorder=2,
        gid="leader",
      )


def confusion(group: Group) -> Figure:
  """Draws the confusion matrix, in percent of each class's images."""
  matrix = group.confusion()
  share = 100 * matrix / np.maximum(1, matrix.sum(1, keepdims=True))
  names = group.class_names
  side = 1.6 + 0.45 * len(names)
  figure = Figure(figsize=(side, side), dpi=100, layout="constrained")
  axes = figure.subplots()
  axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
  for i, j in np.ndindex(*share.shape):
    if share[i, j] >= 0.5:
      color = "white" if share[i, j] > 55 else TEXT
      axes.text(
        j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=7.5, color=color
      )
  ticks = range(len(names))
  axes.set_xticks(ticks, names, rotation=60, ha="right", fontsize=8, color=TEXT)
  axes.set_yticks(ticks, names, fontsize=8, color=TEXT)
  axes.set_xlabel("predicted class", color=TEXT, fontsize=9)
  axes.set_ylabel("true class", color=TEXT, fontsize=9)
  axes.tick_params(length=0)
  return figure


def mistakes(group: Group, number: int = 16) -> Figure:
  """Draws the most confident mistakes: image, true class, predicted class."""
  wrong = group.mistakes(number)
  columns = 8
  rows = max(1, -(-len(wrong) // columns))
  figure = Figure(figsize=(1.25 * columns, 1.6 * rows), dpi=100, layout="constrained")
  panels: Any = figure.subplots(rows, columns, squeeze=False)
  for axes in panels.flat:
    axes.axis("off")
  for axes, image in zip(panels.flat, wrong, strict=False):
    predicted = int(group.probabilities[image].argmax())
    axes.imshow(group.images[image])
    text = f"{group.class_names[group.labels[image]]}\n{group.class_names[predicted]}"
    axes.set_title(
      f"{text} {group.probabilities[image, predicted]:.0%}", fontsize=7.5, color=TEXT
    )
  return figure
