"""Our folders in the user's cache: decoded images, compiled programs.

They may be deleted at any time.
"""

import os
import pathlib
import stat

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
