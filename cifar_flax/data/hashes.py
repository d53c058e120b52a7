"""Remembers the hashes of large files, because reading 1.6 GB takes seconds.

Each hash is a file in the user's cache folder. Its name is made of what changes when
the hashed file does, so that nothing there is ever out of date.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import time

from cifar_flax import caches

MIN_BYTES = 1 << 20  # smaller files are read faster than remembered
# A file that was changed less than this ago can change again without a new time.
_SETTLED_SECONDS = 2.0


def of_file(path: pathlib.Path) -> str:
  """Returns the sha256 of a file's content, hexadecimal, reading it at most once.

  It is read again if its path, size, inode or time of change is another.

  Raises:
    OSError: the file cannot be read.
  """
  status = path.stat()
  settled = time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED_SECONDS
  if status.st_size < MIN_BYTES or not settled:
    return _read(path)
  try:
    entry = caches.private_folder(caches.HASHES) / _name(path, status)
  except OSError:
    return _read(path)
  try:
    content = entry.read_text()
    if re.fullmatch("[0-9a-f]{64}", content):
      os.utime(entry)  # it is used: `caches.evict`
      return content
  except (OSError, ValueError):
    pass
  found = _read(path)
  if _name(path, path.stat()) == entry.name:
    with contextlib.suppress(OSError):
      caches.write(entry, lambda file: file.write(found.encode()))
    caches.tidy(caches.HASHES)
  return found


def _name(path: pathlib.Path, status: os.stat_result) -> str:
  facts = (
    os.path.realpath(path),
    status.st_dev,
    status.st_ino,
    status.st_size,
    status.st_mtime_ns,
    status.st_ctime_ns,
  )
  return hashlib.sha256(os.fsencode("\0".join(map(str, facts)))).hexdigest()


def _read(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
