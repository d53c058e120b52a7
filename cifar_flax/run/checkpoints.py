"""One file a checkpoint: saved whole or not at all, checked when read.

A file is a line with a SHA-256 and, behind it, the msgpack bytes of
`flax.serialization`: arrays, numbers and text, nothing that is executed on reading.
`checkpoints/` holds `step_<updates>.ckpt`, the newest few, and `best.ckpt`.
"""

import hashlib
import logging
import pathlib
from typing import Any

from cifar_flax.errors import UserError
from cifar_flax.run.files import write_atomically

MAGIC = b"cifar_flax checkpoint 1 sha256 "


class Damaged(Exception):
  """A file that is not a whole checkpoint; the message says in which way."""


def encode(content: dict[str, Any]) -> bytes:
  """A checkpoint file's bytes, from nested dictionaries of NumPy arrays and text."""
  from flax import serialization  # imports JAX, which most of this module does without

  payload = serialization.msgpack_serialize(content)
  return MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def read(path: pathlib.Path) -> dict[str, Any]:
  """The content of a checkpoint file.

  Raises:
    Damaged: not readable, cut off, or changed since it was written.
  """
  try:
    data = path.read_bytes()
  except OSError as error:
    raise Damaged(f"{path}: {error.strerror}") from None
  header, _, payload = data.partition(b"\n")
  if not header.startswith(MAGIC):
    raise Damaged(f"{path}: not a checkpoint of this project")
  if header[len(MAGIC) :] != hashlib.sha256(payload).hexdigest().encode():
    raise Damaged(f"{path}: damaged, its checksum does not match")
  from flax import serialization  # as in `encode`

  try:
    content = serialization.msgpack_restore(payload)
  except Exception as error:  # msgpack, Flax and NumPy fail in many ways
    reason = " ".join(str(error).split())
    raise Damaged(f"{path}: has another content than a checkpoint ({reason})") from None
  if not isinstance(content, dict) or not {"state", "run"} <= content.keys():
    raise Damaged(f"{path}: has another content than a checkpoint")
  return content


def saved(folder: pathlib.Path) -> list[pathlib.Path]:
  """The numbered checkpoints of a folder, newest first."""
  return sorted(folder.glob("step_*.ckpt"), reverse=True)


def save(folder: pathlib.Path, step: int, data: bytes, keep: int) -> None:
  """Writes the checkpoint of `step`, then removes all but the newest `keep`."""
  folder.mkdir(parents=True, exist_ok=True)
  write_atomically(folder / f"step_{step:09d}.ckpt", data)
  for old in saved(folder)[keep:]:
    old.unlink()


def save_best(folder: pathlib.Path, data: bytes) -> None:
  """Writes `best.ckpt`."""
  folder.mkdir(parents=True, exist_ok=True)
  write_atomically(folder / "best.ckpt", data)


def restore_newest(folder: pathlib.Path) -> dict[str, Any] | None:
  """The newest checkpoint that is whole; None where there has never been one.

  Raises:
    UserError: there are checkpoints, and all of them are damaged.
  """
  paths = saved(folder)
  for path in paths:
    try:
      return read(path)
    except Damaged as error:
      logging.warning("%s; trying the one before it", error)
  if paths:
    raise UserError(
      f"{folder}: all {len(paths)} checkpoints are damaged; restore one, or choose "
      "another --workdir to start again"
    )
  return None


def restore(folder: pathlib.Path, which: str) -> dict[str, Any]:
  """The `best` or the `last` checkpoint.

  Raises:
    UserError: there is none, or it is damaged.
  """
  if which == "last":
    content = restore_newest(folder)
    if content is None:
      raise UserError(f"{folder}: no checkpoint here; train first, or check --workdir")
    return content
  try:
    return read(folder / "best.ckpt")
  except Damaged as error:
    raise UserError(f"{error}; --checkpoint=last may still be there") from None
