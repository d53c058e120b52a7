"""Reads datasets that TFDS prepared as array_record, without TensorFlow."""

import dataclasses
import hashlib
import io
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import (
  array_record_module,  # pyright: ignore[reportAttributeAccessIssue]  compiled
)
from PIL import Image
from tqdm import tqdm

from cifar_flax.data import hashes
from cifar_flax.errors import UserError

IMAGE_SHAPE = (32, 32, 3)
INFO_FILE = "dataset_info.json"
_FORMAT = "array_record"


@dataclasses.dataclass(frozen=True)
class Records:
  """One split, in its order on disk, which is the order that TFDS's slices refer to.

  Attributes:
    images: uint8 `[examples, 32, 32, 3]`.
    labels: int32 `[examples]`.
    ids: The values of the `id` feature, bytes `[examples]`.
  """

  images: np.ndarray
  labels: np.ndarray
  ids: np.ndarray

  def fits(self, num_examples: int, num_classes: int) -> bool:
    """Returns whether shapes, dtypes and labels match the given numbers."""
    return (
      self.images.shape == (num_examples, *IMAGE_SHAPE)
      and self.images.dtype == np.uint8
      and self.labels.shape == (num_examples,)
      and self.labels.dtype == np.int32
      and self.ids.shape == (num_examples,)
      and self.ids.dtype.kind == "S"
      and bool(np.all((self.labels >= 0) & (self.labels < num_classes)))
    )


def _damaged(path: pathlib.Path, reason: object) -> UserError:
  folder = path if path.is_dir() else path.parent
  first_line = str(reason).partition("\n")[0]
  return UserError(
    f"{path}: {first_line}. Delete {folder} so that it is prepared again, or set"
    " data.data_dir to an intact copy."
  )


def _check_readable(path: pathlib.Path) -> None:
  if path.exists() and not os.access(path, os.R_OK):
    raise UserError(
      f"{path}: you have no permission to read it. Change its mode, or set"
      " data.data_dir to another folder."
    )


def open_folder(folder: pathlib.Path, num_classes: int | None) -> Any:
  """Returns TFDS's builder for a prepared folder, after checking its features.

  Args:
    folder: `<data_dir>/<name>/<version>`, as TFDS lays it out.
    num_classes: The required number of classes; None accepts any number.

  Raises:
    UserError: the folder is damaged, is not array_record, or its features are not an
      `id`, a 32x32 RGB `image` and a `label` of `num_classes` classes.
  """
  for name in (INFO_FILE, "features.json"):
    _check_readable(folder / name)
  try:
    builder = tfds.builder_from_directory(folder)
    formats = {kind.value for kind in builder.info.available_file_formats()}
  except Exception as error:  # damaged JSON makes TFDS raise many exception types
    raise _damaged(folder, f"cannot be read as a TFDS dataset ({error})") from error
  if _FORMAT not in formats:
    raise UserError(
      f"{folder} is prepared as {' and '.join(sorted(formats))}, which only TensorFlow"
      f" can read. Run `tfds convert_format --dataset_version_dir={folder}"
      f" --out_file_format={_FORMAT}` where TensorFlow is installed, or set"
      f" data.data_dir to another folder, where it will be prepared as {_FORMAT}."
    )
  builder.info.set_file_format(_FORMAT, override=True, override_if_initialized=True)
  _check_features(folder, builder.info.features, num_classes)
  return builder


def _check_features(
  folder: pathlib.Path, features: Any, num_classes: int | None
) -> None:
  declared = dict(features.items()) if hasattr(features, "items") else {}
  image, label = declared.get("image"), declared.get("label")
  found = {
    "image": image and (image.shape, np.dtype(image.np_dtype).name),
    "classes": getattr(label, "num_classes", None),
    "id": "id" in declared,
  }
  wanted = {
    "image": (IMAGE_SHAPE, "uint8"),
    "classes": num_classes or found["classes"],
    "id": True,
  }
  for key, value in wanted.items():
    if found[key] != value:
      raise UserError(
        f"{folder}: features.json declares {key} = {found[key]}, but it must be"
        f" {value}. Set data.data_dir to a folder with the right dataset."
      )


def hash_files(folder: pathlib.Path, builder: Any) -> str:
  """Returns a sha256 of the names, sizes and contents of the dataset's files.

  It identifies the files, not the data: TFDS writes the features of an example in an
  order that changes from process to process, so equal data may have different hashes.
  Use `fingerprint` to compare data.

  Args:
    folder: The folder that `open_folder` was given.
    builder: The builder that `open_folder` returned.

  Raises:
    UserError: a file is missing.
  """
  paths = [folder / INFO_FILE, folder / "features.json"]
  paths += sorted(folder.glob("*.labels.txt"))
  for split in builder.info.splits.values():
    paths += [pathlib.Path(path) for path in split.filepaths]
  digest = hashlib.sha256()
  for path in sorted(paths, key=lambda path: path.name):
    _check_readable(path)
    try:
      content = hashes.of_file(path)
    except OSError as error:
      raise _damaged(path, error.strerror) from error
    digest.update(f"{path.name}\0{path.stat().st_size}\0{content}\n".encode())
  return digest.hexdigest()


def fingerprint(splits: dict[str, Records]) -> str:
  """Returns the sha256 of all ids, labels and images, in their order on disk.

  Preparing the same data again, on any machine, gives the same fingerprint.
  """
  digest = hashlib.sha256()
  for name, split in sorted(splits.items()):
    digest.update(f"{name} {len(split.ids)}\n".encode())
    digest.update(b"\n".join(split.ids.tolist()))
    digest.update(split.labels.astype("<i4").tobytes())
    digest.update(np.ascontiguousarray(split.images).data)
  return digest.hexdigest()


def read(builder: Any, names: Sequence[str]) -> dict[str, Records]:
  """Decodes splits of a prepared dataset and returns them by name.

  Args:
    builder: The builder that `open_folder` returned.
    names: The names of the splits.

  Raises:
    UserError: a file is damaged or disagrees with the dataset's description.
  """
  splits = {name: builder.info.splits[name] for name in names}
  total = sum(split.num_examples for split in splits.values())
  with tqdm(total=total, desc="decoding", unit=" images", disable=None) as progress:
    return {
      name: _read_split(builder.info.features, split, progress)
      for name, split in splits.items()
    }


def _read_split(features: Any, split: Any, progress: tqdm) -> Records:
  num_classes = features["label"].num_classes
  images = np.empty((split.num_examples, *IMAGE_SHAPE), np.uint8)
  labels = np.empty(split.num_examples, np.int32)
  ids: list[bytes] = []
  for filepath, declared in zip(split.filepaths, split.shard_lengths, strict=True):
    path = pathlib.Path(filepath)
    for record in _read_file(path, declared):
      index = len(ids)
      try:
        example = features.deserialize_example_np(
          record, decoders={"image": tfds.decode.SkipDecoding()}
        )
        images[index] = _decode(example["image"])
        labels[index] = example["label"]
        ids.append(example["id"])
      except Exception as error:  # TFDS and Pillow raise many types of it
        raise _damaged(path, f"example {index} cannot be decoded ({error})") from error
      if not 0 <= labels[index] < num_classes:
        reason = f"has label {labels[index]}, not 0 to {num_classes - 1}"
        raise _damaged(path, f"example {index} {reason}")
      progress.update()
  return Records(images, labels, np.array(ids, dtype=np.bytes_))


def _read_file(path: pathlib.Path, declared: int) -> list[bytes]:
  try:
    reader = array_record_module.ArrayRecordReader(str(path))
    records = reader.read_all()
    reader.close()
  except RuntimeError as error:
    raise _damaged(path, f"is truncated or damaged ({error})") from error
  if len(records) != declared:
    raise _damaged(
      path, f"holds {len(records)} examples, but {INFO_FILE} says {declared}"
    )
  return records


def _decode(png: bytes) -> np.ndarray:
  with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
    pixels = np.asarray(image)
  if pixels.shape != IMAGE_SHAPE or pixels.dtype != np.uint8:
    raise ValueError(f"image is {pixels.dtype} {list(pixels.shape)}, not uint8 32x32x3")
  return pixels
