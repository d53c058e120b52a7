"""Counts of images that are both trained on and evaluated, or named more than once."""

import numpy as np
import pytest
from PIL import Image
from stand_ins import make_config

from cifar_flax.data import datasets


@pytest.mark.parametrize(
  ("train", "evaluation", "common", "repeated"),
  [
    ("train", "test", 0, 0),
    ("train[:45]", "train[45:]", 0, 0),
    ("train[:10]", "train[5:20]", 5, 0),
    ("test[:16]", "test[:4]", 4, 0),
    ("train+test[:3]", "test", 3, 0),
    ("train[:10]+train[5:15]", "test", 0, 5),
    ("train", "test[:4]+test[:4]", 0, 4),
  ],
)
@pytest.mark.parametrize("cached", [False, True])
def test_splits_that_overlap_are_counted(
  train, evaluation, common, repeated, cached, prepared_once
):
  config = make_config(
    data_dir=str(prepared_once), train_split=train, eval_split=evaluation
  )
  if cached:
    datasets.load(config)
  dataset = datasets.load(config)
  assert (dataset.common, dataset.repeated) == (common, repeated)


def test_the_same_picture_in_two_splits_of_a_folder_is_common(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (6, 40, 30, 3), np.uint8)
  for split, numbers in (("train", (0, 1, 2, 3)), ("test", (2, 3, 4))):
    for name in ("cat", "dog"):
      (tmp_path / "pets" / split / name).mkdir(parents=True)
    for number in numbers:
      name = ("cat", "dog")[number % 2]
      file = tmp_path / "pets" / split / name / f"{split}{number}.png"
      Image.fromarray(pixels[number]).save(file)
  dataset = datasets.load(make_config(dataset=f"folder:{tmp_path / 'pets'}"))
  assert len(dataset.eval.labels) == 3
  assert (dataset.common, dataset.repeated) == (2, 0)
