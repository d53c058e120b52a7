"""Draws a run's accuracy and loss over its epochs."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cifar_flax import figures
from cifar_flax.figures import COLORS, TEXT

TRAIN, EVAL, *_ = COLORS
PUBLISHED = "#b3b3b3"
WIDTH, HEIGHT, DPI = 11.0, 4.5, 110  # inches, inches, pixels per inch
_COLORS = (("train", TRAIN), ("eval", EVAL))


def render(
  rows: Sequence[dict[str, Any]],
  title: str,
  published: Sequence[dict[str, float]] | None = None,
  eval_name: str = "test",
) -> bytes:
  """Draws a run's epochs, with the published curves in grey behind them.

  Uses Matplotlib's objects and no global state, so that a thread may call it.

  Args:
    rows: one dictionary per epoch, at least one: epoch, train_loss, train_accuracy,
      eval_loss, eval_accuracy; accuracies 0..1. Both eval_ may be None.
    title: above both panels.
    published: rows of `published.curves`; drawn up to the run's last epoch.
    eval_name: the split that was evaluated, for the legend.

  Returns:
    A PNG of 1210 x 495 pixels.
  """
  assert rows, "a run without an epoch has no curves"
  last = max(rows[-1]["epoch"], 2)
  behind = [row for row in published or () if row["epoch"] <= last]
  figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
  figure.text(0.055, 0.935, title, fontsize=12, fontweight="bold", color=TEXT)
  left, right = figure.subplots(1, 2)
  figure.subplots_adjust(0.055, 0.11, 0.955, 0.83, wspace=0.19)
  for axes, what, factor, digits in (
    (left, "accuracy", 100.0, 1),
    (right, "loss", 1.0, 2),
  ):
    _draw_published(axes, behind, what, factor)
    _draw_run(axes, rows, what, factor, eval_name)
    _name_last_values(axes, rows[-1], what, factor, digits)
    _dress(axes, last)
  left.set_ylabel("accuracy, %", color=TEXT)
  right.set_ylabel("loss (cross-entropy)", color=TEXT)
  handles, labels = left.get_legend_handles_labels()
  figures.legend(
    figure,
    handles,
    labels,
    ncols=len(labels),
    loc="upper left",
    borderaxespad=0,
    bbox_to_anchor=(0.049, 0.915),
    fontsize=9.5,
  )
  return figures.png(figure)


def _draw_published(axes, rows, what: str, factor: float) -> None:
  if not rows:
    return
  epochs = [row["epoch"] for row in rows]
  for split, name, style in (("train", "training", (0, (4, 2))), ("test", "test", "-")):
    values = [row[f"{split}_{what}"] * factor for row in rows]
    axes.plot(
      epochs,
      values,
      color=PUBLISHED,
      ls=style,
      lw=1.1,
      zorder=1,
      label=f"published {name}",
    )


def _draw_run(axes, rows, what: str, factor: float, eval_name: str) -> None:
  for split, color, label in (("train", TRAIN, "training"), ("eval", EVAL, eval_name)):
    known = [row for row in rows if row[f"{split}_{what}"] is not None]
    epochs = [row["epoch"] for row in known]
    values = [row[f"{split}_{what}"] * factor for row in known]
    marker = "o" if len(known) <= 15 else None
    axes.plot(
      epochs, values, color=color, lw=1.6, marker=marker, ms=3.5, label=label, zorder=3
    )


def _name_last_values(axes, row, what: str, factor: float, digits: int) -> None:
  found = [(row[f"{split}_{what}"], color) for split, color in _COLORS]
  values = sorted(
    (value * factor, color) for value, color in found if value is not None
  )
  # The upper value stands above its point and the lower one below, so that the two
  # never overlap.
  for (value, color), side in zip(values, ("top", "bottom"), strict=False):
    axes.annotate(
      f"{value:.{digits}f}",
      (row["epoch"], value),
      xytext=(6, 0),
      textcoords="offset points",
      va=side,
      color=color,
      fontsize=10,
      fontweight="bold",
      annotation_clip=False,
    )


def _dress(axes, last: int) -> None:
  figures.style_axes(axes)
  margin = 0.02 * (last - 1) + 0.05
  axes.set_xlim(1 - margin, last + margin)
  axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True))
  axes.set_xlabel("epoch", color=TEXT)
