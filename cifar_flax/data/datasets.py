"""Loads a data set through TFDS into two arrays, without TensorFlow.

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

# What is read where the split strings do not ask for more.
_USUAL = ("train", "test")


@dataclasses.dataclass(frozen=True)
class Split:
  """Images and labels, sorted by TFDS's `id` feature.

  Attributes:
    images: uint8 `[examples, 32, 32, 3]`.
    labels: int32 `[examples]`, from 0 on.
  """

  images: np.ndarray
  labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Info:
  """Which data these are.

  Attributes:
    name: The dataset's name in TFDS.
    version: Its version in TFDS.
    download_size: Bytes of the official archive it was prepared from, 0 if unknown.
    fingerprint: sha256 of all examples in their order on disk, in hexadecimal.
    class_names: The name of each label, in order.
  """

  name: str
  version: str
  download_size: int
  fingerprint: str
  class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Dataset:
  """What a run trains on, what it is evaluated on, and where both come from."""

  train: Split
  eval: Split
  info: Info


def load(config: Data) -> Dataset:
  """Returns the configured dataset, preparing it first where it is not there yet.

  Args:
    config: A run's `config.data`.

  Raises:
    UserError: the dataset cannot be found, fetched or read, or a split is impossible.
  """
  folder = _locate(config)
  source = registry.DATASETS.get(config.dataset)
  builder = records.open_folder(folder, source.num_classes if source else None)
  # Before the slow part, so that a mistyped split is refused at once.
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
    # Of what is always read, so that it is the same whatever the split strings name.
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
  """Returns the folder of the prepared dataset, preparing it where there is none."""
  given = config.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  data_dir = pathlib.Path(given).expanduser().absolute()
  # Imported late: a prepared dataset needs none of the builders.
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
  """Returns which part of which split, in the order on disk, a split string means."""
  starts = {}
  for name, split in builder.info.splits.items():
    offsets = np.cumsum([0, *split.shard_lengths])
    for path, offset in zip(split.filepaths, offsets, strict=False):
      starts[os.fspath(path)] = (name, int(offset))
  try:
    instructions = builder.info.splits[spec].file_instructions
  except Exception as error:  # whatever TFDS's parser raises, it is about this string
    reason = " ".join(str(error).split())
    raise UserError(
      f"{field}={spec!r} is no TFDS split: {reason} Write for example train,"
      " train[:45000], train[10%:] or train[45000:]+test."
    ) from error
  parts = []
  for instruction in instructions:
    name, start = starts[os.fspath(instruction.filename)]
    start += instruction.skip
    if instruction.take > 0:  # it is negative for train[9:3]
      parts.append((name, slice(start, start + instruction.take)))
  if not parts:
    raise UserError(f"{field}={spec!r} selects no examples; at least one is needed.")
  return parts


def _take(splits: dict[str, records.Records], parts: list[tuple[str, slice]]) -> Split:
  def joined(field: str) -> np.ndarray:
    pieces = [getattr(splits[name], field)[part] for name, part in parts]
    # One piece is a view, which spares the images a copy that shows when starting.
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

  order = np.argsort(joined("ids"), kind="stable")
  return Split(np.take(joined("images"), order, axis=0), joined("labels")[order])
