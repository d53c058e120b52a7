"""Grad-CAM: draws which regions of a picture a network's prediction depends on.

Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks via
gradient-based localization".
"""

import functools
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from cifar_flax import figures, ops
from cifar_flax.data import pictures as images_lib
from cifar_flax.data.augmentation import pixels
from cifar_flax.figures import FAINT, TEXT
from cifar_flax.text import shown
from cifar_flax.tools import structure
from cifar_flax.tools.trained import Trained, likeliest, softmax

MAX_PICTURES = 24  # drawn by `predict --explain`
# A map shows no region if its values differ by less than this share of the largest.
# Of 40 maps each, untrained networks had 0.4, and one of 62% accuracy 0.96 to 1.
FLAT = 0.5
_NO_REGION = "no region stands out"
# Inches of a picture, of the text beside it, and between them.
_SIDE, _WORDS, _GAP = 1.3, 1.75, 0.08
_HEAD, _FOOT = 0.55, 0.5
_COLUMNS = 3
_CHARACTERS = 27  # in a line of text
LINES = 5  # classes listed beside a picture


def maps(trained: Trained, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Returns the Grad-CAM map of a class for each image.

  The feature map is the output of the last layer that has more than one pixel. Its
  channels are summed, each weighted by the mean gradient of the class's logit over the
  pixels, and negative sums are set to 0.

  Args:
    trained: the network.
    images: uint8 `[number, 32, 32, 3]`.
    labels: the class to explain for each image.

  Returns:
    float32 `[number, height, width]`, at least 0; the size of the feature map.
  """
  module, shape = _feature_map(trained)
  model = trained.config.model
  options = dict(ops.select(model.ops, model.dtype).compiler_options)
  # Variables and images are arguments: XLA would fold constants for seconds.
  compiled = jax.jit(
    functools.partial(_maps, trained.network, module, shape), compiler_options=options
  )
  found = []
  for first in range(0, len(images), MAX_PICTURES):
    batch = images[first : first + MAX_PICTURES]
    missing = MAX_PICTURES - len(batch)  # padded, so that only one shape is compiled
    padded = np.pad(batch, [(0, missing), *[(0, 0)] * 3])
    chosen = np.pad(np.int32(labels[first : first + MAX_PICTURES]), (0, missing))
    heat = compiled(trained.variables, padded, chosen)
    found.append(np.asarray(heat)[: len(batch)])
  return np.concatenate(found)


def _feature_map(trained: Trained) -> tuple[str, tuple[int, ...]]:
  """Returns the name and the output shape of the last layer with several pixels."""
  layers = structure.layers(trained.config.model, len(trained.class_names))
  return next(
    (layer.name, layer.output)
    for layer in reversed(layers)
    if layer.kind != "max_pool" and len(layer.output) == 3 and layer.output[0] > 1
  )


def _maps(
  network: Any, module: str, shape: tuple[int, ...], variables: Any, images, labels
) -> jax.Array:
  # `added` is zero; the gradient with respect to it is that of the feature map.
  def score(added):
    features = []

    def intercept(call, args, kwargs, context):
      y = call(*args, **kwargs)
      is_target = "/".join(context.module.path) == module
      if is_target and context.method_name == "__call__" and not features:
        y = y + added.astype(y.dtype)
        features.append(y)
      return y

    with nn.intercept_methods(intercept):
      logits = network.apply(variables, pixels(images), train=False)
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)
    return chosen.sum().astype(jnp.float32), features[0]

  zeros = jnp.zeros((len(images), *shape), jnp.float32)
  gradient, features = jax.grad(score, has_aux=True)(zeros)
  weights = gradient.mean((1, 2), keepdims=True)
  return jax.nn.relu((weights * features).sum(-1)).astype(jnp.float32)


def is_flat(heat: np.ndarray) -> bool:
  """Returns whether a map is so even, as those of untrained networks, or empty."""
  largest = heat.max()
  return not largest - heat.min() > FLAT * largest


def render(
  trained: Trained,
  pictures: Sequence[tuple[pathlib.Path, np.ndarray]],
  top: int,
  total: int | None = None,
) -> bytes:
  """Draws each picture, its Grad-CAM map for the likeliest class, and the prediction.

  Args:
    trained: the network.
    pictures: the file and the pixels, uint8 `[32, 32, 3]`, of each.
    top: number of classes listed with their probabilities.
    total: number of pictures of which these are the first; None if there are no others.

  Returns:
    A PNG.
  """
  images = np.stack([pixels for _, pixels in pictures])
  probabilities = softmax(trained.logits(images))
  found = maps(trained, images, probabilities.argmax(-1))
  columns = min(_COLUMNS, len(pictures))
  rows = -(-len(pictures) // columns)
  card = 2 * _SIDE + _WORDS + 2 * _GAP
  bottom = _HEAD + rows * (_SIDE + _GAP)
  sheet = _Sheet(max(columns * card + _GAP, 5.2), bottom + _FOOT)
  shares = f"{len(pictures)} of {total:,} pictures. " if total else ""
  shares = shares if total and total > len(pictures) else ""
  title = f"{shares}Grad-CAM: what the likeliest class depends on"
  sheet.words(_GAP, 0.17, title, fontsize=9.5)
  for column in range(columns):
    for place, text in enumerate(("picture", "Grad-CAM", "prediction")):
      left = _GAP + column * card + place * (_SIDE + _GAP)
      sheet.words(left, 0.43, text, color=FAINT)
  for index, ((file, image), heat, probability) in enumerate(
    zip(pictures, found, probabilities, strict=True)
  ):
    left = _GAP + index % columns * card
    top_edge = _HEAD + index // columns * (_SIDE + _GAP)
    plain, explained = (
      sheet.axes(left + place * (_SIDE + _GAP), top_edge, _SIDE, _SIDE)
      for place in range(2)
    )
    plain.axis("off")
    plain.imshow(image)
    _draw_map(explained, image, heat)
    best = likeliest(probability, trained.class_names, top)
    words = "\n".join(_lines(file, best))
    sheet.words(left + 2 * (_SIDE + _GAP), top_edge + _SIDE / 2, words)
  _draw_scale(sheet.axes(_GAP, bottom + 0.1, 2 * _SIDE + _GAP, 0.12))
  sheet.words(2 * _SIDE + 3 * _GAP, bottom + 0.16, f"grey: {_NO_REGION}")
  return figures.png(sheet.figure)


class _Sheet:
  """A figure on which things are placed in inches from the left and the top."""

  def __init__(self, width: float, height: float):
    self.figure = Figure(figsize=(width, height), dpi=100)
    self._size = width, height

  def axes(self, left: float, top: float, width: float, height: float) -> Any:
    """Adds axes."""
    whole, high = self._size
    place = (left / whole, 1 - (top + height) / high, width / whole, height / high)
    return self.figure.add_axes(place)

  def words(self, left: float, middle: float, text: str, **style: Any) -> None:
    """Writes a text."""
    usual: dict[str, Any] = {"fontsize": 8, "color": TEXT, "va": "center"}
    width, height = self._size
    place = (left / width, 1 - middle / height)
    self.figure.text(*place, text, **usual | style)


def _lines(file: pathlib.Path, best: Sequence[tuple[str, float]]) -> list[str]:
  """Returns what is written beside a picture: its name and its likeliest classes."""
  name = shown(file)
  limit = 2 * _CHARACTERS
  lines = textwrap.wrap(
    name if len(name) <= limit else f"…{name[1 - limit :]}", _CHARACTERS
  )
  for each, share in best[:LINES]:
    label = shown(each)
    label = label if len(label) <= 18 else f"{label[:17]}…"
    lines.append(f"{label} {share:.1%}")
  more = len(best) - LINES
  return [*lines, f"and {more} more"] if more > 0 else lines


def _draw_map(axes: Any, image: np.ndarray, heat: np.ndarray) -> None:
  axes.axis("off")
  grey = image.mean(-1)
  axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
  if is_flat(heat):
    axes.text(
      0.5,
      0.5,
      _NO_REGION.replace(" region ", " region\n"),
      ha="center",
      va="center",
      fontsize=8,
      color=TEXT,
      bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
      transform=axes.transAxes,
    )
  else:
    axes.imshow(_enlarged(heat / heat.max()), cmap="inferno", alpha=0.6, vmin=0, vmax=1)


def _draw_scale(axes: Any) -> None:
  """Draws the colours of the maps, from 0 to the largest value of each."""
  axes.imshow(np.linspace(0, 1, 256)[None], cmap="inferno", aspect="auto")
  axes.set_yticks([])
  axes.set_xticks([0, 255], ["0", "most in this picture"], fontsize=8, color=TEXT)
  axes.tick_params(length=0, pad=2)
  for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
    label.set_horizontalalignment(side)
  for spine in axes.spines.values():
    spine.set_visible(False)


def _enlarged(heat: np.ndarray) -> np.ndarray:
  """Returns a map resized to the size of the pictures."""
  side = (images_lib.SIDE, images_lib.SIDE)
  return np.asarray(Image.fromarray(heat).resize(side, Image.Resampling.BICUBIC))
