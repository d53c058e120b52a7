"""Atomic file writes, and OSErrors that name the file they are about."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def name_in_errors(path: str | os.PathLike) -> Iterator[None]:
  """Adds `path` to any OSError raised inside, as that of a full disk names no file."""
  try:
    yield
  except OSError as error:
    reason = error.strerror or str(error) or type(error).__name__
    raise OSError(error.errno, reason, os.fspath(path)) from error


def write_atomically(path: pathlib.Path, data: bytes) -> None:
  """Replaces the content of `path`; after a crash it is the old or the new one, whole.

  Raises:
    OSError: writing failed; the error names `path`, whose content is unchanged.
  """
  temporary = path.with_name(f".{path.name}.tmp")
  try:
    with name_in_errors(path):
      with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
  except OSError:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)
    raise
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)


def remove_leftovers(folder: pathlib.Path) -> None:
  """Removes temporary files of `write_atomically` that a killed process left behind."""
  for temporary in folder.glob(".*.tmp"):
    temporary.unlink(missing_ok=True)
