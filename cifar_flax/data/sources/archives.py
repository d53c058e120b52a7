"""Reads the official CIFAR archives, after checking their size and checksum.

Nothing is extracted to disk: members are read into memory by their exact names.
"""

import dataclasses
import hashlib
import io
import pathlib
import pickle
import tarfile
from typing import Any, BinaryIO

import numpy as np

from cifar_flax.data.records import IMAGE_SHAPE
from cifar_flax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Published:
  """The published size and checksum of an archive.

  Attributes:
    dataset: The name of the dataset in it.
    kind: Its format, `binary` or `python`.
    size: Its size in bytes.
    algorithm: The checksum's algorithm, as `hashlib` names it.
    checksum: The checksum, hexadecimal.
  """

  dataset: str
  kind: str
  size: int
  algorithm: str
  checksum: str


# The values for the binary archives are TFDS's own (url_checksums/*.txt). For the
# python archive, https://www.cs.toronto.edu/~kriz/cifar.html publishes only an md5.
PUBLISHED = {
  "cifar-10-binary.tar.gz": Published(
    dataset="cifar10",
    kind="binary",
    size=170_052_171,
    algorithm="sha256",
    checksum="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
  ),
  "cifar-10-python.tar.gz": Published(
    dataset="cifar10",
    kind="python",
    size=170_498_071,
    algorithm="md5",
    checksum="c58f30108f718f92721af3b95e74349a",
  ),
  "cifar-100-binary.tar.gz": Published(
    dataset="cifar100",
    kind="binary",
    size=168_513_733,
    algorithm="sha256",
    checksum="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
  ),
}


def of(dataset: str) -> dict[str, Published]:
  """Returns a dataset's archives by file name; the first is the one that TFDS uses."""
  return {name: p for name, p in PUBLISHED.items() if p.dataset == dataset}


@dataclasses.dataclass(frozen=True)
class Contents:
  """The images of an archive in their official order.

  Attributes:
    splits: For `train` and `test`, the images, uint8 `[n, 32, 32, 3]`, and a dictionary
      of labels, uint8 `[n]`, keyed by TFDS's feature name.
    class_names: For each feature name, the class names in the order of the labels.
    downloaded_size: The size of the archive in bytes.
  """

  splits: dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]
  class_names: dict[str, list[str]]
  downloaded_size: int


def read(path: pathlib.Path, dataset: str) -> Contents:
  """Returns the contents of an official archive of a dataset, binary or python.

  Raises:
    UserError: the file cannot be read or is not one of the official archives.
  """
  try:
    with path.open("rb") as file:
      published = _recognise(path, file, dataset)
      file.seek(0)
      splits, class_names = _READERS[dataset, published.kind](file)
  except UserError:  # it is a ValueError, which the handlers below would wrap
    raise
  except OSError as error:
    raise UserError(f"data.archive={path}: {error.strerror or error}.") from error
  except (tarfile.TarError, EOFError, KeyError, ValueError) as error:
    raise UserError(f"data.archive={path} is damaged ({error}).") from error
  except pickle.UnpicklingError as error:
    raise UserError(f"data.archive={path} is not safe to read: {error}.") from error
  return Contents(splits, class_names, published.size)


def _recognise(path: pathlib.Path, file: BinaryIO, dataset: str) -> Published:
  size = file.seek(0, io.SEEK_END)
  for published in of(dataset).values():
    if published.size == size:
      file.seek(0)
      # An md5 suffices here: no attack makes a second file with the md5 of a given one.
      digest = hashlib.new(published.algorithm, usedforsecurity=False)
      while chunk := file.read(1 << 20):
        digest.update(chunk)
      if digest.hexdigest() == published.checksum:
        return published
  accepted = " or ".join(
    f"{name} ({published.size} bytes, {published.algorithm} {published.checksum})"
    for name, published in of(dataset).items()
  )
  raise UserError(
    f"data.archive={path} ({size} bytes) is not an official archive of {dataset}."
    f" Accepted: {accepted}. Download it again."
  )


def _members(file: BinaryIO, folder: str, names: list[str]) -> dict[str, bytes]:
  """Reads the named files of a folder in the archive, in one pass over the archive."""
  found = {}
  with tarfile.open(fileobj=file, mode="r:gz") as archive:
    for member in archive:
      name = member.name.removeprefix(f"{folder}/")
      if name in names and name != member.name and member.isfile():
        opened = archive.extractfile(member)
        assert opened is not None, "a regular member can always be opened"
        found[name] = opened.read()
  missing = [name for name in names if name not in found]
  if missing:
    raise ValueError(f"it does not contain {folder}/{missing[0]}")
  return found


def _images(rows: np.ndarray) -> np.ndarray:
  """Converts rows of a red, a green and a blue plane to images `[n, 32, 32, 3]`."""
  height, width, channels = IMAGE_SHAPE
  return rows.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)


_Splits = dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]
_Names = dict[str, list[str]]
_BATCHES = {
  "train": [f"data_batch_{number}" for number in range(1, 6)],
  "test": ["test_batch"],
}


def _binary(
  file: BinaryIO,
  folder: str,
  batches: dict[str, list[str]],
  labels: dict[str, str],
) -> tuple[_Splits, _Names]:
  """Reads a binary archive, whose rows are label bytes followed by 3072 pixel bytes.

  Args:
    file: The archive.
    folder: The folder in the archive that holds the files.
    batches: The file names of each split.
    labels: For each label feature, in the order of the label bytes, the file with its
      class names.
  """
  names = [name for split in batches.values() for name in split]
  members = _members(file, folder, [*names, *labels.values()])
  splits = {}
  for split, parts in batches.items():
    content = b"".join(members[name] for name in parts)
    rows = np.frombuffer(content, np.uint8).reshape(-1, len(labels) + 3072)
    values = {feature: rows[:, i] for i, feature in enumerate(labels)}
    splits[split] = (_images(rows[:, len(labels) :]), values)
  words = {name: members[file].decode("ascii").split() for name, file in labels.items()}
  return splits, words


def _read_binary(file: BinaryIO) -> tuple[_Splits, _Names]:
  batches = {split: [f"{n}.bin" for n in names] for split, names in _BATCHES.items()}
  return _binary(file, "cifar-10-batches-bin", batches, {"label": "batches.meta.txt"})


def _read_binary_100(file: BinaryIO) -> tuple[_Splits, _Names]:
  batches = {split: [f"{split}.bin"] for split in ("train", "test")}
  labels = {"coarse_label": "coarse_label_names.txt", "label": "fine_label_names.txt"}
  return _binary(file, "cifar-100-binary", batches, labels)


def _read_python(file: BinaryIO) -> tuple[_Splits, _Names]:
  """Reads a python archive: dictionaries of `data` and `labels` pickled by Python 2."""
  names = [batch for batches in _BATCHES.values() for batch in batches]
  members = _members(file, "cifar-10-batches-py", [*names, "batches.meta"])
  splits: _Splits = {}
  for split, batches in _BATCHES.items():
    loaded = [_unpickle(members[batch]) for batch in batches]
    rows = np.concatenate([batch[b"data"] for batch in loaded])
    labels = np.concatenate([np.array(batch[b"labels"], np.uint8) for batch in loaded])
    splits[split] = (_images(rows), {"label": labels})
  meta = _unpickle(members["batches.meta"])
  return splits, {"label": [name.decode("ascii") for name in meta[b"label_names"]]}


_READERS = {
  ("cifar10", "binary"): _read_binary,
  ("cifar10", "python"): _read_python,
  ("cifar100", "binary"): _read_binary_100,
}


def _dtype(name: bytes, align: int, copy: int) -> np.dtype:
  # The pickles hold 0 and 1; NumPy 2.4 warns unless these are booleans.
  return np.dtype(name.decode("ascii"), align=bool(align), copy=bool(copy))


# Every global that the official pickles refer to. `_reconstruct` is taken from an
# array's `__reduce__`, because its module differs between NumPy versions.
_ALLOWED = {
  ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
  ("numpy", "ndarray"): np.ndarray,
  ("numpy", "dtype"): _dtype,
}


class _Unpickler(pickle.Unpickler):
  """Unpickles dictionaries, lists, strings, numbers and arrays, and nothing else."""

  def find_class(self, module: str, name: str) -> Any:
    try:
      return _ALLOWED[module, name]
    except KeyError:
      raise pickle.UnpicklingError(f"its pickle refers to {module}.{name}") from None


def _unpickle(content: bytes) -> dict[bytes, Any]:
  return _Unpickler(io.BytesIO(content), encoding="bytes").load()
