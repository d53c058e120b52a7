"""Grad-CAM: draws which regions of a picture a network's prediction depends on.

Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks via
gradient-based localization".
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from cifar_flax import figures
from cifar_flax.data import pictures as images_lib
from cifar_flax.data.augmentation import pixels
from cifar_flax.figures import TEXT
from cifar_flax.tools import structure
from cifar_flax.tools.trained import Trained, likeliest, softmax

MAX_PICTURES = 24  # drawn by `predict --explain`


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
  layers = structure.layers(trained.config.model, len(trained.class_names))
  module, shape = next(
    (layer.name, layer.output)
    for layer in reversed(layers)
    if layer.kind != "max_pool" and len(layer.output) == 3 and layer.output[0] > 1
  )

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
      logits = trained.network.apply(trained.variables, pixels(images), train=False)
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)
    return chosen.sum().astype(jnp.float32), features[0]

  zeros = jnp.zeros((len(images), *shape), jnp.float32)
  gradient, features = jax.jit(jax.grad(score, has_aux=True))(zeros)
  weights = gradient.mean((1, 2), keepdims=True)
  return np.asarray(jax.nn.relu((weights * features).sum(-1)), np.float32)


def render(
  trained: Trained, pictures: Sequence[tuple[pathlib.Path, np.ndarray]], top: int
) -> bytes:
  """Draws each picture, its Grad-CAM map for the likeliest class, and the prediction.

  Args:
    trained: the network.
    pictures: the file and the pixels, uint8 `[32, 32, 3]`, of each.
    top: number of classes listed with their probabilities.

  Returns:
    A PNG.
  """
  images = np.stack([pixels for _, pixels in pictures])
  probabilities = softmax(trained.logits(images))
  found = maps(trained, images, probabilities.argmax(-1))
  figure = Figure(figsize=(6.4, 1.25 * len(pictures)), dpi=100)
  grid: Any = figure.subplots(len(pictures), 3, squeeze=False)
  figure.subplots_adjust(0.01, 0.01, 0.99, 0.99, wspace=0.02, hspace=0.06)
  for axes, (file, image), heat, probability in zip(
    grid, pictures, found, probabilities, strict=True
  ):
    for panel in axes:
      panel.axis("off")
    axes[0].imshow(image)
    axes[1].imshow(image)
    axes[1].imshow(_enlarged(heat), cmap="inferno", alpha=0.55, vmin=0)
    lines = [
      f"{name} {share:.1%}"
      for name, share in likeliest(probability, trained.class_names, top)
    ]
    axes[2].text(
      0,
      0.5,
      "\n".join([file.name[-40:], *lines]),
      va="center",
      fontsize=8,
      color=TEXT,
      transform=axes[2].transAxes,
    )
  return figures.png(figure)


def _enlarged(heat: np.ndarray) -> np.ndarray:
  """Returns a map resized to the size of the pictures."""
  side = (images_lib.SIDE, images_lib.SIDE)
  return np.asarray(Image.fromarray(heat).resize(side, Image.Resampling.BICUBIC))
