"""Keeps compiled programs in the user's cache folder: compiling takes seconds.

JAX writes and reads them, in process 0 of several and in all of them. Its key for a
program holds the versions, the flags of XLA, the devices and the instructions that the
processor knows. A program in the cache is code that will be executed, so the folder is
used only where nobody else can write.
"""

import logging
import os
import pathlib
import stat
import zlib
from typing import Any

import jax

from cifar_flax import user_cache

FOLDER = "compiled"  # of `user_cache`
MAX_BYTES = 256 << 20  # some hundred programs; net6b on a CPU needs under 1 MB
MIN_SECONDS = 0.1  # that a program must take to compile, to be kept


def enable() -> None:
  """Has JAX keep what it compiles, unless the user has said what JAX is to do.

  `JAX_COMPILATION_CACHE_DIR` names another folder, `JAX_ENABLE_COMPILATION_CACHE=false`
  does without. Where no folder can be trusted or written to, a warning says why, and
  everything is compiled anew.
  """
  config: Any = jax.config  # its keys are not known to a type checker
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
  decided = config.jax_compilation_cache_dir is not None
  if decided or not config.jax_enable_compilation_cache:
    return
  try:
    folder = user_cache.private_folder(FOLDER)
    user_cache.check_irreplaceable(folder)
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
