"""Draws the figures of a report."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from cifar_flax import figures, published
from cifar_flax.figures import COLORS, TEXT
from cifar_flax.tools.finished import Group


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


def costs(groups: Sequence[Group]) -> Figure:
  """Draws accuracy against parameters, multiply-adds and training time.

  Error bars are standard deviations (n - 1) over the seeds. The grey lines are the
  Pareto fronts.
  """
  figure, panels = figures.panels(3, 4.2, 4.2)
  accuracy = [100 * float(np.mean(g.values("eval_accuracy"))) for g in groups]
  axes_of: list[tuple[str, Callable[[Group], float]]] = [
    ("parameters", lambda group: group.parameters),
    ("multiply-adds per image", lambda group: group.multiply_adds),
    (
      "training time per image, µs",
      lambda g: 1e6 / float(np.mean(g.values("speed"))),
    ),
  ]
  for axes, (name, cost_of) in zip(panels, axes_of, strict=True):
    cost = [cost_of(group) for group in groups]
    front = pareto(cost, accuracy)
    axes.plot(
      [cost[i] for i in front],
      [accuracy[i] for i in front],
      color="#bbbbbb",
      lw=1,
      zorder=1,
    )
    side = _label_sides(cost, accuracy)
    for number, group in enumerate(groups):
      several = len(group.runs) > 1
      deviation = 100 * np.std(group.values("eval_accuracy"), ddof=1) if several else 0
      axes.errorbar(
        cost[number],
        accuracy[number],
        yerr=deviation,
        fmt="o",
        ms=5,
        color=COLORS[number % len(COLORS)],
        capsize=2,
      )
      axes.annotate(
        group.label,
        (cost[number], accuracy[number]),
        xytext=(5, 3 * side[number]),
        textcoords="offset points",
        va="bottom" if side[number] > 0 else "top",
        fontsize=8,
        color=TEXT,
      )
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(name, color=TEXT, fontsize=9)
    axes.margins(x=0.25, y=0.15)
    axes.set_xlim(0, 1.25 * max(cost))
  panels[0].set_ylabel("test accuracy, %", color=TEXT, fontsize=9)
  return figure


def _label_sides(x: Sequence[float], y: Sequence[float]) -> list[int]:
  """Returns the side of each point's label: 1 above the point, -1 below it.

  The labels of two neighbouring points are put on different sides, so that they do not
  overlap.
  """
  sides = [1] * len(x)
  high = sorted(range(len(x)), key=lambda i: -y[i])
  for before, number in zip(high, high[1:], strict=False):
    near = abs(x[number] - x[before]) < 0.35 * max(x)
    if near and y[before] - y[number] < 0.06 * (max(y) - min(y)):
      sides[number] = -sides[before]
  return sides


def pareto(cost: Sequence[float], value: Sequence[float]) -> list[int]:
  """Returns the Pareto front, in the order of cost.

  A point is in the front if no other point has a value at least as high at the same
  cost or less.
  """
  front: list[int] = []
  for number in sorted(range(len(cost)), key=lambda i: (cost[i], -value[i])):
    if not front or value[number] > value[front[-1]]:
      front.append(number)
  return front


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
