"""Loads datasets from TFDS's files into NumPy arrays, without TensorFlow.

dataset = datasets.load(config.data)
dataset.train.images  # uint8 [n, 32, 32, 3]
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cifar_flax import places, registry
from cifar_flax.config import Data
from cifar_flax.data import cache, records
from cifar_flax.errors import UserError

# These splits are always decoded; others only if a split string names them.
_USUAL = ("train", "test")


@dataclasses.dataclass(frozen=True)
class Split:
  """Images and labels of a split, sorted by TFDS's `id` feature.

  Attributes:
    images: uint8 `[examples, 32, 32, 3]`.
    labels: int32 `[examples]`, counted from 0.
  """

  images: np.ndarray
  labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Info:
  """Identifies the data that were loaded.

  Attributes:
    name: The dataset's name in TFDS.
    version: Its version in TFDS.
    download_size: Bytes of the official files it was prepared from; 0 if unknown.
    fingerprint: sha256 of all examples in their order on disk, in hexadecimal.
    class_names: The class names, in the order of the labels.
  """

  name: str
  version: str
  download_size: int
  fingerprint: str
  class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Dataset:
  """The training split, the evaluation split and the identity of the data.

  Attributes:
    train: The images that are trained on.
    eval: The images that are evaluated.
    info: What they were read from.
    common: How many of the evaluated images are trained on too.
    repeated: How many images the split strings name more than once each, in total.
  """

  train: Split
  eval: Split
  info: Info
  common: int = 0
  repeated: int = 0


def load(config: Data) -> Dataset:
  """Returns the configured dataset, preparing it first if necessary.

  Args:
    config: The `data` part of a run's config.

  Raises:
    UserError: the dataset cannot be found, downloaded or read, or a split string is
      invalid or selects no examples.
  """
  with _located(config) as folder:
    return _load(config, folder)


def _load(config: Data, folder: pathlib.Path) -> Dataset:
  source = registry.DATASETS.get(config.dataset)
  builder = records.open_folder(folder, source.num_classes if source else None)
  # Parsed before the slow decoding, so that a mistyped split fails at once.
  positions = {
    field: _positions(field, spec, builder.info.splits)
    for field, spec in _split_strings(config).items()
  }
  known = builder.info.splits
  asked = {name for parts in positions.values() for name, _ in parts}
  names = [name for name in known if name in asked or name in _USUAL]
  more = "".join(f"+{name}" for name in names if name not in _USUAL)
  key = records.hash_files(folder, builder) + more
  num_classes = builder.info.features["label"].num_classes
  cached = cache.load(key, {n: known[n].num_examples for n in names}, num_classes)
  if cached is None:
    splits = records.read(builder, names)
    # Covers only `_USUAL`, so that it does not depend on the split strings.
    usual = {name: splits[name] for name in names if name in _USUAL}
    fingerprint = records.fingerprint(usual or splits)
    cache.store(key, splits, fingerprint)
  else:
    splits, fingerprint = cached
  train, evaluation = (_take(splits, chosen) for chosen in positions.values())
  info = Info(
    name=builder.info.name,
    version=str(builder.info.version),
    download_size=int(builder.info.download_size),
    fingerprint=fingerprint,
    class_names=tuple(builder.info.features["label"].names),
  )
  by_content = config.dataset.startswith(registry.FOLDER)
  pair = [_identities(splits, chosen, by_content) for chosen in positions.values()]
  common = int(np.isin(pair[1], pair[0]).sum())
  if by_content:  # a folder may hold a picture twice
    pair = [_identities(splits, chosen, False) for chosen in positions.values()]
  repeated = sum(len(each) - len(np.unique(each)) for each in pair)
  return Dataset(train, evaluation, info, common, repeated)


@contextlib.contextmanager
def _located(config: Data) -> Iterator[pathlib.Path]:
  """Yields the folder of the prepared dataset, preparing it first if necessary.

  Copies of folders of pictures are bounded; this one is kept until the context ends.
  """
  folder = _locate(config)
  if not config.dataset.startswith(registry.FOLDER):
    yield folder
    return
  from cifar_flax.data.sources import preparing

  while True:
    with preparing.in_use(folder) as exists:
      if exists:
        preparing.tidy_copies(folder.parents[1])
        yield folder
        return
    folder = _locate(config)  # another process has just deleted it


def _locate(config: Data) -> pathlib.Path:
  """Returns the folder of the prepared dataset, preparing it first if necessary."""
  data_dir, what = _data_dir(config)
  # Builders are imported only here, because a prepared dataset does not need them.
  if config.dataset.startswith(registry.FOLDER):
    from cifar_flax.data.sources import folders

    _check_place(data_dir, data_dir, what)
    given = config.dataset.removeprefix(registry.FOLDER)
    path = places.expanded(given, "data.dataset=folder:PATH with PATH")
    for field, spec in _split_strings(config).items():
      _parse(field, spec)
    return folders.locate(path, data_dir, functools.partial(_check_splits, config))
  source = registry.DATASETS.get(config.dataset)
  if source is None:
    raise UserError(
      f"data.dataset={config.dataset!r} is unknown; it must be one of"
      f" {', '.join(registry.DATASETS)} or {registry.FOLDER}PATH."
    )
  folder = data_dir / config.dataset / source.version
  for level in (data_dir, folder.parent, folder):
    _check_place(level, data_dir, what)
  if not (folder / records.INFO_FILE).is_file():
    _check_level(folder, data_dir, what)
    _check_splits(config, source.splits)
    registry.lookup(source.prepare)(folder, config.archive)
  return folder


def _data_dir(config: Data) -> tuple[pathlib.Path, str]:
  """Returns TFDS's data folder, and the key or variable that a message should name."""
  what, given = "data.data_dir", config.data_dir
  if not given and os.environ.get("TFDS_DATA_DIR"):
    what, given = "TFDS_DATA_DIR", os.environ["TFDS_DATA_DIR"]
  try:
    path = places.expanded(given or "~/tensorflow_datasets", what)
  except UserError as error:
    if given:
      raise
    raise UserError(f"{error}, or set TFDS_DATA_DIR") from None
  return pathlib.Path(path).absolute(), what


def _check_place(path: pathlib.Path, data_dir: pathlib.Path, what: str) -> None:
  """Checks that a path is a folder that can be read, or that nothing is there.

  Raises:
    UserError: a folder above it cannot be entered, it cannot be read itself, or it is a
      file or a link to nothing.
  """
  for parent in reversed(path.parents):
    if os.path.isdir(parent) and not os.access(parent, os.X_OK):
      raise UserError(f"{what}={data_dir}: you have no permission to enter {parent}.")
  if os.path.isdir(path):
    if not os.access(path, os.R_OK | os.X_OK):
      raise UserError(
        f"{what}={data_dir}: you have no permission to read {path}. Change its mode, or"
        " set data.data_dir to another folder."
      )
  elif os.path.islink(path) and not os.path.exists(path):
    raise UserError(
      f"{what}={data_dir}: {path} is a link to {os.readlink(path)}, which does not"
      " exist. Mount or create it, or set data.data_dir to another folder."
    )
  elif os.path.lexists(path):
    raise UserError(
      f"{what}={data_dir}: {path} is a file; data.data_dir must be the folder in which"
      " datasets are prepared, such as ~/tensorflow_datasets."
    )


def _check_level(folder: pathlib.Path, data_dir: pathlib.Path, what: str) -> None:
  """Checks that the data folder is not one below or above the one that is meant.

  Raises:
    UserError: it is the folder of a dataset or of a version, or holds a folder
      `tensorflow_datasets` in which the dataset is prepared.
  """
  inner = data_dir / "tensorflow_datasets"
  if (inner / folder.relative_to(data_dir) / records.INFO_FILE).is_file():
    right = inner
  elif (data_dir / records.INFO_FILE).is_file():
    right = data_dir.parents[1]
  elif any(data_dir.glob(f"[0-9]*.[0-9]*.[0-9]*/{records.INFO_FILE}")):
    right = data_dir.parent
  else:
    return
  raise UserError(
    f"{what}={data_dir}: {folder.parent.name} is not prepared there, and {right} looks"
    f" like the folder that is meant. Set {what} to {right}."
  )


def _split_strings(config: Data) -> dict[str, str]:
  """Returns the split strings by key."""
  return {
    "data.train_split": config.train_split,
    "data.eval_split": config.eval_split,
  }


def _parse(field: str, spec: str, splits: Any = None) -> Any:
  """Parses a split string; with TFDS's `splits`, looks up its splits as well.

  Raises:
    UserError: the string is malformed, or names a split or examples that do not exist.
  """
  try:
    parsed = tfds.core.ReadInstruction.from_spec(spec)
    return parsed if splits is None else parsed.to_absolute(splits)
  except Exception as error:  # TFDS's parser raises many exception types
    reason = " ".join(str(error).split())
    raise UserError(
      f"{field}={spec!r} is not a TFDS split: {reason} Valid examples are train,"
      " train[:45000], train[10%:] and train[45000:]+test."
    ) from error


def _check_splits(config: Data, examples: Mapping[str, int]) -> None:
  """Checks the split strings before a dataset is downloaded and prepared.

  Args:
    config: Has the split strings.
    examples: The number of examples of each split.

  Raises:
    UserError: as `_positions` does.
  """
  known = [
    tfds.core.SplitInfo(name=name, shard_lengths=[number], num_bytes=0)
    for name, number in examples.items()
  ]
  for field, spec in _split_strings(config).items():
    _positions(field, spec, tfds.core.splits.SplitDict(known))


def _positions(field: str, spec: str, splits: Any) -> list[tuple[str, slice]]:
  """Returns the split names and on-disk slices that a split string selects.

  Raises:
    UserError: the string is malformed, names a split or examples that do not exist, or
      selects no examples.
  """
  parts = []
  for part in _parse(field, spec, splits):
    start = 0 if part.from_ is None else part.from_
    stop = splits[part.splitname].num_examples if part.to is None else part.to
    if start < stop:  # not so in train[9:3]
      parts.append((part.splitname, slice(start, stop)))
  if not parts:
    raise UserError(f"{field}={spec!r} selects no examples; at least one is needed.")
  return parts


def _identities(
  splits: dict[str, records.Records],
  parts: list[tuple[str, slice]],
  by_content: bool,
) -> np.ndarray:
  """Returns a number for each chosen example, equal only for the same example.

  Args:
    splits: All examples.
    parts: The chosen ones.
    by_content: Whether examples with the same pixels are the same.
  """
  starts = np.cumsum([0, *(len(split.labels) for split in splits.values())])
  first = dict(zip(splits, starts.tolist(), strict=False))
  found = []
  for name, part in parts:
    if by_content:
      pixels = splits[name].images[part]
      digests = [hashlib.sha256(image.tobytes()).digest()[:8] for image in pixels]
      found.append(np.frombuffer(b"".join(digests), np.int64))
    else:
      found.append(first[name] + np.arange(part.start, part.stop))
  return np.concatenate(found)


def _take(splits: dict[str, records.Records], parts: list[tuple[str, slice]]) -> Split:
  def joined(field: str) -> np.ndarray:
    pieces = [getattr(splits[name], field)[part] for name, part in parts]
    # A single piece stays a view: copying the images would delay the start noticeably.
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

  order = np.argsort(joined("ids"), kind="stable")
  return Split(np.take(joined("images"), order, axis=0), joined("labels")[order])
