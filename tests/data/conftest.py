"""Fixtures: small archives in the official formats, and folders of each test's own."""

import dataclasses
import hashlib
import pathlib

import numpy as np
import pytest
import stand_ins

from cifar_flax.data.sources import archives, cifar


@pytest.fixture(scope="session")
def pixels() -> stand_ins.Pixels:
  random = np.random.default_rng(0)
  return stand_ins.Pixels(
    random.integers(0, 256, (stand_ins.NUM_TRAIN, 32, 32, 3), np.uint8),
    random.integers(0, 10, stand_ins.NUM_TRAIN, np.uint8),
    random.integers(0, 256, (stand_ins.NUM_TEST, 32, 32, 3), np.uint8),
    random.integers(0, 10, stand_ins.NUM_TEST, np.uint8),
  )


@pytest.fixture
def publish(monkeypatch):
  """A function that registers a file's size and checksum as an official archive's."""

  def put(path: pathlib.Path, kind: str) -> pathlib.Path:
    name = kind if kind.endswith(".gz") else f"cifar-10-{kind}.tar.gz"
    content = path.read_bytes()
    official = archives.PUBLISHED[name]
    stand_in = dataclasses.replace(
      official,
      size=len(content),
      checksum=hashlib.new(official.algorithm, content).hexdigest(),
    )
    monkeypatch.setitem(archives.PUBLISHED, name, stand_in)
    return path

  return put


@pytest.fixture
def binary_archive(tmp_path, pixels, publish) -> pathlib.Path:
  members = stand_ins.binary_members(pixels)
  return publish(stand_ins.tar_gz(tmp_path / "any name.tgz", members), "binary")


@pytest.fixture
def binary_archive_100(tmp_path, pixels, publish) -> pathlib.Path:
  members = stand_ins.binary_members_100(pixels)
  path = stand_ins.tar_gz(tmp_path / "hundred.tgz", members)
  return publish(path, "cifar-100-binary.tar.gz")


@pytest.fixture
def python_archive(tmp_path, pixels, publish) -> pathlib.Path:
  members = stand_ins.python_members(pixels)
  return publish(stand_ins.tar_gz(tmp_path / "batches.tgz", members), "python")


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
  """Points the cache and data folders of every test into its own temporary folder."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
  monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="session")
def prepared_once(tmp_path_factory, pixels) -> pathlib.Path:
  """A data folder with a small cifar10 that our builder prepared."""
  data_dir = tmp_path_factory.mktemp("prepared")
  contents = archives.Contents(
    {
      "train": (pixels.train, {"label": pixels.train_labels}),
      "test": (pixels.test, {"label": pixels.test_labels}),
    },
    {"label": list(stand_ins.CLASS_NAMES)},
    downloaded_size=12345,
  )
  builder = cifar.Cifar10(contents, data_dir=data_dir)
  builder.download_and_prepare(file_format="array_record")
  return data_dir
