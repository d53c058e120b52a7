"""Checkpoint files: written atomically, verified by a checksum when read.

A file is a header line with a SHA-256, followed by the msgpack bytes of
`flax.serialization`: arrays, numbers and text, so that reading executes no code.
`checkpoints/` holds the newest few `step_<updates>.ckpt`, and `best.ckpt`. Damaged ones
are renamed to `*.damaged` when the next one is saved. A run that was published has
`weights.ckpt` instead: its last state without what only training needs.
"""

import contextlib
import hashlib
import logging
import pathlib
from typing import Any

from cifar_flax.errors import UserError
from cifar_flax.run.files import write_atomically

MAGIC = b"cifar_flax checkpoint 1 sha256 "
BEST = "best.ckpt"
WEIGHTS = "weights.ckpt"
MAX_DAMAGED = 3  # damaged files that are kept


class Damaged(Exception):
  """Raised for a file that is not an intact checkpoint; the message says why."""


def encode(content: dict[str, Any]) -> bytes:
  """Encodes nested dictionaries of NumPy arrays and text as a file's bytes."""
  from flax import serialization  # late, as it imports JAX

  payload = serialization.msgpack_serialize(content)
  return MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads a checkpoint file, and returns what was passed to `encode`.

  Raises:
    Damaged: the file is unreadable, truncated or corrupted.
  """
  try:
    data = path.read_bytes()
  except OSError as error:
    raise Damaged(f"{path}: {error.strerror}") from None
  header, _, payload = data.partition(b"\n")
  if not header.startswith(MAGIC):
    raise Damaged(f"{path}: not a checkpoint of this project")
  if header[len(MAGIC) :] != hashlib.sha256(payload).hexdigest().encode():
    raise Damaged(f"{path}: damaged: its checksum does not match")
  from flax import serialization  # late, as in `encode`

  try:
    content = serialization.msgpack_restore(payload)
  except Exception as error:  # msgpack, Flax and NumPy raise many types
    reason = " ".join(str(error).split())
    raise Damaged(f"{path}: not the content of a checkpoint ({reason})") from None
  if not isinstance(content, dict) or not {"state", "run"} <= content.keys():
    raise Damaged(f"{path}: not the content of a checkpoint")
  return content


# What is known to be intact: the time of its last change, its size and its inode.
_verified: dict[pathlib.Path, tuple[int, int, int]] = {}


def is_intact(path: pathlib.Path) -> bool:
  """Returns whether a checkpoint can be read; reads it only if it has changed."""
  try:
    version = _version(path)
    if _verified.get(path) != version:
      read(path)
      _verified[path] = version
  except (Damaged, OSError):
    return False
  return True


def _version(path: pathlib.Path) -> tuple[int, int, int]:
  status = path.stat()
  return status.st_mtime_ns, status.st_size, status.st_ino


def saved(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the paths of the numbered checkpoints in `folder`, newest first."""
  return sorted(folder.glob("step_*.ckpt"), reverse=True)


def save(folder: pathlib.Path, step: int, data: bytes, keep: int) -> None:
  """Writes the checkpoint of `step`, then deletes all but `keep` intact ones.

  These are the new one and the newest of the others. Damaged ones are set aside.
  """
  folder.mkdir(parents=True, exist_ok=True)
  new, kept = folder / f"step_{step:09d}.ckpt", 1
  _write(new, data)
  for other in saved(folder):
    if other == new:
      continue
    if kept >= keep and other < new and other.is_file():
      other.unlink(missing_ok=True)
    elif not is_intact(other):
      set_aside(other)
    elif kept >= keep:
      other.unlink(missing_ok=True)
    else:
      kept += 1


def save_best(folder: pathlib.Path, data: bytes) -> None:
  """Writes `best.ckpt`, replacing the previous one."""
  folder.mkdir(parents=True, exist_ok=True)
  _write(folder / BEST, data)


def _write(path: pathlib.Path, data: bytes) -> None:
  if path.is_dir():  # a file cannot replace it
    set_aside(path)
  write_atomically(path, data)
  _verified[path] = _version(path)


def set_aside(path: pathlib.Path) -> None:
  """Renames a damaged checkpoint to `*.damaged`; deletes all but the newest of these.

  What cannot be renamed or deleted stays where it is.
  """
  names = (f"{path.name}{n}.damaged" for n in ("", *(f".{i}" for i in range(2, 1000))))
  aside = next(new for name in names if not (new := path.with_name(name)).exists())
  try:
    path.rename(aside)
  except OSError as error:
    logging.warning("%s: is damaged and cannot be renamed (%s)", path, error.strerror)
    return
  logging.warning("%s: is damaged; renamed to %s", path, aside.name)
  with contextlib.suppress(OSError):
    damaged = [file for file in path.parent.glob("*.damaged") if file.is_file()]
    damaged.sort(key=lambda file: file.stat().st_ctime_ns, reverse=True)
    for old in damaged[MAX_DAMAGED:]:
      old.unlink()


def restore_newest(folder: pathlib.Path) -> dict[str, Any] | None:
  """Returns the newest checkpoint that is intact, or None if there are none at all.

  Raises:
    UserError: there are checkpoints, but all of them are damaged.
  """
  paths = saved(folder)
  for path in paths:
    try:
      return read(path)
    except Damaged as error:
      logging.warning("%s; falling back to the checkpoint before it", error)
  if paths:
    raise UserError(
      f"{folder}: all {len(paths)} checkpoints are damaged; restore one from a "
      "backup, or choose another --workdir to start over"
    )
  return None


def has_weights_only(folder: pathlib.Path) -> bool:
  """Returns whether the last weights of a published run are all there is."""
  return (folder / WEIGHTS).is_file() and not saved(folder)


def chosen(folder: pathlib.Path, which: str) -> str:
  """Returns which checkpoint `which`, "best" or "last", gives: the last, if alone."""
  return "last" if has_weights_only(folder) else which


def restore(folder: pathlib.Path, which: str) -> dict[str, Any]:
  """Returns the content of the checkpoint `which`, "best" or "last".

  Raises:
    UserError: there is no such checkpoint, or it is damaged.
  """
  if has_weights_only(folder):
    try:
      return read(folder / WEIGHTS)
    except Damaged as error:
      raise UserError(str(error)) from None
  if not (saved(folder) or (folder / BEST).exists()):
    raise UserError(
      f"{folder}: no checkpoint here; train first, check --workdir, or name a run that "
      "was published with its weights"
    )
  if which == "last":
    content = restore_newest(folder)
    if content is None:
      raise UserError(f"{folder}: only the best is here; try --checkpoint=best")
    return content
  try:
    return read(folder / BEST)
  except Damaged as error:
    raise UserError(f"{error}; try --checkpoint=last") from None
