"""Folders in the user's cache: decoded images, compiled programs.

They may be deleted at any time. JAX writes and reads the compiled programs, in process
0 of several and in all of them. Its key for a program holds the versions, the flags of
XLA, the devices and the instructions that the processor knows. A program in the cache
is code that will be executed, so that folder is used only where nobody else can write.
"""

import logging
import os
import pathlib
import stat
import zlib
from typing import Any

COMPILED = "compiled"
MAX_BYTES = 256 << 20  # some hundred programs; net6b on a CPU needs under 1 MB
MIN_SECONDS = 0.1  # that a program must take to compile, to be kept
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def folder(name: str) -> pathlib.Path:
  """`$XDG_CACHE_HOME` or `~/.cache`, then `cifar_flax`, then `name`.

  A relative `$XDG_CACHE_HOME` is ignored, as its specification asks.

  Raises:
    OSError: the user has no home.
  """
  for base in (os.environ.get("XDG_CACHE_HOME", ""), "~/.cache"):
    path = os.path.expanduser(base)
    if os.path.isabs(path):
      return pathlib.Path(path) / "cifar_flax" / name
  raise FileNotFoundError("there is no home folder; set XDG_CACHE_HOME")


def private_folder(name: str) -> pathlib.Path:
  """`folder(name)`, made if absent, where the user alone can write.

  Raises:
    OSError: it cannot be made or written to, or is not the user's alone.
  """
  path = folder(name)
  path.parent.parent.mkdir(parents=True, exist_ok=True)
  path = path.parent.parent.resolve() / path.parent.name / name
  for part in (path.parent, path):
    part.mkdir(mode=0o700, exist_ok=True)
    found = part.lstat()
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    # In ours there are only folders, and each is looked at; what is in those is not.
    if not own or (part == path and found.st_mode & _OTHERS_WRITE):
      raise PermissionError(f"{part} is not a folder of yours alone; remove it")
    if stat.S_IMODE(found.st_mode) != 0o700:
      part.chmod(0o700)
  if not os.access(path, os.W_OK):  # a file system that is mounted for reading only
    raise PermissionError(f"{path} cannot be written to")
  return path


def check_irreplaceable(path: pathlib.Path) -> None:
  """Raises PermissionError if anybody could put another folder in a folder's place."""
  for above in path.parents:
    mode = above.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:  # /tmp has the sticky bit
      raise PermissionError(f"everyone can write to {above}")


def keep_compiled_programs() -> None:
  """Has JAX keep what it compiles, unless the user has said what JAX is to do.

  `JAX_COMPILATION_CACHE_DIR` names another folder, `JAX_ENABLE_COMPILATION_CACHE=false`
  does without. Where no folder can be trusted or written to, a warning says why, and
  everything is compiled anew.
  """
  import jax  # late: the rest of this module does without

  config: Any = jax.config  # its keys are not known to a type checker
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
  decided = config.jax_compilation_cache_dir is not None
  if decided or not config.jax_enable_compilation_cache:
    return
  try:
    folder = private_folder(COMPILED)
    check_irreplaceable(folder)
    tidy(folder, MAX_BYTES)
  except OSError as error:
    logging.warning("Going on without a cache of compiled programs (%s).", error)
  else:
    config.update("jax_compilation_cache_dir", str(folder))


def tidy(folder: pathlib.Path, max_bytes: int) -> None:
  """Deletes what is damaged, and what was used longest ago until the rest fits.

  JAX bounds its cache itself only with a package that it does not install, and leaves
  half a file where the disk was full, to stumble over at every start.

  Args:
    folder: with the cache in it.
    max_bytes: that may stay.

  Raises:
    OSError: it cannot be read, or nothing in it be deleted.
  """
  kept = []
  for path in folder.rglob("*"):
    try:
      found = path.stat()
      if not stat.S_ISREG(found.st_mode):
        continue
      if not _is_whole(path, found):
        path.unlink()
        continue
    except FileNotFoundError:  # another process tidies as well
      continue
    kept.append((max(found.st_atime, found.st_mtime), found.st_size, path))
  total = sum(size for _, size, _ in kept)
  for _, size, path in sorted(kept):
    if total <= max_bytes:
      break
    path.unlink(missing_ok=True)
    total -= size


def _is_whole(path: pathlib.Path, found: os.stat_result) -> bool:
  """Whether a file can be decompressed; one that could is read-only from then on."""
  if not path.name.endswith("-cache") or not found.st_mode & stat.S_IWUSR:
    return True
  data = path.read_bytes()
  try:
    if not data.startswith(b"\x28\xb5\x2f\xfd"):  # Zstandard, from Python 3.14 on
      zlib.decompress(data)
  except zlib.error:
    return False
  path.chmod(0o400)
  return True
