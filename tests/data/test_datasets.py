"""Tests loading of prepared data: splits, fingerprint, cache and damaged files."""

import json
import logging
import os
import pathlib
import shutil
import stat
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from stand_ins import NUM_TEST, NUM_TRAIN, make_config

from cifar_flax import caches, registry
from cifar_flax.data import datasets, records
from cifar_flax.data.sources import archives, cifar, download
from cifar_flax.errors import UserError

VERSION_FOLDER = pathlib.Path("cifar10") / "3.0.2"


@pytest.fixture(scope="session")
def sharded(tmp_path_factory, pixels) -> pathlib.Path:
  """The dataset of `prepared_once`, with train in four files."""
  data_dir = tmp_path_factory.mktemp("sharded")
  parts = {
    "train": (pixels.train, {"label": pixels.train_labels}),
    "test": (pixels.test, {"label": pixels.test_labels}),
  }
  names = {"label": [f"class {index}" for index in range(10)]}
  contents = archives.Contents(parts, names, 0)
  config = tfds.download.DownloadConfig(num_shards=4)
  cifar.Cifar10(contents, data_dir=data_dir).download_and_prepare(
    file_format="array_record", download_config=config
  )
  assert len(list((data_dir / VERSION_FOLDER).glob("*train*"))) == 4
  return data_dir


@pytest.fixture
def folder(prepared_once, tmp_path) -> pathlib.Path:
  """A copy of the prepared dataset in the default data folder, for tests to damage."""
  copy = tmp_path / "tfds" / VERSION_FOLDER
  shutil.copytree(prepared_once / VERSION_FOLDER, copy)
  return copy


def edit(path: pathlib.Path, change) -> None:
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


def refused(match: str, **values) -> str:
  with pytest.raises(UserError, match=match) as error:
    datasets.load(make_config(**values))
  assert "\n" not in str(error.value)
  return str(error.value)


SPLITS = [
  "train",
  "test",
  "train[:45]",
  "train[45:]",
  "train[-7:-2]",
  "train[10%:]",
  "train[33%:66%]",
  "train[40:]+test[:5]",
  "test + train[:1]",
  "all",
  "train[7:8]",
]


@pytest.mark.parametrize("spec", SPLITS)
@pytest.mark.parametrize("source", ["prepared_once", "sharded"])
def test_splits_mean_what_tfds_means_sorted_by_id(spec, source, request):
  data_dir = request.getfixturevalue(source)
  config = make_config(data_dir=str(data_dir), train_split=spec, eval_split=spec)
  dataset = datasets.load(config)
  builder = tfds.builder_from_directory(data_dir / VERSION_FOLDER)
  rows = sorted(builder.as_data_source(split=spec), key=lambda row: row["id"])
  for split in (dataset.train, dataset.eval):
    np.testing.assert_array_equal(split.images, [row["image"] for row in rows])
    np.testing.assert_array_equal(split.labels, [row["label"] for row in rows])
    assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32


def test_slices_refer_to_the_order_on_disk(prepared_once, pixels):
  config = make_config(data_dir=str(prepared_once), train_split="train[:30]")
  images = datasets.load(config).train.images
  assert len(images) == 30
  assert not np.array_equal(images, pixels.train[:30]), "TFDS shuffles on disk"


@pytest.mark.parametrize("field", ["train_split", "eval_split"])
@pytest.mark.parametrize(
  "spec",
  [
    "",
    "trian",
    "train[",
    "train[:61]",
    "train[:110%]",
    "train[a:b]",
    "train[3]",
    "train+",
  ],
)
def test_bad_split_is_refused(field, spec, prepared_once):
  message = refused("is not a TFDS split", data_dir=str(prepared_once), **{field: spec})
  assert f"data.{field}={spec!r}" in message and "train[10%:]" in message


@pytest.mark.parametrize("field", ["train_split", "eval_split"])
@pytest.mark.parametrize(
  ("spec", "match"),
  [
    ("train[:foo]", "is not a TFDS split"),
    ("tran", "Unknown split 'tran'.*'train', 'test'"),
    ("train+extra", "Unknown split 'extra'"),
    ("train[:50001]", "incompatible with 50000 examples"),
    ("test[7:7]", "selects no examples"),
  ],
)
def test_bad_split_is_refused_before_anything_is_downloaded(
  field, spec, match, monkeypatch, tmp_path
):
  def fetch(*args):
    raise AssertionError("nothing must be downloaded")

  monkeypatch.setattr(download, "fetch", fetch)
  for name in ("cifar10", "cifar100"):
    refused(match, dataset=name, **{field: spec})
  svhn = {"dataset": "svhn_cropped", field: spec}
  if "extra" not in spec and "50001" not in spec:
    refused(match, **svhn)
  assert not (tmp_path / "tfds").exists()


def test_versions_and_numbers_of_examples_are_those_of_the_builders():
  for name, source in registry.DATASETS.items():
    if name != "shapes10":
      official = tfds.builder_cls(name)
      assert source.version == str(official.VERSION), name
  from cifar_flax.data.sources import shapes10

  numbers = {"train": shapes10.NUM_TRAIN, "test": shapes10.NUM_TEST}
  assert registry.DATASETS["shapes10"].splits == numbers


@pytest.mark.parametrize("spec", ["train[5:5]", "train[9:3]", "train[:0%]"])
def test_empty_split_is_refused(spec, prepared_once):
  message = refused("selects no examples", data_dir=str(prepared_once), eval_split=spec)
  assert f"data.eval_split={spec!r}" in message


def test_data_folder_is_that_of_the_config_then_environment_then_home(
  folder, tmp_path, monkeypatch
):
  assert len(datasets.load(make_config()).train.labels) == NUM_TRAIN
  data_dir = folder.parents[1]
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
  monkeypatch.setattr(cifar, "prepare", _not_found)
  refused("not found")
  datasets.load(make_config(data_dir=str(data_dir)))
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  datasets.load(make_config(data_dir=os.path.relpath(data_dir)))
  monkeypatch.delenv("TFDS_DATA_DIR")
  refused("not found")
  data_dir.rename(tmp_path / "home_of_data")
  (tmp_path / "home").mkdir()
  (tmp_path / "home_of_data").rename(tmp_path / "home" / "tensorflow_datasets")
  datasets.load(make_config())
  datasets.load(make_config(data_dir="~/tensorflow_datasets"))


def _not_found(folder, archive):
  raise UserError(f"{folder} not found")


def test_fingerprint_does_not_depend_on_the_folder(folder, prepared_once):
  info = datasets.load(make_config()).info
  assert info == datasets.load(make_config(data_dir=str(prepared_once))).info
  assert len(info.fingerprint) == 64 and int(info.fingerprint, 16)
  assert info.download_size == 12345


def test_fingerprint_depends_on_everything_that_a_run_sees():
  images = np.arange(3 * 3072, dtype=np.uint32).astype(np.uint8).reshape(3, 32, 32, 3)
  labels, ids = np.array([1, 2, 3], np.int32), np.array([b"a", b"b", b"c"])
  other = images.copy()
  other[2, 31, 31, 2] ^= 1
  split = records.Records(images, labels, ids)
  variants = [
    {"train": split},
    {"test": split},
    {"train": split, "test": split},
    {"train": records.Records(other, labels, ids)},
    {"train": records.Records(images, labels + 1, ids)},
    {"train": records.Records(images, labels, np.array([b"a", b"b", b"d"]))},
    {"train": records.Records(images[::-1], labels[::-1], ids[::-1])},
  ]
  assert len({records.fingerprint(variant) for variant in variants}) == len(variants)
  reordered = {"test": split, "train": split}
  assert records.fingerprint(reordered) == records.fingerprint(variants[2])


def test_hash_depends_on_every_file(folder):
  builder = records.open_folder(folder, 10)
  before = records.hash_files(folder, builder)
  for path in sorted(folder.iterdir()):
    content = path.read_bytes()
    same_size = bytes([content[0] ^ 1]) + content[1:]
    for changed in (content + b" ", same_size):
      path.write_bytes(changed)
      assert records.hash_files(folder, builder) != before, path.name
    path.write_bytes(content)
  assert records.hash_files(folder, builder) == before


def count_reads(monkeypatch) -> list:
  reads, read = [], records.read
  monkeypatch.setattr(records, "read", lambda *a: reads.append(a) or read(*a))
  return reads


def the_cache_file() -> pathlib.Path:
  (path,) = caches.folder("data").iterdir()
  return path


def test_second_load_decodes_nothing(prepared_once, monkeypatch):
  config = make_config(data_dir=str(prepared_once))
  reads = count_reads(monkeypatch)
  first, second = datasets.load(config), datasets.load(config)
  assert len(reads) == 1
  np.testing.assert_array_equal(first.train.images, second.train.images)
  np.testing.assert_array_equal(first.eval.labels, second.eval.labels)
  assert first.info == second.info
  assert stat.S_IMODE(caches.folder("data").stat().st_mode) == 0o700
  assert stat.S_IMODE(the_cache_file().stat().st_mode) == 0o600


def flip(path, position):
  content = bytearray(path.read_bytes())
  content[position] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize(
  "name", ["pixel", "truncated", "empty", "text", "absent array", "shapes", "label"]
)
def test_damaged_cache_is_rebuilt(name, prepared_once, monkeypatch, caplog):
  config = make_config(data_dir=str(prepared_once))
  expected = datasets.load(config)
  path = the_cache_file()
  content = path.read_bytes()
  if name == "pixel":
    flip(path, 5000)
  elif name in ("absent array", "shapes", "label"):
    with np.load(path) as file:
      arrays = dict(file)
    if name == "absent array":
      del arrays["test/ids"]
    elif name == "shapes":
      arrays["train/images"] = arrays["train/images"][:, 1:]
    else:
      arrays["train/labels"][7] = 10  # the classes are 0 to 9
    np.savez(path, allow_pickle=False, **arrays)
  else:
    path.write_bytes({"truncated": content[:-900], "empty": b"", "text": b"hi"}[name])
  reads = count_reads(monkeypatch)
  for _ in range(2):
    found = datasets.load(config)
    np.testing.assert_array_equal(found.train.images, expected.train.images)
  assert len(reads) == 1, "the cache was rebuilt once and is intact again"
  assert [record.levelno for record in caplog.records] == [logging.WARNING]
  assert "Rebuilding the damaged cache" in caplog.text


def test_loading_works_without_a_cache(prepared_once, tmp_path, monkeypatch, caplog):
  (tmp_path / "file").write_text("in the way")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  reads = count_reads(monkeypatch)
  for _ in range(2):
    dataset = datasets.load(make_config(data_dir=str(prepared_once)))
    assert len(dataset.train.labels) == NUM_TRAIN
  assert len(reads) == 2
  assert caplog.text.count("Continuing without caches") == len(caplog.records) == 1


def test_full_disk_leaves_no_partial_cache_file(prepared_once, monkeypatch, caplog):
  def fail(file, **arrays):
    file.write(b"half")
    raise OSError("No space left on device")

  monkeypatch.setattr(np, "savez", fail)
  datasets.load(make_config(data_dir=str(prepared_once)))
  assert not list(caches.folder("data").iterdir())
  assert "No space left" in caplog.text


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("damage", ["half", "empty", "tail", "flipped", "absent"])
def test_damaged_records_are_refused(split, damage, folder):
  (path,) = folder.glob(f"*-{split}.array_record*")
  size = path.stat().st_size
  match damage:
    case "flipped":
      flip(path, size // 4)
    case "absent":
      path.unlink()
    case _:
      os.truncate(path, {"half": size // 2, "empty": 0, "tail": size - 100}[damage])
  message = refused("truncated or damaged|No such file")
  assert str(path) in message and "data.data_dir" in message


def test_other_counts_than_described_are_refused(folder):
  def change(info):
    info["splits"][0]["shardLengths"] = [str(NUM_TRAIN - 1)]

  edit(folder / "dataset_info.json", change)
  refused(f"holds {NUM_TRAIN} examples, but dataset_info.json says {NUM_TRAIN - 1}")


class Odd(cifar.Cifar10, skip_registration=True):
  """cifar10 with other features; tests give its records a description of cifar10."""

  name = "cifar10"
  shape, num_classes = (32, 32, 3), 10

  def _info(self):
    features = tfds.features.FeaturesDict(
      {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=self.shape),
        "label": tfds.features.ClassLabel(num_classes=self.num_classes),
      }
    )
    return tfds.core.DatasetInfo(builder=self, features=features)


def prepare_odd(folder, pixels, **attributes):
  """Replaces the prepared records with those of a builder with other features."""
  kind = types.new_class(
    "Odd",
    (Odd,),
    {"skip_registration": True},
    lambda body: body.update(name="cifar10", **attributes),
  )
  shape = attributes.get("shape", (32, 32, 3))
  images = np.resize(pixels.train, (NUM_TRAIN, *shape))
  labels = np.arange(NUM_TRAIN) % kind.num_classes
  parts = {
    "train": (images, {"label": labels}),
    "test": (images[:NUM_TEST], {"label": labels[:NUM_TEST]}),
  }
  names = {"label": [str(index) for index in range(kind.num_classes)]}
  other = folder.parents[2] / "odd"
  builder = kind(archives.Contents(parts, names, 0), data_dir=other)
  builder.download_and_prepare(file_format="array_record")
  for path in folder.glob("*.array_record*"):
    shutil.copy(builder.data_path / path.name, path)
  return builder.data_path


@pytest.mark.parametrize(
  ("attributes", "match"),
  [
    ({"num_classes": 12}, "example .* has label 1[01], not 0 to 9"),
    ({"shape": (28, 28, 3)}, r"image is uint8 \[28, 28, 3\], not uint8 32x32x3"),
  ],
)
def test_examples_other_than_described_are_refused(attributes, match, folder, pixels):
  prepare_odd(folder, pixels, **attributes)
  refused(match)


def test_cifar100_under_cifar10s_name_is_refused(folder, pixels):
  source = prepare_odd(folder, pixels, num_classes=100)
  for path in source.iterdir():
    shutil.copy(path, folder / path.name)
  refused("classes = 100, but it must be 10")


def test_tfrecord_is_refused_unless_array_record_exists_as_well(folder):
  edit(folder / "dataset_info.json", lambda info: info.update(fileFormat="tfrecord"))
  message = refused("tfds convert_format")
  assert f"--dataset_version_dir={folder} --out_file_format=array_record" in message
  edit(
    folder / "dataset_info.json",
    lambda info: info.update(alternativeFileFormats=["array_record"]),
  )
  assert len(datasets.load(make_config()).train.labels) == NUM_TRAIN


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", ["", "{}", "[1]", "{", None])
def test_damaged_descriptions_are_refused(name, content, folder, monkeypatch):
  if content is None:
    (folder / name).unlink()
  else:
    (folder / name).write_text(content)
  monkeypatch.setattr(cifar, "prepare", lambda folder, archive: None)
  assert str(folder) in refused("data.data_dir")


def test_unknown_dataset_is_refused():
  refused(
    "data.dataset='mnist' is unknown; .* shapes10 or folder:PATH", dataset="mnist"
  )


def test_absent_parent_is_refused(tmp_path):
  given = tmp_path / "typo" / "data"
  refused("parent folder does not exist", data_dir=str(given), dataset="shapes10")
  assert not given.parent.exists()


def test_file_in_the_place_of_the_data_folder_is_refused(tmp_path):
  (tmp_path / "data").write_text("")
  for dataset in ("shapes10", "folder:/x"):
    message = refused(
      "data is a file; data.data_dir must be the folder",
      data_dir=str(tmp_path / "data"),
      dataset=dataset,
    )
    assert message.startswith(f"data.data_dir={tmp_path / 'data'}: ")


def test_link_to_nothing_is_refused(tmp_path, monkeypatch):
  link = tmp_path / "link"
  link.symlink_to(tmp_path / "not mounted")
  refused("link is a link to .*not mounted, which does not exist", data_dir=str(link))
  monkeypatch.setenv("TFDS_DATA_DIR", str(link))
  message = refused("is a link to", dataset="shapes10")
  assert message.startswith(f"TFDS_DATA_DIR={link}: ")
  (tmp_path / "tfds").mkdir()
  (tmp_path / "tfds" / "cifar10").symlink_to(tmp_path / "not mounted")
  refused("cifar10 is a link to", data_dir=str(tmp_path / "tfds"))


@pytest.mark.parametrize("below", ["cifar10", "cifar10/3.0.2"])
@pytest.mark.parametrize("dataset", ["cifar10", "shapes10"])
def test_folder_of_one_dataset_leads_to_the_data_folder(
  below, dataset, prepared_once, monkeypatch
):
  given, hint = str(prepared_once / below), f"Set data.data_dir to {prepared_once}."
  assert hint in refused("looks like the folder", data_dir=given, dataset=dataset)
  monkeypatch.setenv("TFDS_DATA_DIR", given)
  assert f"Set TFDS_DATA_DIR to {prepared_once}." in refused("is not prepared there")
  assert sorted(os.listdir(given)) == sorted(os.listdir(prepared_once / below))


def test_folder_above_the_data_folder_leads_to_it(folder, tmp_path):
  folder.parents[1].rename(tmp_path / "tensorflow_datasets")
  message = refused("cifar10 is not prepared there", data_dir=str(tmp_path))
  assert message.endswith(f"Set data.data_dir to {tmp_path}/tensorflow_datasets.")


@pytest.mark.parametrize(
  ("which", "match"),
  [
    ("", "no permission to enter"),  # the folder above the data folder
    ("tfds", "no permission to read"),
    ("tfds/cifar10", "no permission to enter|no permission to read"),
    ("tfds/cifar10/3.0.2", "no permission to read"),
    ("tfds/cifar10/3.0.2/dataset_info.json", "no permission to read"),
    ("tfds/cifar10/3.0.2/features.json", "no permission to read"),
    ("record", "no permission to read"),
  ],
)
def test_what_cannot_be_read_is_named(which, match, folder, tmp_path, monkeypatch):
  path = next(folder.glob("*train*")) if which == "record" else tmp_path / which
  access = os.access
  monkeypatch.setattr(
    os, "access", lambda p, mode: os.fspath(p) != str(path) and access(p, mode)
  )
  message = refused(match)
  assert str(path) in message and "Delete" not in message
