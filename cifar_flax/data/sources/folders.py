"""Prepares a folder of pictures as a TFDS dataset, for `data.dataset=folder:PATH`.

The pictures are PATH/CLASS/picture.png, or PATH/train/CLASS/picture.png and
PATH/test/CLASS/picture.png. They are PNGs and JPEGs of any size, which `pictures.read`
crops to a square and resizes.
"""

import functools
import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from cifar_flax.data import pictures, records
from cifar_flax.data.sources import preparing
from cifar_flax.errors import UserError

_VERSION = "1.0.0"
_Splits = dict[str, dict[str, list[pathlib.Path]]]  # split, class, pictures


class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Pictures of a folder, with a class for each of its subfolders."""

  VERSION = tfds.core.Version(_VERSION)

  def __init__(self, splits: _Splits, **kwargs: Any):
    """Takes what `find` returns, and the arguments of TFDS's builder as `kwargs`."""
    self._splits = splits
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return preparing.describe(self, list(self._splits["train"]))

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager  # nothing to download
    return {split: self._generate_examples(split) for split in self._splits}

  def _generate_examples(self, split: str) -> Iterator:
    names = list(self._splits["train"])
    found = [(n, path) for n, paths in self._splits[split].items() for path in paths]
    for name, path in tqdm(found, f"reading {split}", disable=None):
      key = f"{name}/{path.name}"
      image = preparing.png(pictures.read(path))
      yield key, {"id": key, "image": image, "label": names.index(name)}


def locate(path: str, data_dir: pathlib.Path) -> pathlib.Path:
  """Returns the prepared copy of a folder's current content, preparing it if necessary.

  Args:
    path: The folder with the pictures.
    data_dir: TFDS's data folder, in which the copy is prepared.

  Raises:
    UserError: the folder does not have the required structure, a picture cannot be
      read, or the copy cannot be written.
  """
  root = pathlib.Path(path).expanduser()
  splits = find(root)
  name = f"folder_{_state(splits)[:16]}"
  folder = data_dir / name / _VERSION
  if not (folder / records.INFO_FILE).is_file():
    builder = type("Named", (Pictures,), {"name": name}, skip_registration=True)
    make = functools.partial(builder, splits, data_dir=data_dir)
    preparing.prepare(folder, make)
  return folder


def find(root: pathlib.Path) -> _Splits:
  """Returns the pictures of a folder by split and class, sorted by name.

  Raises:
    UserError: there are fewer than two classes, a class of `test` is not in `train`, or
      TFDS cannot store a name.
  """
  where = f"data.dataset=folder:{root}"
  try:
    any(root.iterdir())  # raises an OSError if it is not a folder
    train, test = _classes(root / "train"), _classes(root / "test")
    if not train:  # PATH/train is absent, or is itself a class
      train, test = _classes(root), {}
  except OSError as error:
    raise UserError(
      f"{where}: {error.strerror or error}; it must be a folder with a subfolder of"
      " pictures for each class"
    ) from None
  if len(train) < 2:
    raise UserError(
      f"{where}: it has {len(train)} classes with pictures, but needs at least 2; it"
      " must have a subfolder of PNGs and JPEGs for each class"
    )
  for name in test:
    if name not in train:
      raise UserError(f"{where}: test has the class {name!r}, but train does not")
  for name, paths in (*train.items(), *test.items()):
    for text in (name, *(path.name for path in paths)):
      if not text.isprintable() or name != name.strip():
        raise UserError(f"{where}: TFDS cannot store the name {text!r}; rename it")
  return {"train": train, "test": test} if test else {"train": train}


def _classes(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  found: dict[str, list[pathlib.Path]] = {}
  if not folder.is_dir():
    return found
  for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
    paths = sorted(p for p in inner.iterdir() if p.suffix.lower() in pictures.SUFFIXES)
    if paths and not inner.name.startswith("."):
      found[inner.name] = paths
  return found


def _state(splits: _Splits) -> str:
  """Returns a hash of the pictures' names, sizes and modification times."""
  digest = hashlib.sha256()
  for split, classes in splits.items():
    for name, paths in classes.items():
      for path in paths:
        facts = path.stat()
        line = f"{split}/{name}/{path.name}\0{facts.st_size}\0{facts.st_mtime_ns}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
  return digest.hexdigest()
