"""The pictures of a report, as PNG bytes."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from cifar_flax import published
from cifar_flax.tools.finished import Group

TEXT, GRID = "#444444", "#e8e8e8"
COLORS = ("#4c78a8", "#e4572e", "#54a24b", "#b279a2", "#eeca3b", "#72b7b2", "#9d755d")


def curves(groups: Sequence[Group]) -> bytes:
  """Accuracy, loss and train-test gap by epoch; published test accuracy dashed.

  The mean over the seeds, and for the test images and the gap the range of all.
  """
  figure, panels = _panels(3, 4.2)
  for number, group in enumerate(groups):
    color = COLORS[number % len(COLORS)]
    length = min(len(run.rows) for run in group.runs)
    epochs = range(1, length + 1)

    def of_all(name: str, runs=group.runs, length=length) -> np.ndarray:
      rows = [[row[name] for row in run.rows[:length]] for run in runs]
      return np.array(rows, float)  # None, where nothing was evaluated, becomes NaN

    test, train = 100 * of_all("eval_accuracy"), 100 * of_all("train_accuracy")
    bold = [
      (panels[0], test),
      (panels[1], of_all("eval_loss")),
      (panels[2], train - test),
    ]
    seen = np.flatnonzero(~np.isnan(test).any(0))
    for axes, values in bold:
      style = {"color": color, "marker": "o" if len(seen) < 3 else None, "ms": 4}
      style["label"] = group.label if axes is panels[0] else None
      known = values[:, seen]
      axes.plot(1 + seen, known.mean(0), lw=1.6, **style)
      axes.fill_between(1 + seen, known.min(0), known.max(0), color=color, alpha=0.15,
                        lw=0)  # fmt: skip
    for axes, values in ((panels[0], train), (panels[1], of_all("train_loss"))):
      axes.plot(epochs, values.mean(0), color=color, lw=0.8, alpha=0.5)
    if group.published and (rows := published.curves(group.name)):
      rows = rows[: len(group.runs[0].rows)]
      panels[0].plot([row["epoch"] for row in rows],
                     [100 * row["test_accuracy"] for row in rows], color=color, lw=1,
                     ls=(0, (4, 2)), label=f"{group.label}, published")  # fmt: skip
  names = ("accuracy, %: test (train faint)", "loss: test (train faint)",
           "gap, train - test, points")  # fmt: skip
  for axes, name in zip(panels, names, strict=True):
    axes.set_title(name, fontsize=10, color=TEXT, loc="left")
    axes.set_xlabel("epoch", color=TEXT, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
  panels[0].legend(fontsize=8, frameon=False, labelcolor=TEXT)
  return _png(figure)


def costs(groups: Sequence[Group]) -> bytes:
  """Accuracy against parameters, multiply-adds and time, with the Pareto fronts."""
  figure, panels = _panels(3, 4.2)
  accuracy = [100 * float(np.mean(g.values("eval_accuracy"))) for g in groups]
  axes_of: list[tuple[str, Callable[[Group], float]]] = [
    ("parameters", lambda group: group.parameters),
    ("multiply-adds of an image", lambda group: group.multiply_adds),
    (
      "training time of an image, µs",
      lambda g: 1e6 / float(np.mean(g.values("speed"))),
    ),
  ]
  for axes, (name, cost_of) in zip(panels, axes_of, strict=True):
    cost = [cost_of(group) for group in groups]
    front = pareto(cost, accuracy)
    axes.plot([cost[i] for i in front], [accuracy[i] for i in front], color="#bbbbbb",
              lw=1, zorder=1)  # fmt: skip
    side = _sides(cost, accuracy)
    for number, group in enumerate(groups):
      spread = 100 * np.std(group.values("eval_accuracy"), ddof=len(group.runs) > 1)
      axes.errorbar(cost[number], accuracy[number], yerr=spread, fmt="o", ms=5,
                    color=COLORS[number % len(COLORS)], capsize=2)  # fmt: skip
      axes.annotate(group.label, (cost[number], accuracy[number]),
                    xytext=(5, 3 * side[number]), textcoords="offset points",
                    va="bottom" if side[number] > 0 else "top", fontsize=8,
                    color=TEXT)  # fmt: skip
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(name, color=TEXT, fontsize=9)
    axes.margins(x=0.25, y=0.15)
    axes.set_xlim(0, 1.25 * max(cost))
  panels[0].set_ylabel("test accuracy, %", color=TEXT, fontsize=9)
  return _png(figure)


def _sides(x: Sequence[float], y: Sequence[float]) -> list[int]:
  """1 where a label can stand above its point, -1 where another one stands there."""
  sides = [1] * len(x)
  high = sorted(range(len(x)), key=lambda i: -y[i])
  for before, number in zip(high, high[1:], strict=False):
    near = abs(x[number] - x[before]) < 0.35 * max(x)
    if near and y[before] - y[number] < 0.06 * (max(y) - min(y)):
      sides[number] = -sides[before]
  return sides


def pareto(cost: Sequence[float], value: Sequence[float]) -> list[int]:
  """Those that no other beats in value at the same cost or less, by cost."""
  front: list[int] = []
  for number in sorted(range(len(cost)), key=lambda i: (cost[i], -value[i])):
    if not front or value[number] > value[front[-1]]:
      front.append(number)
  return front


def confusion(group: Group) -> bytes:
  """The confusion matrix, in percent of each class's images."""
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
      axes.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=7.5,
                color=color)  # fmt: skip
  places = range(len(names))
  axes.set_xticks(places, names, rotation=60, ha="right", fontsize=8, color=TEXT)
  axes.set_yticks(places, names, fontsize=8, color=TEXT)
  axes.set_xlabel("answer", color=TEXT, fontsize=9)
  axes.set_ylabel("class", color=TEXT, fontsize=9)
  axes.tick_params(length=0)
  return _png(figure)


def mistakes(group: Group, number: int = 16) -> bytes:
  """The most confident wrong answers: the image, its class, the answer."""
  wrong = group.mistakes(number)
  columns = 8
  rows = max(1, -(-len(wrong) // columns))
  figure = Figure(figsize=(1.25 * columns, 1.6 * rows), dpi=100, layout="constrained")
  panels: Any = figure.subplots(rows, columns, squeeze=False)
  for axes in panels.flat:
    axes.axis("off")
  for axes, image in zip(panels.flat, wrong, strict=False):
    answer = int(group.chances[image].argmax())
    axes.imshow(group.images[image])
    text = f"{group.class_names[group.labels[image]]}\n{group.class_names[answer]}"
    axes.set_title(
      f"{text} {group.chances[image, answer]:.0%}", fontsize=7.5, color=TEXT
    )
  return _png(figure)


def _panels(number: int, height: float) -> tuple[Figure, Any]:
  figure = Figure(figsize=(4.2 * number, height), dpi=100, layout="constrained")
  panels = figure.subplots(1, number)
  for axes in panels:
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=TEXT, labelsize=8, length=0)
    for side, spine in axes.spines.items():
      spine.set_visible(side in ("left", "bottom"))
      spine.set_color("#cccccc")
  return figure, panels


def _png(figure: Figure) -> bytes:
  picture = io.BytesIO()
  FigureCanvasAgg(figure).print_png(picture)
  return picture.getvalue()
