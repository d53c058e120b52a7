"""Atomic file writes, and errors that name the file they are about."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from cifar_flax.errors import UserError


@contextlib.contextmanager
def name_in_errors(path: str | os.PathLike) -> Iterator[None]:
  """Adds `path` to any OSError raised inside, as that of a full disk names no file."""
  try:
    yield
  except OSError as error:
    reason = error.strerror or str(error) or type(error).__name__
    raise OSError(error.errno, reason, os.fspath(path)) from error


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a JSON object.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: it cannot be read, or holds something else.
  """
  try:
    content = json.loads(path.read_bytes())
  except FileNotFoundError:
    raise
  except (OSError, ValueError, RecursionError) as error:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    raise UserError(f"{path}: damaged ({reason})") from None
  if not isinstance(content, dict):
    raise UserError(f"{path}: damaged (it does not hold an object)")
  return content


def read_json_lines(path: pathlib.Path) -> list[Any]:
  """Reads a file with a JSON value per line, as far as its lines are complete.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: it cannot be read, or a line is not JSON.
  """
  try:
    complete = path.read_bytes().decode().split("\n")[:-1]
    return [json.loads(line) for line in complete]
  except FileNotFoundError:
    raise
  except (OSError, ValueError, RecursionError) as error:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    raise UserError(f"{path}: damaged ({reason})") from None


def check_types(path: pathlib.Path, content: Any, types: dict[str, Any]) -> None:
  """Raises UserError, naming the file, if a key is missing or has another type."""
  for key, kind in types.items():
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, kind):
      words = repr(value) if key in content else "missing"
      raise UserError(f"{path}: damaged ({key} is {words})")


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
