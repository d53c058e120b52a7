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


@pytest.mark.parametrize("spec", ["train[:foo]", "tran", "validation", "train[:12]"])
def test_a_bad_split_is_refused_before_pictures_are_read(spec, root, tmp_path):
  with pytest.raises(UserError, match=r"train_split='.*' is not a TFDS split"):
    load(root, train_split=spec)
  assert not (tmp_path / "tfds").exists()


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


def notes(capsys):
  """Returns the notes that loading a folder has printed."""
  lines = capsys.readouterr().err.splitlines()
  assert all(line.startswith(("note: ", "Preparing ")) for line in lines), lines
  return [
    line.partition(": ")[2].partition(": ")[2] for line in lines if "note:" in line
  ]


def test_nested_pictures_of_all_formats_belong_to_the_class_of_the_top_folder(
  root, capsys
):
  for i, name in enumerate(("2021/a.webp", "2021/may/a.webp", "a.jfif", "2022/a.GIF")):
    draw(root / "train" / "ant" / name, 200 + i)
  draw(root / "train" / "cat" / "deep" / "only.bmp", 300)
  (root / "train" / "ant" / "x.heic").touch()
  (root / "train" / "cow").mkdir()
  (root / "train" / "cow" / "x.heic").touch()
  for name in ("ant/._00.png", ".hidden/a.png", "__MACOSX/a.png"):
    draw(root / "train" / name, 400)
  dataset = load(root)
  assert dataset.info.class_names == ("ant", "bee", "cat")
  assert np.bincount(dataset.train.labels).tolist() == [5 + 4, 6, 1]
  every = [
    "train: 16 pictures in 3 classes: ant 9, bee 6, cat 1",
    "test: 2 pictures in 2 classes: ant 1, bee 1",
  ]
  passed_over = [
    "test/ has no picture of cat",
    "train/ant: 9 pictures; passed over 1 .heic, 1 .txt",
    "train/cow: no picture, so no class; passed over 1 .heic",
    "train/empty: no picture, so no class; empty",
  ]
  found = notes(capsys)
  assert found[:2] == every and sorted(found[2:]) == passed_over
  load(root)  # which is prepared already
  assert sorted(notes(capsys)) == passed_over


def test_class_names_are_compared_normalised(root, tmp_path):
  composed, decomposed = "caf\u00e9", "cafe\u0301"
  assert composed != decomposed
  for seed, folder in enumerate((f"train/{composed}", f"test/{decomposed}")):
    draw(root / folder / "a.png", 10 + seed)
  draw(root / "train" / decomposed / "a.png", 12)
  dataset = load(root)
  assert dataset.info.class_names == ("ant", "bee", composed)
  assert np.bincount(dataset.train.labels).tolist() == [5, 6, 2]
  assert np.bincount(dataset.eval.labels).tolist() == [1, 1, 1]


def test_ids_do_not_depend_on_the_form_of_names(tmp_path):
  prints = []
  for number, form in enumerate(("caf\u00e9", "cafe\u0301")):
    for name in (form, "ant"):
      draw(tmp_path / str(number) / name / f"{form}.png", 5)
    content = tmp_path / str(number)
    prints.append(load(content, eval_split="train").info.fingerprint)
  assert prints[0] == prints[1]


def test_files_of_any_name_can_be_stored(tmp_path):
  names = ["$x_1$.png", "a|<b>.png", "new\nline\t.png", os.fsdecode(b"latin\xe9.png")]
  names += ["at 10.00\u202fAM.png", "back\\slash.png", "-dash.png", "n\\newline.png"]
  for seed, name in enumerate(names):
    for label in ("$ant$", "b\te|e"):
      draw(tmp_path / "in" / label / name, seed)
  dataset = load(tmp_path / "in", eval_split="train")
  assert dataset.info.class_names == ("$ant$", "b\te|e")
  assert len(dataset.train.labels) == 2 * len(names)


@pytest.mark.parametrize(
  ("train", "other", "note"),
  [
    ("Train", "TEST", None),
    ("training", "Testing", None),
    ("train", "val", "there is no test/, so val/ is the split 'test'"),
    ("TRAIN", "valid", "there is no test/, so valid/ is the split 'test'"),
    ("train", "Validation", "there is no test/, so Validation/ is the split 'test'"),
  ],
)
def test_other_names_of_splits(root, train, other, note, capsys):
  (root / "train").rename(root / "x")
  (root / "x").rename(root / train)
  (root / "test").rename(root / "y")
  (root / "y").rename(root / other)
  dataset = load(root)
  assert len(dataset.train.labels) == 11 and len(dataset.eval.labels) == 2
  found = notes(capsys)
  assert (note in found) if note else not any("is the split" in line for line in found)


def test_validation_beside_test_is_a_split_of_its_own(root, capsys):
  draw(root / "val" / "ant" / "a.png", 1)
  draw(root / "val" / "bee" / "a.png", 1)
  draw(root / "val" / "bee" / "b.png", 1)
  draw(root / "unlabelled" / "a.png", 1)
  assert len(load(root).eval.labels) == 2
  assert [line for line in notes(capsys) if "empty" not in line][3:] == [
    "train/ant: 5 pictures; passed over 1 .txt",
    "unlabelled/ is no split and is not used: 1 picture",
    "val/ is the split 'validation', which data.eval_split=validation evaluates",
  ]
  assert len(load(root, eval_split="validation").eval.labels) == 3


def test_splits_that_cannot_be_told_are_refused(root, tmp_path):
  draw(root / "val" / "ant" / "a.png", 1)
  draw(root / "valid" / "ant" / "a.png", 1)
  with pytest.raises(UserError, match="has both val/ and valid/; keep one"):
    load(root)
  shutil.rmtree(root / "val")
  shutil.rmtree(root / "train")
  with pytest.raises(UserError, match="it has test/ and valid/, but no train/"):
    load(root)
  shutil.rmtree(root)
  for name in ("train/Ant", "train/bee", "test/ant"):
    draw(root / name / "a.png", 1)
  with pytest.raises(
    UserError, match="has the class 'ant'.*train has 'Ant', so rename"
  ):
    load(root)


def test_a_class_called_like_a_split_may_have_folders(tmp_path):
  vehicles = tmp_path / "vehicles"
  for name in ("car/a.png", "plane/2020/a.png", "train/a.png", "train/2021/b.png"):
    draw(vehicles / name, 1)
  dataset = load(vehicles, eval_split="train")
  assert dataset.info.class_names == ("car", "plane", "train")
  assert np.bincount(dataset.train.labels).tolist() == [1, 1, 2]


def test_all_damaged_pictures_are_named_up_to_a_limit(root):
  for split in ("train", "test"):
    for i in range(12):
      (root / split / "ant" / f"bad{i:02}.png").write_bytes(b"no picture")
  with pytest.raises(UserError, match="24 of 37 pictures cannot be read") as error:
    load(root)
  assert str(error.value).count("not a picture") == 20
  assert str(error.value).endswith("; and 4 more")
  assert not list((root.parent / "tfds").glob("folder_*/*/*"))
