"""Reads the two official CIFAR-10 archives, after checking that they are official.

Nothing is ever extracted: members are read by their exact names into memory.
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
  """What is published about an archive.

  Attributes:
    kind: `binary` or `python`.
    size: Bytes.
    algorithm: Of the checksum, a name in `hashlib`.
    checksum: Hexadecimal.
  """

  kind: str
  size: int
  algorithm: str
  checksum: str


# The binary archive's line is TFDS's own (url_checksums/cifar10.txt); for the python
# archive https://www.cs.toronto.edu/~kriz/cifar.html publishes an md5 and nothing else.
PUBLISHED = {
  "cifar-10-binary.tar.gz": Published(
    kind="binary",
    size=170_052_171,
    algorithm="sha256",
    checksum="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
  ),
  "cifar-10-python.tar.gz": Published(
    kind="python",
    size=170_498_071,
    algorithm="md5",
    checksum="c58f30108f718f92721af3b95e74349a",
  ),
}


@dataclasses.dataclass(frozen=True)
class Contents:
  """The images of an archive in their official order.

  Attributes:
    splits: `train` and `test`: images, uint8 `[n, 32, 32, 3]`, and labels, uint8 `[n]`.
    class_names: The name of each label, in order.
    downloaded_size: Bytes of the archive.
  """

  splits: dict[str, tuple[np.ndarray, np.ndarray]]
  class_names: list[str]
  downloaded_size: int


def read(path: pathlib.Path) -> Contents:
  """Returns what an official archive holds, binary or python.

  Raises:
    UserError: the file cannot be read or is not one of the official archives.
  """
  try:
    with path.open("rb") as file:
      published = _recognise(path, file)
      file.seek(0)
      splits, class_names = _READERS[published.kind](file)
  except UserError:  # which is a ValueError too
    raise
  except OSError as error:
    raise UserError(f"data.archive={path}: {error.strerror or error}.") from error
  except (tarfile.TarError, EOFError, KeyError, ValueError) as error:
    raise UserError(f"data.archive={path} is damaged ({error}).") from error
  except pickle.UnpicklingError as error:
    raise UserError(f"data.archive={path} is refused: {error}.") from error
  return Contents(splits, class_names, published.size)


def _recognise(path: pathlib.Path, file: BinaryIO) -> Published:
  size = file.seek(0, io.SEEK_END)
  for published in PUBLISHED.values():
    if published.size == size:
      file.seek(0)
      # md5 guards against damage here; nobody can forge a second file to a given md5.
      digest = hashlib.new(published.algorithm, usedforsecurity=False)
      while chunk := file.read(1 << 20):
        digest.update(chunk)
      if digest.hexdigest() == published.checksum:
        return published
  accepted = " or ".join(
    f"{name} ({published.size} bytes, {published.algorithm} {published.checksum})"
    for name, published in PUBLISHED.items()
  )
  raise UserError(
    f"data.archive={path} ({size} bytes) is not an official CIFAR-10 archive; accepted"
    f" is {accepted}. Download it again."
  )


def _members(file: BinaryIO, folder: str, names: list[str]) -> dict[str, bytes]:
  """Returns the named files of a folder in the archive, in one pass over it."""
  found = {}
  with tarfile.open(fileobj=file, mode="r:gz") as archive:
    for member in archive:
      name = member.name.removeprefix(f"{folder}/")
      if name in names and name != member.name and member.isfile():
        opened = archive.extractfile(member)
        assert opened is not None, "a regular member can be opened"
        found[name] = opened.read()
  missing = [name for name in names if name not in found]
  if missing:
    raise KeyError(f"no {folder}/{missing[0]} in it")
  return found


def _images(rows: np.ndarray) -> np.ndarray:
  """Returns `[n, 32, 32, 3]` from rows of three planes each, red, green and blue."""
  height, width, channels = IMAGE_SHAPE
  return rows.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)


_Splits = dict[str, tuple[np.ndarray, np.ndarray]]
_BATCHES = {
  "train": [f"data_batch_{number}" for number in range(1, 6)],
  "test": ["test_batch"],
}


def _read_binary(file: BinaryIO) -> tuple[_Splits, list[str]]:
  """Reads rows of a label byte and 3072 pixel bytes."""
  names = [f"{batch}.bin" for batches in _BATCHES.values() for batch in batches]
  members = _members(file, "cifar-10-batches-bin", [*names, "batches.meta.txt"])
  splits = {}
  for split, batches in _BATCHES.items():
    content = b"".join(members[f"{batch}.bin"] for batch in batches)
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3072)
    splits[split] = (_images(rows[:, 1:]), rows[:, 0])
  return splits, members["batches.meta.txt"].decode("ascii").split()


def _read_python(file: BinaryIO) -> tuple[_Splits, list[str]]:
  """Reads pickled dictionaries of `data` and `labels`, written by Python 2."""
  names = [batch for batches in _BATCHES.values() for batch in batches]
  members = _members(file, "cifar-10-batches-py", [*names, "batches.meta"])
  splits = {}
  for split, batches in _BATCHES.items():
    loaded = [_unpickle(members[batch]) for batch in batches]
    rows = np.concatenate([batch[b"data"] for batch in loaded])
    labels = np.concatenate([np.array(batch[b"labels"], np.uint8) for batch in loaded])
    splits[split] = (_images(rows), labels)
  meta = _unpickle(members["batches.meta"])
  return splits, [name.decode("ascii") for name in meta[b"label_names"]]


_READERS = {"binary": _read_binary, "python": _read_python}


def _dtype(name: bytes, align: int, copy: int) -> np.dtype:
  # Python 2 wrote 0 and 1, which NumPy 2.4 warns about.
  return np.dtype(name.decode("ascii"), align=bool(align), copy=bool(copy))


# All that the official batches name. `_reconstruct` has moved between NumPy's modules;
# an array itself knows where it is.
_ALLOWED = {
  ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
  ("numpy", "ndarray"): np.ndarray,
  ("numpy", "dtype"): _dtype,
}


class _Unpickler(pickle.Unpickler):
  """Builds dictionaries, lists, strings, numbers and arrays, and nothing else."""

  def find_class(self, module: str, name: str) -> Any:
    try:
      return _ALLOWED[module, name]
    except KeyError:
      raise pickle.UnpicklingError(f"its pickle asks for {module}.{name}") from None


def _unpickle(content: bytes) -> dict[bytes, Any]:
  return _Unpickler(io.BytesIO(content), encoding="bytes").load()
