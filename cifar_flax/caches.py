"""Cache folders of the user: decoded images, hashes of files and compiled programs.

Each is bounded by `MAX_BYTES`. They may be deleted at any time. JAX itself reads and
writes the compiled programs; in a distributed run, every process reads them and process
0 writes them. JAX's key for a program covers versions, XLA flags, devices and the
processor's instruction set. A cached program is code that will be executed, so its
folder is used only if no other user can write to it.
"""

import contextlib
import functools
import logging
import os
import pathlib
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, NamedTuple

COMPILED = "compiled"
DATA = "data"
HASHES = "hashes"
# The most that each folder keeps; the least recently used files are deleted first.
MAX_BYTES = {
  COMPILED: 256 << 20,  # several hundred programs; net6b on a CPU needs under 1 MB
  DATA: 2 << 30,  # decoded images; CIFAR-10 needs 185 MB, SVHN with `extra` 1.9 GB
  HASHES: 64 << 10,  # a thousand
}
TEMPORARY = ".incomplete"  # suffix of a file that is being written
MAX_TEMPORARY_SECONDS = 3600.0  # an older one was left by a process that was killed
MIN_SECONDS = 0.1  # programs that compile faster than this are not cached
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Unusable(OSError):
  """There is no place for any cache."""


@functools.cache
def _warn_once(error: str) -> None:
  logging.warning("Continuing without caches (%s).", error)


def warn(what: str, error: OSError) -> None:
  """Logs that there is no cache of something; once if there is no cache at all."""
  if isinstance(error, Unusable):
    _warn_once(str(error))
  else:
    logging.warning("Continuing without a cache of %s (%s).", what, error)


def folder(name: str) -> pathlib.Path:
  """Returns `cifar_flax/name` in `$XDG_CACHE_HOME`, by default `~/.cache`.

  A relative `$XDG_CACHE_HOME` is ignored, as the XDG specification requires.

  Raises:
    Unusable: the user has no home folder.
  """
  for base in (os.environ.get("XDG_CACHE_HOME", ""), "~/.cache"):
    path = os.path.expanduser(base)
    if os.path.isabs(path):
      return pathlib.Path(path) / "cifar_flax" / name
  raise Unusable("there is no home folder; set XDG_CACHE_HOME")


def private_folder(name: str) -> pathlib.Path:
  """Returns `folder(name)`, created if absent, to which only the user can write.

  Raises:
    OSError: the folder cannot be created or written to, belongs to another user, or
      other users can write to it.
  """
  path = folder(name)
  try:
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent.parent, os.W_OK) and not path.parent.exists():
      raise PermissionError(f"{path.parent.parent} cannot be written to")
  except OSError as error:
    raise Unusable(f"{error}; set XDG_CACHE_HOME") from None
  path = path.parent.parent.resolve() / path.parent.name / name
  for level in (path.parent, path):
    level.mkdir(mode=0o700, exist_ok=True)
    status = level.lstat()
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    # If others could write to `path`, its files cannot be trusted. The parent's mode is
    # only corrected: it contains nothing but such folders, each of which is checked.
    if not own or (level == path and status.st_mode & _OTHERS_WRITE):
      raise PermissionError(
        f"{level} must be a folder of yours that only you can write to; remove it"
      )
    if stat.S_IMODE(status.st_mode) != 0o700:
      level.chmod(0o700)
  if not os.access(path, os.W_OK):  # for example on a file system mounted read-only
    raise PermissionError(f"{path} cannot be written to")
  return path


def check_irreplaceable(path: pathlib.Path) -> None:
  """Raises PermissionError if every user could replace the folder by another one.

  They can if all users can write to a parent without the sticky bit, which /tmp has.
  """
  for parent in path.parents:
    mode = parent.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
      raise PermissionError(f"everyone can write to {parent}")


def keep_compiled_programs() -> None:
  """Enables JAX's cache of compiled programs, unless the user has configured it.

  `JAX_COMPILATION_CACHE_DIR` uses another folder, and the user is responsible for its
  permissions. `JAX_ENABLE_COMPILATION_CACHE=false` disables the cache. If the folder
  cannot be trusted or written to, a warning gives the reason, and nothing is cached.
  """
  import jax  # late, because the rest of this module does not need it

  config: Any = jax.config  # type checkers do not know its keys
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
  user_folder = config.jax_compilation_cache_dir is not None
  if user_folder or not config.jax_enable_compilation_cache:
    return
  try:
    folder = private_folder(COMPILED)
    check_irreplaceable(folder)
    evict(folder, MAX_BYTES[COMPILED])
  except OSError as error:
    warn("compiled programs", error)
  else:
    config.update("jax_compilation_cache_dir", str(folder))


def tidy(name: str) -> None:
  """Bounds a cache folder; does nothing if there is none that can be used."""
  with contextlib.suppress(OSError):
    evict(private_folder(name), MAX_BYTES[name])


def write(path: pathlib.Path, fill: Callable[[BinaryIO], object]) -> None:
  """Writes a file of a cache atomically.

  Args:
    path: the file.
    fill: writes the content.

  Raises:
    OSError: it cannot be written; nothing is left behind.
  """
  descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=TEMPORARY)
  try:
    with os.fdopen(descriptor, "wb") as file:
      fill(file)
    os.replace(temporary, path)
  finally:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(temporary)


class Entry(NamedTuple):
  """Something that a cache keeps.

  Attributes:
    used: when it was last used, in seconds since 1970.
    size: in bytes.
    delete: deletes it, and returns whether it did.
  """

  used: float
  size: int
  delete: Callable[[], bool]


def evict_entries(entries: Iterable[Entry], max_bytes: int) -> None:
  """Deletes the least recently used entries until the rest fits, or one is left."""
  kept = sorted(entries, key=lambda entry: entry.used)
  total = sum(entry.size for entry in kept)
  for entry in kept[:-1]:
    if total <= max_bytes:
      break
    if entry.delete():
      total -= entry.size


def evict(folder: pathlib.Path, max_bytes: int) -> None:
  """Deletes what is of no use, then the least recently used until the rest fits.

  Of no use are damaged programs, and temporary files that a killed process left. JAX
  limits the size of its cache only with an optional package. When the disk is full, it
  leaves a truncated file, which fails to load at every start. A process that is reading
  a deleted file reads it to its end, and one that is writing a temporary file keeps it.

  Args:
    folder: the cache folder.
    max_bytes: maximum total size of the remaining files.

  Raises:
    OSError: the folder cannot be read, or a file in it cannot be deleted.
  """
  kept = []
  for path in folder.rglob("*"):
    try:
      status = path.stat()
      if not stat.S_ISREG(status.st_mode):
        continue
      if path.name.endswith(TEMPORARY):
        if time.time() - status.st_mtime > MAX_TEMPORARY_SECONDS:
          path.unlink()
        continue
      if not _is_intact(path, status):
        path.unlink()
        continue
    except FileNotFoundError:  # deleted by another process that tidies the folder
      continue
    used = max(status.st_atime, status.st_mtime)
    kept.append(Entry(used, status.st_size, functools.partial(_unlink, path)))
  evict_entries(kept, max_bytes)


def _unlink(path: pathlib.Path) -> bool:
  path.unlink(missing_ok=True)
  return True


def _is_intact(path: pathlib.Path, status: os.stat_result) -> bool:
  """Returns whether a cached program can be decompressed, or has passed this before.

  A file that passes is made read-only, so that it is not decompressed again.
  """
  if not path.name.endswith("-cache") or not status.st_mode & stat.S_IWUSR:
    return True
  data = path.read_bytes()
  try:
    if not data.startswith(b"\x28\xb5\x2f\xfd"):  # JAX uses Zstandard on Python 3.14
      zlib.decompress(data)
  except zlib.error:
    return False
  path.chmod(0o400)
  return True
