"""Tests svhn_cropped on small files, with TFDS's own builder as the reference."""

import hashlib
import shutil
import sys

import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from stand_ins import make_config

from cifar_flax.data import datasets
from cifar_flax.data.sources import download, preparing, svhn
from cifar_flax.errors import UserError

SIZES = {"train": 12, "test": 8, "extra": 5}


@pytest.fixture
def files(tmp_path, monkeypatch):
  """Three files with random digits, registered as the official ones."""
  rng = np.random.default_rng(0)
  folder = tmp_path / "files"
  folder.mkdir()
  content = {}
  for split, number in SIZES.items():
    images = rng.integers(0, 256, (32, 32, 3, number), np.uint8)
    labels = (np.arange(number) % 10 + 1).astype(np.uint8).reshape(-1, 1)
    path = folder / f"{split}_32x32.mat"
    scipy.io.savemat(path, {"X": images, "y": labels})
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(svhn.PUBLISHED, path.name, (path.stat().st_size, checksum))
    content[split] = np.moveaxis(images, -1, 0), labels[:, 0]
  return folder, content


def svhn_config(**values):
  return make_config(dataset="svhn_cropped", **values)


def test_loaded_images_are_those_of_the_files(files):
  folder, content = files
  dataset = datasets.load(svhn_config(archive=str(folder)))
  np.testing.assert_array_equal(dataset.train.images, content["train"][0])
  np.testing.assert_array_equal(dataset.eval.images, content["test"][0])
  # The files label the digit 0 as 10.
  assert dataset.train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
  assert dataset.info.class_names == tuple("0123456789")
  total = sum(size for size, _ in svhn.PUBLISHED.values())
  assert dataset.info.download_size == total


def test_extra_is_decoded_only_if_a_split_string_names_it(files, monkeypatch, caplog):
  folder, content = files
  read, decoded = datasets.records.read, []

  def count(builder, names):
    decoded.append(list(names))
    return read(builder, names)

  monkeypatch.setattr(datasets.records, "read", count)
  config = svhn_config(archive=str(folder))
  datasets.load(config)
  config.train_split = "train+extra[:3]"
  for _ in range(2):
    dataset = datasets.load(config)
    assert len(dataset.train.labels) == 12 + 3
  usual = datasets.load(svhn_config(archive=str(folder))).info
  assert dataset.info.fingerprint == usual.fingerprint
  assert [sorted(names) for names in decoded] == [
    ["test", "train"],
    ["extra", "test", "train"],
  ]
  assert not caplog.records, "each set of splits has a cache file of its own"


def test_our_builder_writes_what_tfds_own_builder_writes(files, tmp_path, monkeypatch):
  """Compares with TFDS's builder, after replacing what imports TensorFlow in it."""
  folder, _ = files
  datasets.load(svhn_config(archive=str(folder), data_dir=str(tmp_path / "a")))
  kind = tfds.builder_cls("svhn_cropped")
  generate = kind._generate_examples

  class FileSystem:
    io = type("io", (), {})

  FileSystem.io.gfile = type("gfile", (), {"GFile": staticmethod(open)})

  def with_pngs(self, split_prefix, filepath):
    for key, example in generate(self, split_prefix, filepath):
      image = preparing.png(np.ascontiguousarray(example["image"]))
      yield key, example | {"image": image}

  monkeypatch.setattr(sys.modules[kind.__module__], "tf", FileSystem)
  monkeypatch.setattr(kind, "_generate_examples", with_pngs)
  monkeypatch.setattr(
    tfds.download.DownloadManager,
    "download",
    lambda self, urls: {split: str(folder / f"{split}_32x32.mat") for split in urls},
  )
  judge = kind(data_dir=tmp_path / "b", file_format="array_record")
  judge.download_and_prepare()
  mine = tfds.builder_from_directory(tmp_path / "a" / "svhn_cropped" / "3.1.0")
  assert mine.info.full_name == judge.info.full_name
  for split in SIZES:
    pairs = zip(
      mine.as_data_source(split=split), judge.as_data_source(split=split), strict=True
    )
    for ours, theirs in pairs:
      assert ours.keys() == theirs.keys()
      for feature in ours:
        np.testing.assert_array_equal(ours[feature], theirs[feature])


def test_sizes_and_checksums_are_those_tfds_registered():
  infos = tfds.builder_cls("svhn_cropped").url_infos
  registered = {info.filename: (info.size, info.checksum) for info in infos.values()}
  assert registered == svhn.PUBLISHED
  assert {url.removesuffix(info.filename) for url, info in infos.items()} == {svhn.URL}


def test_a_file_that_is_not_the_official_one_is_refused(files):
  folder, _ = files
  path = folder / "test_32x32.mat"
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)
  with pytest.raises(UserError, match=r"test_32x32.mat .* not the official file"):
    datasets.load(svhn_config(archive=str(folder)))
  path.unlink()
  with pytest.raises(UserError, match=r"test_32x32.mat: No such file"):
    datasets.load(svhn_config(archive=str(folder)))


def test_error_without_network_names_the_alternatives(monkeypatch):
  def fail(*args):
    raise download.DownloadError("no route to host")

  monkeypatch.setattr(download, "fetch", fail)
  with pytest.raises(UserError, match=r"no route to host.*data.archive") as error:
    datasets.load(svhn_config())
  assert "\n" not in str(error.value)


def test_downloaded_files_are_kept_and_used(files, monkeypatch, tmp_path):
  folder, _ = files
  calls = []

  def fetch(url, path, size, sha256):
    calls.append(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((folder / path.name).read_bytes())

  monkeypatch.setattr(download, "fetch", fetch)
  datasets.load(svhn_config())
  shutil.rmtree(tmp_path / "tfds" / "svhn_cropped")
  datasets.load(svhn_config())
  assert calls == [f"{svhn.URL}{split}_32x32.mat" for split in SIZES]
