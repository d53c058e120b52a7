"""Prepares shapes10, a TFDS dataset that this project draws, so nothing is downloaded.

It has 12,000 images of 32x32 pixels in ten classes, and CIFAR-10's features and splits,
so that a run can use either. `shapes10_drawing` describes and draws the images.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from cifar_flax.data.sources import preparing, shapes10_drawing

NUM_TRAIN = 10_000
NUM_TEST = 2_000


class Shapes10(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Ten shapes in any colour, place, size and rotation over textured backgrounds."""

  name = "shapes10"
  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    return preparing.describe(self, shapes10_drawing.CLASS_NAMES)

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager  # nothing to download
    return {
      "train": self._generate_examples(0, "train", NUM_TRAIN),
      "test": self._generate_examples(1, "test", NUM_TEST),
    }

  def _generate_examples(self, key: int, split: str, num_examples: int) -> Iterator:
    for index in tqdm(range(num_examples), f"drawing {split}", disable=None):
      label = index % len(shapes10_drawing.CLASS_NAMES)
      image = shapes10_drawing.draw(label, key, index)
      yield (
        index,
        {
          "id": f"{split}_{index:05d}",
          "image": preparing.png(image),
          "label": label,
        },
      )


def prepare(folder: pathlib.Path, archive: str = "") -> None:
  """Draws the dataset into `folder`, `<data_dir>/<name>/<version>`.

  Raises:
    UserError: the folder cannot be written.
  """
  del archive  # shapes10 has none
  preparing.prepare(folder, lambda: Shapes10(data_dir=folder.parents[1]))
