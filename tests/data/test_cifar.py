"""Tests cifar10 and cifar100 from official archives, and errors for any others."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import stand_ins
import tensorflow_datasets as tfds
from stand_ins import make_config
from tensorflow_datasets.image_classification import cifar as official

from cifar_flax.data import datasets
from cifar_flax.data.sources import archives, cifar, download
from cifar_flax.errors import UserError


def one_line(error) -> str:
  message = str(error.value)
  assert "\n" not in message
  return message


@pytest.mark.parametrize("kind", ["binary", "python"])
def test_loaded_images_are_those_of_the_archive(kind, request, pixels):
  archive = request.getfixturevalue(f"{kind}_archive")
  dataset = datasets.load(make_config(archive=str(archive)))
  np.testing.assert_array_equal(dataset.train.images, pixels.train)
  np.testing.assert_array_equal(dataset.train.labels, pixels.train_labels)
  np.testing.assert_array_equal(dataset.eval.images, pixels.test)
  np.testing.assert_array_equal(dataset.eval.labels, pixels.test_labels)
  assert dataset.info.class_names == stand_ins.CLASS_NAMES
  assert dataset.info.download_size == archive.stat().st_size
  assert (dataset.info.name, dataset.info.version) == ("cifar10", "3.0.2")


def test_preparing_again_gives_the_same_fingerprint(
  binary_archive, python_archive, tmp_path
):
  infos = [
    datasets.load(make_config(archive=str(archive), data_dir=str(data_dir))).info
    for archive, data_dir in [
      (binary_archive, tmp_path / "a"),
      (python_archive, tmp_path / "b"),
    ]
  ]
  assert infos[0].fingerprint == infos[1].fingerprint


def test_cifar100_has_labels_and_coarse_labels(binary_archive_100, pixels):
  config = make_config(dataset="cifar100", archive=str(binary_archive_100))
  dataset = datasets.load(config)
  np.testing.assert_array_equal(dataset.train.images, pixels.train)
  np.testing.assert_array_equal(dataset.train.labels, 7 * pixels.train_labels)
  assert dataset.info.class_names == tuple(f"kind_{i}" for i in range(100))
  builder = tfds.builder("cifar100", data_dir=os.environ["TFDS_DATA_DIR"])
  rows = {row["id"]: row for row in builder.as_data_source(split="test")}
  assert rows[b"test_00007"]["coarse_label"] == pixels.test_labels[7]
  again = datasets.load(make_config(dataset="cifar100"))  # from the cache
  np.testing.assert_array_equal(again.eval.labels, 7 * pixels.test_labels)


def test_an_archive_of_another_dataset_is_refused(binary_archive, binary_archive_100):
  refused(binary_archive_100, "not an official archive of cifar10\\..*cifar-10-python")
  refused(binary_archive, "not an official archive of cifar100\\.", dataset="cifar100")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_our_builder_writes_what_tfds_own_builder_writes(
  name, request, tmp_path, pixels, monkeypatch
):
  """Compares with TFDS's builder, after replacing what imports TensorFlow in it."""
  kind = "binary_archive" if name == "cifar10" else "binary_archive_100"
  archive = request.getfixturevalue(kind)
  values = {"dataset": name, "archive": str(archive), "data_dir": str(tmp_path / "a")}
  datasets.load(make_config(**values))

  def read_rows(path, labels_number):
    for row in np.fromfile(path, np.uint8).reshape(-1, labels_number + 3072):
      image = row[labels_number:].reshape(3, 32, 32).transpose(1, 2, 0)
      yield row[:labels_number], cifar.preparing.png(np.ascontiguousarray(image))

  members = stand_ins.binary_members(pixels) | stand_ins.binary_members_100(pixels)
  for member, content in members.items():
    path = tmp_path / "extracted" / member
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  monkeypatch.setattr(official, "_load_data", read_rows)
  monkeypatch.setattr(
    tfds.download.DownloadManager,
    "download_and_extract",
    lambda self, url: str(tmp_path / "extracted"),
  )
  kinds = {"cifar10": official.Cifar10, "cifar100": official.Cifar100}
  judge = kinds[name](data_dir=tmp_path / "b", file_format="array_record")
  judge.download_and_prepare()
  folder = tmp_path / "a" / name / "3.0.2"
  ours = tfds.builder_from_directory(folder)
  for split in ("train", "test"):
    pairs = zip(
      ours.as_data_source(split=split), judge.as_data_source(split=split), strict=True
    )
    for mine, theirs in pairs:
      assert mine.keys() == theirs.keys()
      for feature in mine:
        np.testing.assert_array_equal(mine[feature], theirs[feature])
  described = json.loads((folder / "dataset_info.json").read_text())
  assert described.pop("downloadSize") == str(archive.stat().st_size)
  expected = json.loads((judge.data_path / "dataset_info.json").read_text())
  assert described.pop("moduleName") == "cifar_flax.data.sources.cifar"
  assert expected.pop("moduleName") == "tensorflow_datasets.image_classification.cifar"
  assert described == expected
  files = {path.name for path in folder.glob("*.labels.txt")} | {"features.json"}
  assert "label.labels.txt" in files
  for file in files:
    assert (folder / file).read_text() == (judge.data_path / file).read_text()


def test_tfds_alone_reads_it(prepared_once, pixels):
  builder = tfds.builder("cifar10", data_dir=prepared_once)
  examples = {row["id"]: row for row in builder.as_data_source(split="test")}
  assert len(examples) == stand_ins.NUM_TEST
  np.testing.assert_array_equal(examples[b"test_00007"]["image"], pixels.test[7])
  assert examples[b"test_00007"]["label"] == pixels.test_labels[7]


@pytest.mark.parametrize("kind", [official.Cifar10, official.Cifar100])
def test_published_checksum_is_the_one_tfds_registered(kind):
  ((url, info),) = (kind.url_infos or {}).items()
  published = archives.PUBLISHED[info.filename]
  assert url == cifar.URL + info.filename
  assert list(archives.of(published.dataset))[0] == info.filename
  assert (published.size, published.checksum) == (info.size, info.checksum)
  assert published.algorithm == "sha256"


def test_prepared_folder_needs_no_archive(prepared_once):
  config = make_config(data_dir=str(prepared_once), archive="/nowhere/at_all.tgz")
  assert len(datasets.load(config).train.labels) == stand_ins.NUM_TRAIN


def refused(archive, match, **values):
  with pytest.raises(UserError, match=match) as error:
    datasets.load(make_config(archive=str(archive), **values))
  assert str(archive) in one_line(error)


@pytest.mark.parametrize("kind", ["binary", "python"])
def test_other_bytes_are_refused(kind, request):
  archive = request.getfixturevalue(f"{kind}_archive")
  content = bytearray(archive.read_bytes())
  content[len(content) // 2] ^= 1
  archive.write_bytes(content)
  line = r"^data.archive=.* \(\d+ bytes\) is not an official archive of cifar10"
  refused(archive, f"{line}.*binary.*python")


def test_other_length_is_refused(binary_archive):
  binary_archive.write_bytes(binary_archive.read_bytes()[:-1])
  refused(binary_archive, "not an official archive")


def test_absent_archive_is_refused(tmp_path):
  refused(tmp_path / "absent.tgz", "No such file")
  refused(tmp_path, "Is a directory")


class Bomb:
  """Creates a folder when it is unpickled without restrictions."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickle_that_runs_code_is_refused(protocol, tmp_path, pixels, publish):
  members = stand_ins.python_members(pixels)
  bomb = pickle.dumps(Bomb(tmp_path / "ran"), protocol=protocol)
  members["cifar-10-batches-py/data_batch_3"] = bomb
  archive = publish(stand_ins.tar_gz(tmp_path / "evil.tgz", members), "python")
  refused(archive, "refers to posix.mkdir")
  assert not (tmp_path / "ran").exists()
  pickle.loads(bomb)
  assert (tmp_path / "ran").exists(), "unrestricted unpickling runs the code"


def test_nothing_is_unpickled_before_the_checksum_matched(
  tmp_path, python_archive, monkeypatch
):
  def fail(content):
    raise AssertionError("unpickled")

  monkeypatch.setattr(archives, "_unpickle", fail)
  content = python_archive.read_bytes()
  python_archive.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  refused(python_archive, "not an official")
  python_archive.write_bytes(content)
  with pytest.raises(AssertionError, match="unpickled"):
    datasets.load(make_config(archive=str(python_archive)))


def test_members_are_read_by_exact_name_and_never_written(tmp_path, pixels, publish):
  members = stand_ins.binary_members(pixels)
  wanted = "cifar-10-batches-bin/data_batch_2.bin"
  members["../" + wanted] = members["/" + wanted] = b"evil"
  members["data_batch_2.bin"] = b"evil"
  archive = publish(stand_ins.tar_gz(tmp_path / "paths.tgz", members), "binary")
  dataset = datasets.load(make_config(archive=str(archive)))
  np.testing.assert_array_equal(dataset.train.images, pixels.train)
  assert not list(tmp_path.rglob("data_batch_2.bin"))

  del members[wanted]
  stand_ins.tar_gz(archive, members)
  with tarfile.open(tmp_path / "link.tgz", "w:gz") as tar:
    with tarfile.open(archive) as others:
      for member in others:
        tar.addfile(member, others.extractfile(member))
    link = tarfile.TarInfo(wanted)
    link.type, link.linkname = tarfile.SYMTYPE, "data_batch_1.bin"
    tar.addfile(link)
  linked = publish(tmp_path / "link.tgz", "binary")
  with pytest.raises(UserError, match="damaged.*data_batch_2.bin"):
    datasets.load(make_config(archive=str(linked), data_dir=str(tmp_path / "other")))


PROGRAM = """
import sys
import stand_ins
from cifar_flax.data import datasets
from cifar_flax.data.sources import archives, shapes10
import hashlib, pathlib
name = "cifar-10-python.tar.gz"
content = pathlib.Path(sys.argv[1]).read_bytes()
archives.PUBLISHED[name] = archives.Published(
  "cifar10", "python", len(content), "md5", hashlib.md5(content).hexdigest())
shapes10.NUM_TRAIN, shapes10.NUM_TEST = 20, 10
for dataset in ("cifar10", "shapes10"):
  archive = sys.argv[1] if dataset == "cifar10" else ""
  for _ in range(2):  # the second time from the cache
    datasets.load(stand_ins.make_config(dataset=dataset, archive=archive))
assert "tensorflow" not in sys.modules, "TensorFlow was imported"
assert "jax" not in sys.modules, "JAX was imported"
print("done")
"""


def test_tensorflow_is_never_imported(python_archive):
  here = os.path.dirname(__file__)
  root = os.path.dirname(os.path.dirname(here))
  result = subprocess.run(
    [sys.executable, "-c", PROGRAM, str(python_archive)],
    env={**os.environ, "PYTHONPATH": os.pathsep.join([here, root])},
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert (result.stdout, result.returncode) == ("done\n", 0), result.stderr
  lines = [line for line in result.stderr.splitlines() if line]
  assert len(lines) == 2, "one line for each prepared dataset"
  assert all(line.startswith("Preparing ") for line in lines)


def test_error_without_network_names_the_alternatives(monkeypatch, tmp_path):
  def fail(*args):
    raise download.DownloadError("no route to host")

  monkeypatch.setattr(download, "fetch", fail)
  with pytest.raises(UserError) as error:
    datasets.load(make_config())
  message = one_line(error)
  for way in ("TFDS_DATA_DIR", "data.data_dir", "data.archive", "dataset=shapes10"):
    assert way in message
  assert (
    cifar.URL + "cifar-10-binary.tar.gz" in message and "no route to host" in message
  )
  assert not (tmp_path / "tfds" / "cifar10").exists()


def test_downloaded_archive_is_kept_and_used(monkeypatch, binary_archive, tmp_path):
  calls = []

  def fetch(url, path, size, sha256):
    calls.append((url, size, sha256))
    path.parent.mkdir(parents=True)
    path.write_bytes(binary_archive.read_bytes())

  monkeypatch.setattr(download, "fetch", fetch)
  dataset = datasets.load(make_config())
  shutil.rmtree(tmp_path / "tfds" / "cifar10")
  datasets.load(make_config())
  published = archives.PUBLISHED["cifar-10-binary.tar.gz"]
  assert calls == [
    (cifar.URL + "cifar-10-binary.tar.gz", published.size, published.checksum)
  ]
  assert dataset.info.download_size == published.size
