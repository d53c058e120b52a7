"""Loads datasets from TFDS's files into NumPy arrays, without TensorFlow.

dataset = datasets.load(config.data)
dataset.train.images  # uint8 [n, 32, 32, 3]
"""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from cifar_flax import registry
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
  """The training split, the evaluation split and the identity of the data."""

  train: Split
  eval: Split
  info: Info


def load(config: Data) -> Dataset:
  """Returns the configured dataset, preparing it first if necessary.

  Args:
    config: The `data` part of a run's config.

  Raises:
    UserError: the dataset cannot be found, downloaded or read, or a split string is
      invalid or selects no examples.
  """
  folder = _locate(config)
  source = registry.DATASETS.get(config.dataset)
  builder = records.open_folder(folder, source.num_classes if source else None)
  # Parsed before the slow decoding, so that a mistyped split fails at once.
  positions = {
    field: _positions(field, spec, builder)
    for field, spec in (
      ("data.train_split", config.train_split or "train"),
      ("data.eval_split", config.eval_split or "test"),
    )
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
  return Dataset(train, evaluation, info)


def _locate(config: Data) -> pathlib.Path:
  """Returns the folder of the prepared dataset, preparing it first if necessary."""
  given = config.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  data_dir = pathlib.Path(given).expanduser().absolute()
  # Builders are imported only here, because a prepared dataset does not need them.
  if config.dataset.startswith(registry.FOLDER):
    from cifar_flax.data.sources import folders

    return folders.locate(config.dataset.removeprefix(registry.FOLDER), data_dir)
  source = registry.DATASETS.get(config.dataset)
  if source is None:
    raise UserError(
      f"data.dataset={config.dataset!r} is unknown; it must be one of"
      f" {', '.join(registry.DATASETS)} or {registry.FOLDER}PATH."
    )
  folder = data_dir / config.dataset / source.version
  if not (folder / records.INFO_FILE).is_file():
    registry.lookup(source.prepare)(folder, config.archive)
  return folder


def _positions(field: str, spec: str, builder: Any) -> list[tuple[str, slice]]:
  """Returns the split names and on-disk slices that a split string selects."""
  starts = {}
  for name, split in builder.info.splits.items():
    offsets = np.cumsum([0, *split.shard_lengths])
    for path, offset in zip(split.filepaths, offsets, strict=False):
      starts[os.fspath(path)] = (name, int(offset))
  try:
    instructions = builder.info.splits[spec].file_instructions
  except Exception as error:  # TFDS's parser raises many exception types
    reason = " ".join(str(error).split())
    raise UserError(
      f"{field}={spec!r} is not a TFDS split: {reason} Valid examples are train,"
      " train[:45000], train[10%:] and train[45000:]+test."
    ) from error
  parts = []
  for instruction in instructions:
    name, start = starts[os.fspath(instruction.filename)]
    start += instruction.skip
    if instruction.take > 0:  # TFDS returns a negative `take` for train[9:3]
      parts.append((name, slice(start, start + instruction.take)))
  if not parts:
    raise UserError(f"{field}={spec!r} selects no examples; at least one is needed.")
  return parts


def _take(splits: dict[str, records.Records], parts: list[tuple[str, slice]]) -> Split:
  def joined(field: str) -> np.ndarray:
    pieces = [getattr(splits[name], field)[part] for name, part in parts]
    # A single piece stays a view: copying the images would delay the start noticeably.
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

  order = np.argsort(joined("ids"), kind="stable")
  return Split(np.take(joined("images"), order, axis=0), joined("labels")[order])
