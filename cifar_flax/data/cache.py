"""Caches decoded datasets in the user's cache folder, because decoding takes seconds.

Each dataset is one uncompressed npz file, named after the hash of the dataset's files.
It holds the arrays and the fingerprint of the examples. The zip format checks each
member's checksum on reading, and nothing is unpickled.
"""

import contextlib
import logging
import os

import numpy as np

from cifar_flax import caches
from cifar_flax.data.records import Records

_FIELDS = ("images", "labels", "ids")


def load(
  key: str, counts: dict[str, int], num_classes: int
) -> tuple[dict[str, Records], str] | None:
  """Returns the cached splits and their fingerprint.

  Returns None if the dataset is not cached or its cache file is damaged.

  Args:
    key: The hash that `store` was given.
    counts: The number of examples that each split must have.
    num_classes: The number of classes; every label must be below it.
  """
  try:
    caches.tidy(caches.DATA)
    path = caches.private_folder(caches.DATA) / f"{key}.npz"
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
  with contextlib.suppress(OSError):
    os.utime(path)  # many file systems record at most one time of reading per day
  return splits, fingerprint


def store(key: str, splits: dict[str, Records], fingerprint: str) -> None:
  """Writes the splits and their fingerprint atomically; logs a warning if it cannot."""
  arrays = {"fingerprint": np.array(fingerprint)} | {
    f"{name}/{field}": getattr(records, field)
    for name, records in splits.items()
    for field in _FIELDS
  }
  try:
    path = caches.private_folder(caches.DATA) / f"{key}.npz"
    caches.write(path, lambda file: np.savez(file, allow_pickle=False, **arrays))
  except OSError as error:
    caches.warn("the decoded images", error)
  caches.tidy(caches.DATA)
