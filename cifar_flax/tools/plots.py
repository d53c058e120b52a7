"""Draws the figures of a report."""

import dataclasses
import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cifar_flax import figures, published, tables
from cifar_flax.figures import COLORS, TEXT
from cifar_flax.tools import comparison, labels
from cifar_flax.tools.comparison import Entry
from cifar_flax.tools.finished import Group

# The first eight groups have solid lines, the next eight dotted ones, and so on.
LINE_STYLES = ("-", (0, (1, 1)), (0, (6, 1, 1, 1)))
MARKERS = "osD^vPX<>"
SEVERAL = "in several of these"


def curves(groups: Sequence[Group]) -> Figure:
  """Draws accuracy, loss and train-test gap by epoch.

  Lines are means over the seeds; the shaded areas of test accuracy, test loss and gap
  are the range over the seeds. Published test accuracy is dashed.
  """
  names = [group.label for group in groups]
  names += [f"{group.label}, published" for group in groups if group.published]
  columns = figures.legend_columns(names, 12)
  figure, panels = figures.panels(3, 4.2, 4.2 + 0.18 * -(-len(names) // columns))
  for number, group in enumerate(groups):
    color = COLORS[number % len(COLORS)]
    line_style = LINE_STYLES[number // 8 % len(LINE_STYLES)]
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
      axes.plot(1 + evaluated, known.mean(0), lw=1.6, ls=line_style, **style)
      axes.fill_between(
        1 + evaluated, known.min(0), known.max(0), color=color, alpha=0.15, lw=0
      )
    for axes, values in ((panels[0], train), (panels[1], by_seed("train_loss"))):
      axes.plot(epochs, values.mean(0), color=color, lw=0.8, ls=line_style, alpha=0.5)
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
  titles = (
    "accuracy, %: test (train faint)",
    "loss: test (train faint)",
    "gap, train - test, points",
  )
  for axes, title in zip(panels, titles, strict=True):
    axes.set_title(title, fontsize=10, color=TEXT, loc="left")
    axes.set_xlabel("epoch", color=TEXT, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
  figure.legend(
    loc="outside lower left",
    ncols=columns,
    fontsize=8,
    frameon=False,
    labelcolor=TEXT,
    handlelength=3,
  )
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
  front. A name has one colour, and a group one marker. An entry that several groups
  share is drawn once. Entries whose cost is unknown are named below the axes.

  Args:
    entries: what to draw.
    cost: a key of the entries' costs; its unit, if it has one, follows a comma.
    accuracy_label: label of the vertical axis.
    subtitle: data, budget and n.
  """
  what = cost.partition(",")[0]
  points, missing = _points(entries, cost)
  front = comparison.front([point.entry for point in points], cost)
  notes = _notes(points, front, missing, what)
  kinds = _markers(points)
  columns = figures.legend_columns(list(kinds), 6.7)
  rows = -(-len(kinds) // columns) if len(kinds) > 1 else 0
  bottom, top = 0.115 + 0.03 * len(notes), 0.865 - 0.04 * rows
  text: Any = {"color": TEXT, "fontsize": 9}

  figure = Figure(figsize=(7, 5), dpi=100)
  axes = figure.add_axes((0.095, bottom, 0.885, top - bottom))
  figures.style_axes(axes)
  figure.text(0.02, 0.98, f"Accuracy against {what}", color=TEXT, fontsize=12, va="top")
  figure.text(0.02, 0.925, subtitle, va="top", **text)
  figure.text(0.02, 0.015, "\n".join(notes), color=TEXT, fontsize=8, va="bottom")
  axes.set_ylabel(accuracy_label, **text)
  axes.set_xlabel(cost, **text)
  if not points:
    axes.set(xticks=[], yticks=[])
    sentence = f"Unknown for all: {what}." if missing else "There are no results."
    axes.text(0.5, 0.5, sentence, ha="center", transform=axes.transAxes, **text)
    return figure
  _scale(axes, points)
  names = list(dict.fromkeys(entry.name for entry in entries))
  colors = [COLORS[names.index(p.entry.name) % len(COLORS)] for p in points]
  for point, color in zip(points, colors, strict=True):
    _draw_point(axes, point, color, kinds[_kind(point)])
  on_front = [next(p for p in points if p.entry is entry) for entry in front]
  line = np.array([(point.x, point.y) for point in on_front])
  if len(front) > 1:
    axes.plot(*line.T, color="#bbbbbb", lw=1.2, zorder=1, gid="front")
  _draw_labels(figure, axes, points, colors, line)
  if rows:
    figures.marker_legend(figure, kinds, (0.005, 0.895), columns)
  return figure


def _points(entries: Sequence[Entry], cost: str) -> tuple[list[_Point], list[str]]:
  """Returns the distinct points, and the entries whose cost is unknown."""
  points: dict[tuple, _Point] = {}
  missing: dict[str, None] = {}
  for entry in entries:
    x = entry.costs.get(cost)
    if x is None or x <= 0:
      missing[f"{entry.name} {entry.group}".strip()] = None
      continue
    values = list(entry.accuracies.values())
    key = (entry.name, x, tuple(sorted(entry.accuracies.items())))
    y, deviation = tables.mean_and_deviation(values)
    point = points.setdefault(key, _Point(entry, x, y, deviation, []))
    if entry.group not in point.groups:
      point.groups.append(entry.group)
  return list(points.values()), list(missing)


def _scale(axes: Any, points: Sequence[_Point]) -> None:
  """Sets limits that leave room for labels."""
  low = min(point.y - (point.deviation or 0) for point in points)
  high = max(point.y + (point.deviation or 0) for point in points)
  room = 0.12 * (high - low) + max(0, 1 - (high - low)) / 2
  axes.set_ylim(low - room, high + room)
  axes.yaxis.set_major_locator(MaxNLocator(7))
  left, right = min(point.x for point in points), max(point.x for point in points)
  least = max(1, 1.1 * left / right)  # so that the ends are at least 20 % apart
  ratio = right / left
  figures.log_axis(axes, left / ratio**0.12 / least, right * ratio**0.25 * least)


def _kind(point: _Point) -> str:
  return point.groups[0] if len(point.groups) == 1 else SEVERAL


def _markers(points: Sequence[_Point]) -> dict[str, str]:
  """Returns the marker of each group, and of points that several groups share."""
  groups = dict.fromkeys(group for point in points for group in point.groups)
  markers = dict(zip(groups, itertools.cycle(MARKERS), strict=False))
  if any(len(point.groups) > 1 for point in points):
    markers[SEVERAL] = "*"
  return markers


def _notes(
  points: Sequence[_Point], front: Sequence[Entry], missing: Sequence[str], what: str
) -> list[str]:
  """Returns the lines of small print below the axes."""
  notes = []
  if any(point.deviation is not None for point in points):
    notes.append("Bars: standard deviation over seeds.")
  if len(front) > 1:
    notes.append("Line: Pareto front.")
  if missing and points:
    notes.append(f"Not shown ({what} unknown): {', '.join(missing)}.")
  return textwrap.wrap(" ".join(notes), 110)


def _draw_point(axes: Any, point: _Point, color: str, marker: str) -> None:
  size, height = (9, 3.5) if marker == "*" else (5.5, 3)
  axes.errorbar(
    point.x,
    point.y,
    point.deviation,
    color=color,
    marker=marker,
    ms=size,
    mec="white",
    mew=0.5,
    capsize=2,
    elinewidth=1,
    ecolor=color,
    lw=0,
    zorder=height,
  )


def _draw_labels(
  figure: Figure,
  axes: Any,
  points: Sequence[_Point],
  colors: Sequence[str],
  front: np.ndarray,
) -> None:
  """Writes the name of each point where nothing crosses it."""
  to_pixels = axes.transData.transform
  places = to_pixels([(point.x, point.y) for point in points])
  low, high = (
    to_pixels([(p.x, p.y + sign * (p.deviation or 0)) for p in points])
    for sign in (-1, 1)
  )
  corners = to_pixels(front)
  radius = np.array([[6.5 if len(point.groups) > 1 else 5] for point in points])
  obstacles = labels.Obstacles(
    markers=np.concatenate([places - radius, places + radius], -1),
    bars=np.concatenate([low - (4, 1), high + (4, 1)], -1),
    lines=np.concatenate([corners[:-1], corners[1:]], -1),
    frame=axes.get_window_extent().extents,
  )
  style: Any = {
    "textcoords": "offset points",
    "fontsize": 8,
    "color": TEXT,
    "zorder": 4,
  }
  texts = [axes.annotate(p.entry.name, (p.x, p.y), (0, 0), **style) for p in points]
  renderer = FigureCanvasAgg(figure).get_renderer()
  extents = np.array([text.get_window_extent(renderer).extents for text in texts])
  boxes = labels.place(places, extents[:, 2:] - extents[:, :2], obstacles)
  moves = (boxes - extents)[:, :2] * 72 / figure.dpi
  to_data = axes.transData.inverted().transform
  for i, text in enumerate(texts):
    text.xyann = tuple(moves[i])
    leader = labels.leader(places[i], boxes[i])
    if labels.length(leader) > labels.NEAR:
      ends = to_data(leader.reshape(2, 2))
      axes.plot(*ends.T, color=colors[i], lw=0.6, zorder=2, gid="leader")


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
