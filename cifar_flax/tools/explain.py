"""Where in a picture a network saw what it answers: Grad-CAM.

Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks via
gradient-based localization".
"""

import io
import pathlib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from cifar_flax.data import pictures as images_lib
from cifar_flax.tools import structure
from cifar_flax.tools.trained import Trained, likeliest, pixels, probabilities

MOST = 24  # pictures drawn
TEXT = "#333333"


def maps(trained: Trained, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """How much each place of the last feature map speaks for a class.

  The map is the output of the network's last layer with several pixels; its channels
  are added up, weighted by the mean gradient of the class's logit, and what speaks
  against the class is cut off.

  Args:
    trained: the network.
    images: uint8 `[number, 32, 32, 3]`.
    labels: class of each.

  Returns:
    float32 `[number, height, width]`, at least 0.
  """
  layers = structure.layers(trained.config.model, len(trained.class_names))
  module, shape = next(
    (layer.name, layer.output)
    for layer in reversed(layers)
    if layer.kind != "max_pool" and len(layer.output) == 3 and layer.output[0] > 1
  )

  def score(added):
    features = []

    def intercept(call, args, kwargs, context):
      y = call(*args, **kwargs)
      here = "/".join(context.module.path) == module
      if here and context.method_name == "__call__" and not features:
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
  """A PNG: each picture, what speaks for the likeliest class, and the answer."""
  images = np.stack([pixels for _, pixels in pictures])
  chances = probabilities(trained.logits(images))
  found = maps(trained, images, chances.argmax(-1))
  figure = Figure(figsize=(6.4, 1.25 * len(pictures)), dpi=100)
  canvas = FigureCanvasAgg(figure)
  grid: Any = figure.subplots(len(pictures), 3, squeeze=False)
  figure.subplots_adjust(0.01, 0.01, 0.99, 0.99, wspace=0.02, hspace=0.06)
  for axes, (file, image), heat, chance in zip(
    grid, pictures, found, chances, strict=True
  ):
    for panel in axes:
      panel.axis("off")
    axes[0].imshow(image)
    axes[1].imshow(image)
    axes[1].imshow(_enlarged(heat), cmap="inferno", alpha=0.55, vmin=0)
    lines = [
      f"{name} {share:.1%}"
      for name, share in likeliest(chance, trained.class_names, top)
    ]
    axes[2].text(0, 0.5, "\n".join([file.name[-40:], *lines]), va="center",
                 fontsize=8, color=TEXT, transform=axes[2].transAxes)  # fmt: skip
  picture = io.BytesIO()
  canvas.print_png(picture)
  return picture.getvalue()


def _enlarged(heat: np.ndarray) -> np.ndarray:
  side = (images_lib.SIDE, images_lib.SIDE)
  return np.asarray(Image.fromarray(heat).resize(side, Image.Resampling.BICUBIC))
