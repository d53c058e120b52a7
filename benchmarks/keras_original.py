"""Trains a published network in Keras, on the images that our runs are trained on.

python -m benchmarks.keras_original net6b --epochs 10

Where our run differs from the published curve, this says whether the images are the
cause or our code: network, augmentation, optimizer and schedule are Keras' own, as the
published notebooks used them. Prints a row per epoch, and the same epoch of the
published run and of ours in `results/` below it. `TFDS_DATA_DIR` names the folder of
the images.
"""

import argparse
import json
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from benchmarks import networks
from benchmarks.peers import BATCH, ROOT
from benchmarks.peers.keras import build
from cifar_flax import config as config_lib
from cifar_flax import published
from cifar_flax.data import datasets

FIGURES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


def make_generator(config: config_lib.Config):
  """Returns Keras' augmentation of a published config."""
  zoom, flip = config.augmentation.zoom, config.augmentation.flip
  return tf.keras.preprocessing.image.ImageDataGenerator(
    rescale=1 / 255, zoom_range=zoom, horizontal_flip=flip, fill_mode="nearest"
  )


def make_schedule(config: config_lib.Config) -> keras.callbacks.LearningRateScheduler:
  """Returns the published callback, which reads the rate and sets it anew."""
  schedule = config.schedule

  def rate(epoch: int, current: float) -> float:
    falls = schedule.name == "staircase" and epoch % schedule.epochs_per_decay == 0
    if epoch and falls:
      current = max(schedule.decay_rate * current, schedule.minimum)
    return round(current, 10)

  return keras.callbacks.LearningRateScheduler(rate)


class Printer(keras.callbacks.Callback):
  """Prints each epoch of Keras beside the same epoch of other runs."""

  def __init__(self, others: Mapping[str, Mapping[int, Mapping[str, float]]]):
    """Prepares the table; `others` has a row of figures for each run and epoch."""
    super().__init__()
    self.others = others
    print(
      "| epoch | run |", " | ".join(name.replace("_", " ") for name in FIGURES), "|"
    )
    print("|---" * (2 + len(FIGURES)) + "|", flush=True)

  def on_epoch_end(self, epoch, logs=None):
    """Prints a row for each run."""
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    keras_row = dict(zip(FIGURES, (logs[name] for name in names), strict=True))
    rows = {"keras": {epoch + 1: keras_row}, **self.others}
    for run, of_epoch in rows.items():
      if row := of_epoch.get(epoch + 1):
        cells = " | ".join(f"{row[name]:.4f}" for name in FIGURES)
        print(f"| {epoch + 1} | {run} | {cells} |", flush=True)


def other_runs(net: str) -> dict[str, dict[int, dict[str, float]]]:
  """Returns the epochs of our run in `results/`, if there is one, and the published."""
  runs = {"published": published.curves(net) or []}
  file = ROOT / "results" / net / "metrics.jsonl"
  if file.exists():
    lines = file.read_text().replace("eval_", "test_").splitlines()
    runs["ours"] = [json.loads(line) for line in lines]
  return {name: {int(row["epoch"]): row for row in rows} for name, rows in runs.items()}


def main() -> None:
  """Trains and prints."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.keras_original",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("net", choices=list(networks.LAYERS))
  parser.add_argument("--epochs", type=int, default=10, help="(%(default)s)")
  parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
  flags = parser.parse_args()
  config = config_lib.load(str(ROOT / "configs" / f"{flags.net}.py"))
  data = datasets.load(config.data)
  keras.utils.set_random_seed(flags.seed)
  model = build(networks.LAYERS[flags.net](config.model), (32, 32, 3))
  optimizer = config.optimizer
  model.compile(
    keras.optimizers.Adam(
      config.schedule.learning_rate, optimizer.b1, optimizer.b2, optimizer.epsilon
    ),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
  )
  train, test = data.train, data.eval
  model.fit(
    make_generator(config).flow(train.images, train.labels, BATCH),
    epochs=flags.epochs,
    validation_data=(test.images / np.float32(255), test.labels),
    callbacks=[make_schedule(config), Printer(other_runs(flags.net))],
    verbose=0,
  )


if __name__ == "__main__":
  main()
