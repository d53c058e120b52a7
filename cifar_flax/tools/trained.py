"""Loads a trained network from its run directory."""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cifar_flax import command_line, models, ops
from cifar_flax import config as config_lib
from cifar_flax.data import arrays
from cifar_flax.data.augmentation import pixels
from cifar_flax.data.records import IMAGE_SHAPE
from cifar_flax.errors import UserError
from cifar_flax.run import accelerators, checkpoints, directory, evaluation

BATCH = 64  # images classified at once


class Trained:
  """The network of a run with the weights that the run's evaluation uses.

  Attributes:
    config: the run's config.
    class_names: the name of each label, in order.
    epoch: number of finished epochs.
    history: a row for each of them, as in `metrics.jsonl`.
    fingerprint: of the data that it was trained on.
    accuracy: on the run's evaluation split, as the run measured it with these weights;
      None if it did not.
    parts: `provenance.current` of each process that trained a part of the run.
    choice: how its checkpoint was chosen, as `evaluation.choice` returns it.
    network: the module; apply it to images in [0, 1] with `train=False`.
    variables: its variables; their moving averages if the run keeps them.
  """

  def __init__(self, workdir: str | os.PathLike[str], which: str = "best"):
    """Loads the `best` or the `last` checkpoint of a run directory.

    Raises:
      UserError: there is no run in the directory, or its checkpoint is damaged.
    """
    workdir = pathlib.Path(workdir)
    if which not in command_line.CHECKPOINTS:
      raise UserError(f"checkpoint {which!r}: must be best or last")
    if not (workdir / "config.json").is_file():
      raise UserError(f"--workdir={str(workdir)!r}: no run here (no config.json)")
    which = checkpoints.chosen(workdir / "checkpoints", which)
    content = checkpoints.restore(workdir / "checkpoints", which)
    accelerators.check()
    run, config, record = directory.run_of(content)
    self.class_names = tuple(run["class_names"])
    self.history: list[dict[str, Any]] = record.history
    self.epoch = len(self.history)
    self.fingerprint: str = run["fingerprint"]
    self.parts = record.parts
    try:
      state = content["state"]
      last = self.history[-1] if self.history else {"step": 0, "eval_accuracy": None}
      # A checkpoint within an epoch has later weights than those that were evaluated.
      measured = last["step"] == state["step"]
      self.accuracy: float | None = last["eval_accuracy"] if measured else None
      variables = state["ema"] or {
        name: state[name] for name in ("params", "batch_stats")
      }
    except (KeyError, TypeError) as error:
      raise directory.another_version(error) from None
    self.config = config_lib.validate(config)
    self.choice = evaluation.read_choice(workdir, which, config.data.eval_split)
    models.set_precision(self.config.model.dtype)
    self.network = models.create(config.model, len(self.class_names))
    self.variables: Any = self._checked(variables)

  def _checked(self, variables: Any) -> Any:
    """Returns the variables; raises UserError if they do not fit the network."""
    images = jnp.zeros((1, *IMAGE_SHAPE))
    initialise = functools.partial(self.network.init, train=False)
    wanted = jax.eval_shape(initialise, jax.random.key(0), images)
    wanted = {"params": {}, "batch_stats": {}} | wanted
    return directory.restored(wanted, variables)

  @functools.cached_property
  def _apply(self):
    model = self.config.model
    options = dict(ops.select(model.ops, model.dtype).compiler_options)

    def apply(variables, images):
      x = pixels(images) if images.dtype == jnp.uint8 else images
      logits = self.network.apply(variables, x, train=False)
      return logits.astype(jnp.float32)

    return jax.jit(apply, compiler_options=options)

  @property
  def params(self) -> Any:
    """The network's parameters, a tree of arrays."""
    return self.variables["params"]

  def predict(self, images: Any) -> np.ndarray:
    """Returns the probability of each class; `class_names` has their names.

    Arguments and shape as for `logits`.

    Returns:
      float64 `[classes]` for one image, else `[number, classes]`.
    """
    return softmax(self.logits(images))

  def logits(self, images: Any) -> np.ndarray:
    """Returns the logits of images, as the trainer's evaluation computes them.

    Args:
      images: one image `[height, width, 3]` or several `[number, height, width, 3]`,
        uint8, or floats in [0, 1]. Those that are not 32x32 are cropped and resized.

    Returns:
      float32 `[classes]` for one image, else `[number, classes]`.

    Raises:
      UserError: type, shape or values are others.
    """
    images, is_one = arrays.to_batch(images)
    results = [np.zeros((0, len(self.class_names)), np.float32)]
    for first in range(0, len(images), BATCH):
      batch = images[first : first + BATCH]
      missing = BATCH - len(batch)  # padded, so that only one shape is compiled
      padded = np.pad(batch, [(0, missing), *[(0, 0)] * 3])
      results.append(np.asarray(self._apply(self.variables, padded))[: len(batch)])
    logits = np.concatenate(results)
    return logits[0] if is_one else logits


def softmax(logits: np.ndarray) -> np.ndarray:
  """Returns the softmax over the last axis, in float64."""
  powers = np.exp(np.float64(logits) - logits.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def likeliest(
  probabilities: Sequence[float], names: Sequence[str], number: int
) -> list[tuple[str, float]]:
  """Returns the likeliest classes and their probabilities, likeliest first."""
  order = sorted(range(len(names)), key=lambda label: -probabilities[label])
  return [(names[label], float(probabilities[label])) for label in order[:number]]
