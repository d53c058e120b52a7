"""Keeps decoded datasets in the user's cache folder: decoding takes seconds.

One uncompressed npz file per dataset, named by the hash of the dataset's files. Its
members carry checksums, and nothing in it is executed. The folder may be deleted at any
time.
"""

import contextlib
import logging
import os
import pathlib
import tempfile

import numpy as np

from cifar_flax.data.records import Records

_FIELDS = ("images", "labels", "ids")


def folder() -> pathlib.Path:
  """Returns the cache folder: `$XDG_CACHE_HOME` or `~/.cache`, then our own name."""
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(base).expanduser() / "cifar_flax" / "data"


def load(key: str, counts: dict[str, int]) -> dict[str, Records] | None:
  """Returns the cached splits, or None where there are none or they are damaged.

  Args:
    key: Which dataset.
    counts: The number of examples each split must have.
  """
  path = folder() / f"{key}.npz"
  try:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
      splits = {
        name: Records(*(arrays[f"{name}/{field}"] for field in _FIELDS))
        for name in counts
      }
  except OSError:
    return None
  except Exception as error:  # damage makes zipfile and NumPy fail in many ways
    logging.warning("Rebuilding the damaged cache file %s (%s).", path, error)
    return None
  if not all(splits[name].fits(count) for name, count in counts.items()):
    logging.warning("Rebuilding the damaged cache file %s (wrong arrays).", path)
    return None
  return splits


def store(key: str, splits: dict[str, Records]) -> None:
  """Writes the splits atomically; where that is impossible, warns and goes on."""
  arrays = {
    f"{name}/{field}": getattr(records, field)
    for name, records in splits.items()
    for field in _FIELDS
  }
  path = folder() / f"{key}.npz"
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    _write(path, arrays)
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
