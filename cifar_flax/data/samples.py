"""Draws images of a data set, one row per class, plain and augmented."""

import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cifar_flax import config as config_lib
from cifar_flax import ops
from cifar_flax.data import augmentation, datasets
from cifar_flax.text import shown

ENLARGED = 2  # pixels of the picture for one of an image
# The largest grid: classes, and images of each. More are left out, and it is said.
MAX_ROWS = 40
MAX_COLUMNS = 20
_NAME = 24  # characters of a class's name


def render(
  config: config_lib.Config, dataset: datasets.Dataset, columns: int, step: int
) -> bytes:
  """Draws the first images of each class in the training split.

  Only the first `MAX_ROWS` classes are drawn; see `left_out`.

  Args:
    config: its augmentation and seed.
    dataset: the images.
    columns: images of each class, at most `MAX_COLUMNS`.
    step: the update whose augmentation is shown.

  Returns:
    A PNG.
  """
  from matplotlib.figure import Figure  # Matplotlib takes a second to import

  from cifar_flax import figures

  note = textwrap.fill(left_out(dataset, columns), 90)
  columns = min(columns, MAX_COLUMNS)
  names, *grids = make_grids(config, dataset, columns, step)
  names = [_shortened(name) for name in names]
  rows = len(names)
  height, width = grids[0].shape[0] // rows, grids[0].shape[1] // columns
  inches = np.array([columns * width, rows * height]) * ENLARGED / 100
  margin = 0.3 + 0.085 * max(map(len, names), default=0)  # inches, for the names
  margin = max(1.1, margin)
  below = 0.1 + 0.2 * len(note.splitlines())
  size = (max(2 * inches[0] + margin + 0.4, 5.0), inches[1] + 0.6 + below)
  figure = Figure(figsize=size, dpi=100)
  style: dict[str, Any] = {"fontsize": 9, "color": figures.TEXT}
  figure.text(0.1 / size[0], 0.1 / size[1], note, **style)
  left, top = margin / size[0], below / size[1]
  share = inches / (figure.get_figwidth(), figure.get_figheight())
  titles = (f"{dataset.info.name}, {config.data.train_split}", "augmented")
  for i, (grid, title) in enumerate(zip(grids, titles, strict=True)):
    axes = figure.add_axes((left + i * (share[0] + 0.02), top, *share))
    axes.imshow(grid, interpolation="nearest", aspect="auto")
    axes.set_title(shown(title), fontsize=10, color=figures.TEXT, loc="left")
    axes.set_xticks([])
    places = [height * (row + 0.5) for row in range(rows)]
    labels = names if i == 0 else [""] * rows
    axes.set_yticks(places, labels, **style)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
      spine.set_visible(False)
  return figures.png(figure)


def left_out(dataset: datasets.Dataset, columns: int) -> str:
  """Returns what `render` does not draw, such as "5 classes have no image"; or ""."""
  every = dataset.info.class_names
  present = np.unique(dataset.train.labels)
  known = set(present.tolist())
  parts = []
  if len(present) > MAX_ROWS:
    parts.append(f"the first {MAX_ROWS} of {len(present):,} classes are shown")
  if columns > MAX_COLUMNS:
    parts.append(f"{MAX_COLUMNS} instead of {columns:,} images of each class are shown")
  missing = [_shortened(name) for i, name in enumerate(every) if i not in known]
  if missing:
    some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    have = "class has" if len(missing) == 1 else "classes have"
    parts.append(f"{len(missing):,} {have} no image in this split: {some}")
  return "; ".join(parts)


def _shortened(name: str) -> str:
  name = shown(name)
  return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def side_by_side(
  config: config_lib.Config, dataset: datasets.Dataset, columns: int = 8
) -> np.ndarray:
  """Returns both grids of `make_grids` for update 0, uint8 [height, width, 3]."""
  _, plain, changed = make_grids(config, dataset, columns, step=0)
  between = np.full((len(plain), 8, 3), 255, np.uint8)
  return np.concatenate([plain, between, changed], axis=1)


def make_grids(
  config: config_lib.Config, dataset: datasets.Dataset, columns: int, step: int
) -> tuple[list[str], np.ndarray, np.ndarray]:
  """Returns the first images of each class, plain and as an update trains on them.

  Args:
    config: its augmentation and seed.
    dataset: the images.
    columns: images of each class.
    step: of the update.

  Returns:
    The names of the classes, a row each, and both grids, uint8 `[height, width, 3]`.
  """
  chosen, names = choose(dataset, columns)
  numbers = chosen.reshape(-1)
  images = dataset.train.images[numbers]
  shown = augmented(config, images, numbers, step)
  rows = len(names)
  return names, _tiled(images, rows, columns), _tiled(shown, rows, columns)


def choose(dataset: datasets.Dataset, columns: int) -> tuple[np.ndarray, list[str]]:
  """Returns the indices of each class's first images, [classes, columns], and its name.

  A class with fewer images repeats them; one without any is left out, and so is every
  class after the first `MAX_ROWS`.
  """
  rows, names = [], []
  for label, name in enumerate(dataset.info.class_names):
    numbers = np.flatnonzero(dataset.train.labels == label)[:columns]
    if len(numbers):
      rows.append(np.resize(numbers, columns))
      names.append(name)
    if len(rows) == MAX_ROWS:
      break
  return np.stack(rows), names


def augmented(
  config: config_lib.Config, images: np.ndarray, numbers: np.ndarray, step: int
) -> np.ndarray:
  """Returns the images as update `step` would train on them, uint8.

  Args:
    config: its augmentation and seed.
    images: uint8 `[number, height, width, 3]`.
    numbers: theirs in the training split.
    step: of the update.
  """

  @jax.jit
  def draw(images, step, numbers):
    keys = ops.example_keys(config.seed, step, numbers)
    view = augmentation.training_view(images, keys, config.augmentation)
    return jnp.uint8(jnp.round(jnp.clip(view, 0, 1) * 255))

  return np.asarray(draw(images, np.uint32(step), numbers))


def _tiled(images: np.ndarray, rows: int, columns: int) -> np.ndarray:
  height, width, channels = images.shape[1:]
  grid = images.reshape(rows, columns, height, width, channels)
  return grid.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
