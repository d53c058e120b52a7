"""Checks the path of a file before the work whose result it will hold."""

import errno
import os
import pathlib

from cifar_flax.errors import UserError
from cifar_flax.run.files import name_in_errors, write_atomically


def check_png(flag: str, path: str) -> None:
  """Checks the path of a PNG, whose suffix must not promise another format.

  Raises:
    UserError: its suffix is neither .png nor absent.
    OSError: the file cannot be written.
  """
  suffix = pathlib.PurePath(path).suffix
  if suffix.lower() not in (".png", ""):
    raise UserError(f"{flag}={path!r}: a PNG is written; its name must end in .png")
  check(path)


def check(path: str) -> None:
  """Raises the OSError that writing a file would raise; leaves nothing behind."""
  existed = os.path.lexists(path)
  if existed and not os.path.isfile(path):
    if os.path.isdir(path):
      raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not os.path.islink(path):
      return  # a pipe or device, which opening could block or change
  with name_in_errors(path), open(path, "ab"):
    pass
  if not existed:
    os.unlink(path)


def write(path: str, data: bytes) -> None:
  """Writes a file, or what is there stays as it was; an OSError names it."""
  file = pathlib.Path(path)
  if file.is_file() or not os.path.lexists(path):
    write_atomically(file.resolve(), data)
    return
  with name_in_errors(path):  # a pipe or a device
    file.write_bytes(data)
