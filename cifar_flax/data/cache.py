"""Keeps decoded datasets in the user's cache folder: decoding takes seconds.

One uncompressed npz file per dataset, named by the hash of the dataset's files, with
the fingerprint of its examples. Its members carry checksums, and nothing in it is
executed.
"""

import contextlib
import logging
import os
import pathlib
import tempfile

import numpy as np

from cifar_flax import caches
from cifar_flax.data.records import Records

FOLDER = "data"  # of `caches.private_folder`
_FIELDS = ("images", "labels", "ids")


def load(
  key: str, counts: dict[str, int], num_classes: int
) -> tuple[dict[str, Records], str] | None:
  """Returns the cached splits and their fingerprint, or None.

  There is nothing to return where nothing is cached, or it is damaged.

  Args:
    key: Which dataset.
    counts: The number of examples each split must have.
    num_classes: The labels are below it.
  """
  try:
    path = caches.private_folder(FOLDER) / f"{key}.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
      fingerprint = str(arrays["fingerprint"])
      splits = {
        name: Records(*(arrays[f"{name}/{field}"] for field in _FIELDS))
        for name in counts
      }
  except OSError:
    return None
  except Exception as error:  # damage makes zipfile and NumPy fail in many ways
    logging.warning("Rebuilding the damaged cache file %s (%s).", path, error)
    return None
  if not all(splits[name].fits(count, num_classes) for name, count in counts.items()):
    logging.warning("Rebuilding the damaged cache file %s (wrong arrays).", path)
    return None
  return splits, fingerprint


def store(key: str, splits: dict[str, Records], fingerprint: str) -> None:
  """Writes both atomically; where that is impossible, warns and goes on."""
  arrays = {"fingerprint": np.array(fingerprint)} | {
    f"{name}/{field}": getattr(records, field)
    for name, records in splits.items()
    for field in _FIELDS
  }
  try:
    _write(caches.private_folder(FOLDER) / f"{key}.npz", arrays)
  except OSError as error:
    logging.warning("Going on without a cache of the decoded images (%s).", error)


def _write(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
  descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".incomplete")
  try:
    with os.fdopen(descriptor, "wb") as file:
      np.savez(file, allow_pickle=False, **arrays)
    os.replace(temporary, path)
  finally:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(temporary)
