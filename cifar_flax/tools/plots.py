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
from cifar_flax.text import shortened
from cifar_flax.tools import comparison, finished, labels, predictions
from cifar_flax.tools.comparison import Entry
from cifar_flax.tools.finished import Group
from cifar_flax.tools.predictions import Predictions

# The first eight groups have solid lines, the next eight dotted ones, and so on.
LINE_STYLES = ("-", (0, (1, 1)), (0, (6, 1, 1, 1)))
MARKERS = "osD^vPX<>"
SEVERAL = "in several of these"
# What a figure shows at most; what is left out is said in it.
MOST_CURVES = len(COLORS)
MOST_LABELS = 30
LABELS_OF_MANY = 12  # labels if there are more points than that
MOST_NAMED = 10  # in small print
MOST_CLASSES = 20
CURVES_WIDTH = 4.4  # inches; a name of `figures.LABEL` characters fits
_NAME = 24  # characters of a class's name
_LABEL = 36  # characters of a label beside a point


def curves(groups: Sequence[Group]) -> dict[str, Figure]:
  """Draws accuracy, loss and gap (as `published.GAP` says) by epoch, each in a figure.

  Lines are means over the seeds; the shaded areas of evaluation accuracy, evaluation
  loss and gap are the range over the seeds. Published test accuracy is dashed. Of more
  than `MOST_CURVES` groups, those with the highest accuracy are drawn.
  """
  drawn, heading = finished.most_accurate(groups, MOST_CURVES), None
  if len(drawn) < len(groups):
    heading = f"The {len(drawn)} most accurate of {len(groups)} rows"
  splits = list(dict.fromkeys(group.eval_split for group in drawn))
  on = shortened(splits[0], 20) if len(splits) == 1 else "evaluation"
  titles = {
    "accuracy": f"accuracy, %: {on} (train faint)",
    "loss": f"loss: {on} (train faint)",
    "gap": f"gap, max train so far - {on}, points",
  }
  found = {}
  for metric, title in titles.items():
    known = [group for group in drawn if group.published and metric == "accuracy"]
    names = [group.label for group in drawn]
    names += [f"{group.label}, published" for group in known]
    lines = len(names) + (heading is not None)
    figure, (axes,) = figures.panels(1, CURVES_WIDTH, 4.1 + 0.18 * lines)
    handles = [_draw_curve(axes, each, i, metric) for i, each in enumerate(drawn)]
    handles += [_draw_published(axes, each, drawn.index(each)) for each in known]
    axes.set_title(title, fontsize=10, color=TEXT, loc="left")
    axes.set_xlabel("epoch", color=TEXT, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    style = {"fontsize": 8, "handlelength": 3, "title": heading, "title_fontsize": 8}
    place = {"loc": "outside lower left", "alignment": "left"}
    figures.legend(figure, handles, names, **style, **place)
    found[metric] = figure
  return found


def _draw_curve(axes: Any, group: Group, number: int, metric: str) -> Any:
  """Draws one metric of a group; returns the line of the evaluation, for the legend.

  Args:
    axes: where to draw.
    group: the group.
    number: its place among the groups, which chooses colour and line style.
    metric: accuracy, loss or gap.
  """
  color = COLORS[number % len(COLORS)]
  line_style = LINE_STYLES[number // 8 % len(LINE_STYLES)]
  length = min(len(run.rows) for run in group.runs)

  def by_seed(name: str) -> np.ndarray:
    rows = [[row[name] for row in run.rows[:length]] for run in group.runs]
    return np.array(rows, float)  # None, for epochs without evaluation, becomes NaN

  if metric == "loss":
    test, train = by_seed("eval_loss"), by_seed("train_loss")
  else:
    test, train = 100 * by_seed("eval_accuracy"), 100 * by_seed("train_accuracy")
  evaluated = np.flatnonzero(~np.isnan(test).any(0))  # epochs - 1
  if metric == "gap":
    test = np.vectorize(published.gap)(np.maximum.accumulate(train, axis=1), test)
  else:
    faint = {"color": color, "lw": 0.8, "ls": line_style, "alpha": 0.5}
    axes.plot(range(1, length + 1), train.mean(0), zorder=1.9, **faint)
  known, epochs = test[:, evaluated], 1 + evaluated
  axes.fill_between(epochs, known.min(0), known.max(0), color=color, alpha=0.15, lw=0)
  style = {"color": color, "marker": "o" if len(evaluated) < 3 else None, "ms": 4}
  return axes.plot(epochs, known.mean(0), lw=1.6, ls=line_style, **style)[0]


def _draw_published(axes: Any, group: Group, number: int) -> Any:
  """Draws and returns the published accuracy of a group; arguments as above."""
  rows = (published.curves(group.name) or [])[: len(group.runs[0].rows)]
  epochs = [row["epoch"] for row in rows]
  accuracies = [100 * row["test_accuracy"] for row in rows]
  dashed = {"color": COLORS[number % len(COLORS)], "lw": 1, "ls": (0, (4, 2))}
  return axes.plot(epochs, accuracies, gid="published", **dashed)[0]


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
  labelled = _labelled(points, front)
  notes = _notes(points, front, missing, what, len(labelled))
  kinds = _markers(points)
  columns = figures.legend_columns(list(kinds), 4.7)
  rows = -(-len(kinds) // columns) if len(kinds) > 1 else 0
  bottom, top = 0.115 + 0.03 * len(notes), 0.865 - 0.04 * rows
  text: Any = {"color": TEXT, "fontsize": 9}

  figure = Figure(figsize=(5, 4.6), dpi=100)
  axes = figure.add_axes((0.125, bottom, 0.855, top - bottom))
  figures.style_axes(axes)
  figure.text(0.02, 0.98, f"Accuracy against {what}", color=TEXT, fontsize=12, va="top")
  figure.text(0.02, 0.925, shortened(subtitle, 72), va="top", **text)
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
  _draw_labels(figure, axes, points, colors, line, labelled)
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


def _labelled(points: Sequence[_Point], front: Sequence[Entry]) -> list[int]:
  """Returns which points have a label: the front, and the most accurate others."""
  on_front = [any(point.entry is entry for entry in front) for point in points]
  order = sorted(range(len(points)), key=lambda i: (not on_front[i], -points[i].y))
  number = MOST_LABELS if len(points) <= MOST_LABELS else LABELS_OF_MANY
  return sorted(order[:number])


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
  points: Sequence[_Point],
  front: Sequence[Entry],
  missing: Sequence[str],
  what: str,
  labelled: int,
) -> list[str]:
  """Returns the lines of small print below the axes."""
  notes = []
  if any(point.deviation is not None for point in points):
    notes.append("Bars: standard deviation over seeds.")
  if len(front) > 1:
    notes.append("Line: Pareto front.")
  if labelled < len(points):
    notes.append(
      f"Labelled: {labelled} of {len(points)} points, the most accurate and the front."
    )
  if missing and points:
    named = ", ".join(shortened(name, 40) for name in missing[:MOST_NAMED])
    more = len(missing) - MOST_NAMED
    named += f" and {more} more" if more > 0 else ""
    notes.append(f"Not shown ({what} unknown): {named}.")
  return textwrap.wrap(" ".join(notes), 78)


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
  labelled: Sequence[int],
) -> None:
  """Writes the name of each labelled point where nothing crosses it."""
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
  # The obstacles are those of all points; the labels, those of some.
  places, colors = places[labelled], [colors[i] for i in labelled]
  texts = [
    axes.annotate(
      shortened(points[i].entry.name, _LABEL),
      (points[i].x, points[i].y),
      (0, 0),
      **style,
    )
    for i in labelled
  ]
  figures.literal(figure)
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


def confusion(found: Predictions) -> Figure:
  """Draws the confusion matrix, in percent of each class's images.

  Of more than `MOST_CLASSES` classes, those of the most frequent confusions are drawn.
  """
  chosen = predictions.most_confused(found, MOST_CLASSES)
  matrix = predictions.confusion(found, chosen)
  total = np.bincount(found.labels, minlength=len(found.class_names))[chosen]
  share = 100 * matrix / np.maximum(1, total)[:, None]
  names = [shortened(found.class_names[label], _NAME) for label in chosen]
  side = 1.2 + 0.33 * len(names)
  figure = Figure(figsize=(side, side), dpi=100, layout="constrained")
  axes = figure.subplots()
  axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
  for i, j in np.ndindex(*share.shape):
    if share[i, j] >= 0.5:
      color = "white" if share[i, j] > 55 else TEXT
      axes.text(
        j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=7.5, color=color
      )
  if len(names) < len(found.class_names):
    axes.set_title(
      f"{len(names)} of {len(found.class_names):,} classes: those confused most",
      fontsize=9,
      color=TEXT,
      loc="left",
    )
  ticks = range(len(names))
  style: Any = {"fontsize": 8, "color": TEXT, "parse_math": False}
  axes.set_xticks(ticks, names, rotation=60, ha="right", **style)
  axes.set_yticks(ticks, names, **style)
  axes.set_xlabel("predicted class", color=TEXT, fontsize=9)
  axes.set_ylabel("true class", color=TEXT, fontsize=9)
  axes.tick_params(length=0)
  return figure


def mistakes(found: Predictions, number: int = 16) -> Figure:
  """Draws the most confident mistakes: image, true class, predicted class."""
  wrong = predictions.mistakes(found, number)
  columns = 4
  rows = max(1, -(-len(wrong) // columns))
  figure = Figure(figsize=(1.15 * columns, 1.6 * rows), dpi=100, layout="constrained")
  panels: Any = figure.subplots(rows, columns, squeeze=False)
  for axes in panels.flat:
    axes.axis("off")
  for axes, image in zip(panels.flat, wrong, strict=False):
    true, predicted = (
      shortened(found.class_names[label], 15)
      for label in (found.labels[image], found.predicted[image])
    )
    axes.imshow(found.images[image], interpolation="none")
    axes.set_title(
      f"{true}\n{predicted} {found.confidence[image]:.0%}", fontsize=7.5, color=TEXT
    )
  return figure
