"""Checkpoint files: written atomically, verified by a checksum when read.

A file is a header line with a SHA-256, followed by the msgpack bytes of
`flax.serialization`: arrays, numbers and text, so that reading executes no code.
`checkpoints/` holds the newest few `step_<updates>.ckpt`, and `best.ckpt`.
"""

import hashlib
import logging
import pathlib
from typing import Any

from cifar_flax.errors import UserError
from cifar_flax.run.files import write_atomically

MAGIC = b"cifar_flax checkpoint 1 sha256 "


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


def saved(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the paths of the numbered checkpoints in `folder`, newest first."""
  return sorted(folder.glob("step_*.ckpt"), reverse=True)


def save(folder: pathlib.Path, step: int, data: bytes, keep: int) -> None:
  """Writes the checkpoint of `step`, then deletes all but the newest `keep`."""
  folder.mkdir(parents=True, exist_ok=True)
  write_atomically(folder / f"step_{step:09d}.ckpt", data)
  for old in saved(folder)[keep:]:
    old.unlink()


def save_best(folder: pathlib.Path, data: bytes) -> None:
  """Writes `best.ckpt`, replacing the previous one."""
  folder.mkdir(parents=True, exist_ok=True)
  write_atomically(folder / "best.ckpt", data)


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


def restore(folder: pathlib.Path, which: str) -> dict[str, Any]:
  """Returns the content of the checkpoint `which`, "best" or "last".

  Raises:
    UserError: there is no such checkpoint, or it is damaged.
  """
  if which == "last":
    content = restore_newest(folder)
    if content is None:
      raise UserError(f"{folder}: no checkpoint here; train first, or check --workdir")
    return content
  try:
    return read(folder / "best.ckpt")
  except Damaged as error:
    raise UserError(f"{error}; try --checkpoint=last") from None
