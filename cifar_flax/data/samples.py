"""Draws images of a data set, one row per class, plain and augmented."""

import jax
import jax.numpy as jnp
import numpy as np

from cifar_flax import config as config_lib
from cifar_flax import ops
from cifar_flax.data import augmentation, datasets

ENLARGED = 2  # pixels of the picture for one of an image


def render(
  config: config_lib.Config, dataset: datasets.Dataset, columns: int, step: int
) -> bytes:
  """Draws the first images of each class in the training split.

  Args:
    config: its augmentation and seed.
    dataset: the images.
    columns: images of each class.
    step: the update whose augmentation is shown.

  Returns:
    A PNG.
  """
  from matplotlib.figure import Figure  # Matplotlib takes a second to import

  from cifar_flax import figures

  names, *grids = make_grids(config, dataset, columns, step)
  rows = len(names)
  height, width = grids[0].shape[0] // rows, grids[0].shape[1] // columns
  inches = np.array([columns * width, rows * height]) * ENLARGED / 100
  figure = Figure(figsize=(2 * inches[0] + 1.5, inches[1] + 0.7), dpi=100)
  left, top = 1.1 / figure.get_figwidth(), 0.1 / figure.get_figheight()
  share = inches / (figure.get_figwidth(), figure.get_figheight())
  titles = (f"{dataset.info.name}, {config.data.train_split or 'train'}", "augmented")
  for i, (grid, title) in enumerate(zip(grids, titles, strict=True)):
    axes = figure.add_axes((left + i * (share[0] + 0.02), top, *share))
    axes.imshow(grid, interpolation="nearest", aspect="auto")
    axes.set_title(title, fontsize=10, color=figures.TEXT, loc="left")
    axes.set_xticks([])
    places = [height * (row + 0.5) for row in range(rows)]
    axes.set_yticks(
      places, names if i == 0 else [""] * rows, fontsize=9, color=figures.TEXT
    )
    axes.tick_params(length=0)
    for spine in axes.spines.values():
      spine.set_visible(False)
  return figures.png(figure)


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

  A class with fewer images repeats them; one without any is left out.
  """
  rows, names = [], []
  for label, name in enumerate(dataset.info.class_names):
    numbers = np.flatnonzero(dataset.train.labels == label)[:columns]
    if len(numbers):
      rows.append(np.resize(numbers, columns))
      names.append(name)
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
