"""Tests folders of pictures as datasets: pixels, splits and errors."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image
from stand_ins import make_config

from cifar_flax import config as config_lib
from cifar_flax.data import datasets, pictures
from cifar_flax.errors import UserError


def draw(path, seed, size=(32, 32)):
  pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)
  return pixels


@pytest.fixture
def root(tmp_path):
  """Two classes, with 11 training pictures of several sizes and two to test."""
  root = tmp_path / "my pictures"
  for i in range(11):
    name = ("bee", "ant")[i % 2]
    draw(root / "train" / name / f"{i:02d}.png", i, (32 + i, 40))
  draw(root / "test" / "bee" / "a.png", 100)
  draw(root / "test" / "ant" / "b.PNG", 101)
  (root / "train" / "notes.txt").write_text("not a class")
  (root / "train" / "ant" / "notes.txt").write_text("not a picture")
  (root / "train" / "empty").mkdir()
  return root


def load(root, **values):
  return datasets.load(make_config(dataset=f"folder:{root}", **values))


def test_classes_are_folders_and_pixels_are_those_of_predict(root):
  dataset = load(root)
  assert dataset.info.class_names == ("ant", "bee")
  assert sorted(dataset.train.labels) == [0] * 5 + [1] * 6
  files = sorted((root / "train").glob("*/*.png"))  # in the order of the ids
  expected = np.stack([pictures.read(file) for file in files])
  np.testing.assert_array_equal(dataset.train.images, expected)
  np.testing.assert_array_equal(dataset.eval.labels, [0, 1])
  np.testing.assert_array_equal(
    dataset.eval.images[1], np.asarray(Image.open(root / "test" / "bee" / "a.png"))
  )


def test_one_folder_is_divided_by_split_strings(root):
  with pytest.raises(UserError, match=r"eval_split='test' is not a TFDS split"):
    load(root / "train")
  dataset = load(root / "train", train_split="train[:7]", eval_split="train[7:]")
  assert len(dataset.train.labels) == 7 and len(dataset.eval.labels) == 4
  both = np.concatenate([dataset.train.images, dataset.eval.images])
  assert len({image.tobytes() for image in both}) == 11


def test_a_changed_folder_is_prepared_anew(root, tmp_path):
  first = load(root).info.fingerprint
  assert load(root).info.fingerprint == first
  assert len(list((tmp_path / "tfds").glob("folder_*"))) == 1
  draw(root / "train" / "ant" / "99.png", 5)
  second = load(root).info.fingerprint
  (root / "train" / "ant" / "99.png").unlink()
  assert load(root).info.fingerprint == first != second


def test_a_picture_rewritten_with_equally_many_bytes_is_prepared_anew(root):
  path = root / "train" / "ant" / "01.png"  # the first by id
  sizes = []
  for value in (3, 4):
    pixels = np.full((32, 32, 3), value, np.uint8)
    Image.fromarray(pixels).save(path, compress_level=0)
    sizes.append(path.stat().st_size)
    np.testing.assert_array_equal(load(root).train.images[0], pixels)
  assert sizes[0] == sizes[1]


def test_folders_without_classes_are_refused(root, tmp_path):
  with pytest.raises(UserError, match="No such file"):
    load(tmp_path / "absent")
  with pytest.raises(UserError, match="has 0 classes.*a subfolder of PNGs"):
    load(root / "train" / "ant")
  draw(root / "test" / "cow" / "a.png", 3)
  with pytest.raises(UserError, match="test has the class 'cow', but train does not"):
    load(root)
  os.remove(root / "test" / "cow" / "a.png")
  (root / "train" / "bee" / "bad.png").write_bytes(b"no picture")
  with pytest.raises(UserError, match="1 of 14 pictures .*bad.png: not a picture"):
    load(root)
  (root / "train" / "bee" / "bad.png").unlink()
  assert len(load(root).train.labels) == 11


def test_misleading_names_and_folders(root, tmp_path):
  shutil.rmtree(root / "test")
  (root / "test").mkdir()  # a folder without pictures is not a split
  dataset = load(root, eval_split="train[:2]")
  assert len(dataset.train.labels) == 11
  vehicles = tmp_path / "vehicles"  # here "train" is a class
  for i, name in enumerate(("car", "plane", "train")):
    draw(vehicles / name / "a.png", i)
  dataset = load(vehicles, eval_split="train")
  assert dataset.info.class_names == ("car", "plane", "train")
  for name in (" car", "c\nar", os.fsdecode(b"c\xff")):
    draw(vehicles / name / "a.png", 9)
    with pytest.raises(UserError, match="TFDS cannot store the name") as error:
      load(vehicles, eval_split="train")
    assert str(error.value).isprintable()
    shutil.rmtree(vehicles / name)


def test_a_config_may_name_a_folder():
  values = {"data.dataset": "folder:/some/where"}
  config = config_lib.override(config_lib.Config(), values)
  assert config.data.dataset == "folder:/some/where"
  with pytest.raises(UserError, match=r"shapes10, folder:PATH"):
    config_lib.override(config_lib.Config(), {"data.dataset": "folders:/x"})
  with pytest.raises(UserError, match="data.dataset='folder:'"):
    config_lib.override(config_lib.Config(), {"data.dataset": "folder:"})
