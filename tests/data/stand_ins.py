"""Makes archives of a few random images in the official archives' formats."""

import dataclasses
import io
import pathlib
import pickle
import struct
import tarfile
import types
from typing import Any

import numpy as np

CLASS_NAMES = (
  "airplane",
  "automobile",
  "bird",
  "cat",
  "deer",
  "dog",
  "frog",
  "horse",
  "ship",
  "truck",
)
NUM_TRAIN, NUM_TEST = 60, 20


@dataclasses.dataclass(frozen=True)
class Pixels:
  """The images and labels of an archive, in order."""

  train: np.ndarray
  train_labels: np.ndarray
  test: np.ndarray
  test_labels: np.ndarray

  def batches(self):
    """Yields name, images and labels of each of the six batches."""
    for number in range(5):
      part = slice(number * NUM_TRAIN // 5, (number + 1) * NUM_TRAIN // 5)
      yield f"data_batch_{number + 1}", self.train[part], self.train_labels[part]
    yield "test_batch", self.test, self.test_labels


def tar_gz(path: pathlib.Path, members: dict[str, bytes]) -> pathlib.Path:
  with tarfile.open(path, "w:gz") as archive:
    for name, content in members.items():
      header = tarfile.TarInfo(name)
      header.size = len(content)
      archive.addfile(header, io.BytesIO(content))
  return path


def planes(images: np.ndarray) -> np.ndarray:
  """Returns rows of 1024 red, 1024 green and 1024 blue values."""
  return np.stack([images[..., channel].reshape(-1, 1024) for channel in range(3)], 1)


def binary_members(pixels: Pixels) -> dict[str, bytes]:
  members = {"cifar-10-batches-bin/batches.meta.txt": "\n".join(CLASS_NAMES) + "\n\n"}
  members = {name: text.encode() for name, text in members.items()}
  for name, images, labels in pixels.batches():
    rows = [
      bytes([label]) + row.tobytes()
      for label, row in zip(labels, planes(images), strict=True)
    ]
    members[f"cifar-10-batches-bin/{name}.bin"] = b"".join(rows)
  return members


PurePickler: Any = pickle._Pickler  # type: ignore  # the C pickler has no `dispatch` to extend


def binary_members_100(pixels: Pixels) -> dict[str, bytes]:
  """Returns cifar100 members whose labels are 7 times the labels in `pixels`.

  The coarse labels are the labels in `pixels`.
  """
  members = {
    "coarse_label_names.txt": "\n".join(f"group_{i}" for i in range(20)).encode(),
    "fine_label_names.txt": "\n".join(f"kind_{i}" for i in range(100)).encode(),
  }
  parts = {"train": (pixels.train, pixels.train_labels)}
  parts["test"] = pixels.test, pixels.test_labels
  for split, (images, labels) in parts.items():
    rows = [
      bytes([label, 7 * label]) + row.tobytes()
      for label, row in zip(labels, planes(images), strict=True)
    ]
    members[f"{split}.bin"] = b"".join(rows)
  return {f"cifar-100-binary/{name}": content for name, content in members.items()}


class Python2Pickler(PurePickler):
  """Pickles like Python 2's cPickle: bytes as strings, and NumPy's old module names."""

  dispatch = dict(PurePickler.dispatch)

  def save_string(self, value):
    self.write(b"T" + struct.pack("<i", len(value)) + value)
    self.memoize(value)

  dispatch[bytes] = save_string

  def save_dtype(self, value):
    assert value == np.uint8
    self.write(b"cnumpy\ndtype\n")
    self.save((b"u1", 0, 1))
    self.write(b"R")
    self.save((3, b"|", None, None, None, -1, -1, 0))
    self.write(b"b")

  def save_array(self, value):
    self.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n")
    self.save((0,))
    self.save(b"b")
    self.write(b"\x87R(")
    for part in (1, value.shape):
      self.save(part)
    self.save_dtype(value.dtype)
    for part in (False, value.tobytes()):
      self.save(part)
    self.write(b"tb")

  dispatch[np.ndarray] = save_array


def python2_pickle(value) -> bytes:
  file = io.BytesIO()
  Python2Pickler(file, protocol=2).dump(value)
  return file.getvalue()


def python_members(pixels: Pixels) -> dict[str, bytes]:
  meta = {b"label_names": [name.encode() for name in CLASS_NAMES], b"num_vis": 3072}
  members = {"cifar-10-batches-py/batches.meta": python2_pickle(meta)}
  for name, images, labels in pixels.batches():
    batch = {
      b"batch_label": name.encode(),
      b"labels": labels.tolist(),
      b"data": np.ascontiguousarray(planes(images).reshape(-1, 3072)),
      b"filenames": [b"leptodactylus_pentadactylus_s_000004.png"] * len(labels),
    }
    members[f"cifar-10-batches-py/{name}"] = python2_pickle(batch)
  return members


def make_config(**values) -> Any:
  splits = {"train_split": "train", "eval_split": "test"}
  defaults = {"dataset": "cifar10", "data_dir": "", "archive": "", **splits}
  return types.SimpleNamespace(**{**defaults, **values})
