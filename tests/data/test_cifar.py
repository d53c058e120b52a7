"""Building cifar10 from the official archives, and refusing what is not official."""

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
from tensorflow_datasets.image_classification import cifar

from cifar_flax.data import archives, cifar10, datasets, download
from cifar_flax.errors import UserError


def one_line(error) -> str:
  message = str(error.value)
  assert "\n" not in message
  return message


@pytest.mark.parametrize("kind", ["binary", "python"])
def test_archive_becomes_the_images_it_was_made_of(kind, request, pixels):
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


def test_ours_is_what_tfds_own_builder_writes(
  binary_archive, tmp_path, pixels, monkeypatch
):
  """TFDS's builder, with only what imports TensorFlow replaced, as the judge."""
  datasets.load(make_config(archive=str(binary_archive), data_dir=str(tmp_path / "a")))

  def read_rows(path, labels_number):
    for row in np.fromfile(path, np.uint8).reshape(-1, labels_number + 3072):
      image = row[labels_number:].reshape(3, 32, 32).transpose(1, 2, 0)
      yield row[:labels_number], cifar10.preparing.png(np.ascontiguousarray(image))

  for name, content in stand_ins.binary_members(pixels).items():
    path = tmp_path / "extracted" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  monkeypatch.setattr(cifar, "_load_data", read_rows)
  monkeypatch.setattr(
    tfds.download.DownloadManager,
    "download_and_extract",
    lambda self, url: str(tmp_path / "extracted"),
  )
  judge = cifar.Cifar10(data_dir=tmp_path / "b", file_format="array_record")
  judge.download_and_prepare()
  folder = tmp_path / "a" / "cifar10" / "3.0.2"
  ours = tfds.builder_from_directory(folder)
  for split in ("train", "test"):
    pairs = zip(
      ours.as_data_source(split=split), judge.as_data_source(split=split), strict=True
    )
    for mine, theirs in pairs:
      assert (mine["id"], mine["label"]) == (theirs["id"], theirs["label"])
      np.testing.assert_array_equal(mine["image"], theirs["image"])
  described = json.loads((folder / "dataset_info.json").read_text())
  assert described.pop("downloadSize") == str(binary_archive.stat().st_size)
  expected = json.loads((judge.data_path / "dataset_info.json").read_text())
  assert described.pop("moduleName") == "cifar_flax.data.cifar10"
  assert expected.pop("moduleName") == "tensorflow_datasets.image_classification.cifar"
  assert described == expected
  for name in ("features.json", "label.labels.txt"):
    assert (folder / name).read_text() == (judge.data_path / name).read_text()


def test_anyone_with_tfds_reads_it(prepared_once, pixels):
  builder = tfds.builder("cifar10", data_dir=prepared_once)
  examples = {row["id"]: row for row in builder.as_data_source(split="test")}
  assert len(examples) == stand_ins.NUM_TEST
  np.testing.assert_array_equal(examples[b"test_00007"]["image"], pixels.test[7])
  assert examples[b"test_00007"]["label"] == pixels.test_labels[7]


def test_published_checksum_is_the_one_tfds_registered():
  ((url, info),) = (cifar.Cifar10.url_infos or {}).items()
  published = archives.PUBLISHED[info.filename]
  assert (url, info.filename) == (cifar10.URL, cifar10.ARCHIVE)
  assert (published.size, published.checksum) == (info.size, info.checksum)
  assert published.algorithm == "sha256"


def test_prepared_folder_needs_no_archive(prepared_once):
  config = make_config(data_dir=str(prepared_once), archive="/nowhere/at_all.tgz")
  assert len(datasets.load(config).train.labels) == stand_ins.NUM_TRAIN


def refused(archive, match):
  with pytest.raises(UserError, match=match) as error:
    datasets.load(make_config(archive=str(archive)))
  assert str(archive) in one_line(error)


@pytest.mark.parametrize("kind", ["binary", "python"])
def test_other_bytes_are_refused(kind, request):
  archive = request.getfixturevalue(f"{kind}_archive")
  content = bytearray(archive.read_bytes())
  content[len(content) // 2] ^= 1
  archive.write_bytes(content)
  line = r"^data.archive=.* \(\d+ bytes\) is not an official CIFAR-10 archive"
  refused(archive, f"{line}.*binary.*python")


def test_other_length_is_refused(binary_archive):
  binary_archive.write_bytes(binary_archive.read_bytes()[:-1])
  refused(binary_archive, "not an official CIFAR-10 archive")


def test_absent_archive_is_refused(tmp_path):
  refused(tmp_path / "absent.tgz", "No such file")
  refused(tmp_path, "Is a directory")


class Bomb:
  """Unpickled by anyone careless, leaves a folder."""

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
  refused(archive, "asks for posix.mkdir")
  assert not (tmp_path / "ran").exists()
  pickle.loads(bomb)
  assert (tmp_path / "ran").exists(), "the bomb works, so the test can fail"


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
from cifar_flax.data import archives, datasets, shapes10
import hashlib, pathlib
name = "cifar-10-python.tar.gz"
content = pathlib.Path(sys.argv[1]).read_bytes()
archives.PUBLISHED[name] = archives.Published(
  "python", len(content), "md5", hashlib.md5(content).hexdigest())
shapes10.NUM_TRAIN, shapes10.NUM_TEST = 20, 10
for dataset in datasets.DATASETS:
  archive = sys.argv[1] if dataset == "cifar10" else ""
  for _ in range(2):  # prepared and decoded, then from the cache
    datasets.load(stand_ins.make_config(dataset=dataset, archive=archive))
assert "tensorflow" not in sys.modules, "TensorFlow was imported"
assert "jax" not in sys.modules, "data need no JAX"
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
  assert len(lines) == 2, "one calm line for each dataset prepared"
  assert all(line.startswith("Preparing ") for line in lines)


def test_without_network_three_ways_out(monkeypatch, tmp_path):
  def fail(*args):
    raise download.DownloadError("no route to host")

  monkeypatch.setattr(download, "fetch", fail)
  with pytest.raises(UserError) as error:
    datasets.load(make_config())
  message = one_line(error)
  for way in ("TFDS_DATA_DIR", "data.data_dir", "data.archive", "dataset=shapes10"):
    assert way in message
  assert cifar10.URL in message and "no route to host" in message
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
  assert calls == [(cifar10.URL, published.size, published.checksum)]
  assert dataset.info.download_size == published.size
