"""Files that are written whole or not at all, and errors that name them."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
  """Puts `path` into an OSError: a full disk's own names no file."""
  try:
    yield
  except OSError as error:
    reason = error.strerror or str(error) or type(error).__name__
    raise OSError(error.errno, reason, os.fspath(path)) from error


def write_atomically(path: pathlib.Path, data: bytes) -> None:
  """Replaces `path` by `data`: after a crash it holds the old bytes or the new ones.

  Raises:
    OSError: names `path`, which holds the old bytes.
  """
  temporary = path.with_name(f".{path.name}.tmp")
  try:
    with naming(path):
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
  """Removes what a process that was killed has not finished writing."""
  for temporary in folder.glob(".*.tmp"):
    temporary.unlink(missing_ok=True)
