"""Checkpoint files: how many are kept, and what is refused when one is read."""

import hashlib
import logging

import numpy as np
import pytest

from cifar_flax.errors import UserError
from cifar_flax.run import checkpoints


def content(step):
  return {"state": {"step": np.int32(step)}, "run": f"run at {step}"}


def save(folder, step, keep=2):
  checkpoints.save(folder, step, checkpoints.encode(content(step)), keep)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept_and_the_older_removed(tmp_path, keep):
  folder = tmp_path / "made"
  for step in (5, 90, 1000, 70_000):
    save(folder, step, keep)
  newest = [f"step_{step:09d}.ckpt" for step in (70_000, 1000, 90)][:keep]
  assert [path.name for path in checkpoints.saved(folder)] == newest
  assert sorted(path.name for path in folder.iterdir()) == sorted(newest)


def test_the_best_checkpoint_is_not_counted(tmp_path):
  checkpoints.save_best(tmp_path, checkpoints.encode(content(1)))
  for step in (2, 3):
    save(tmp_path, step, keep=1)
  assert checkpoints.restore(tmp_path, "best")["run"] == "run at 1"
  assert checkpoints.restore(tmp_path, "last")["run"] == "run at 3"


def test_a_change_to_any_byte_is_detected(tmp_path):
  data = checkpoints.encode(content(7))
  path = tmp_path / "step.ckpt"
  path.write_bytes(data)
  assert checkpoints.read(path) == content(7)
  for position in range(len(data)):
    damaged = bytearray(data)
    damaged[position] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(checkpoints.Damaged, match=r"checksum|not a checkpoint"):
      checkpoints.read(path)


@pytest.mark.parametrize(
  ("payload", "reason"),
  [(b"\xc1", "not the content .*"), (b"\x01", "not the content"), (b"", "not the")],
)
def test_another_content_with_a_right_checksum_is_refused(payload, reason, tmp_path):
  digest = hashlib.sha256(payload).hexdigest().encode()
  path = tmp_path / "step.ckpt"
  path.write_bytes(checkpoints.MAGIC + digest + b"\n" + payload)
  with pytest.raises(checkpoints.Damaged, match=reason):
    checkpoints.read(path)


def test_a_damaged_checkpoint_is_skipped_and_none_intact_is_an_error(tmp_path, caplog):
  assert checkpoints.restore_newest(tmp_path) is None
  for step in (1, 2):
    save(tmp_path, step)
  newest, before = checkpoints.saved(tmp_path)
  newest.write_bytes(newest.read_bytes()[:-1])
  with caplog.at_level(logging.WARNING):
    assert checkpoints.restore_newest(tmp_path) == content(1)
  assert str(newest) in caplog.text and str(before) not in caplog.text
  before.write_bytes(b"")
  with pytest.raises(UserError, match="all 2 checkpoints are damaged"):
    checkpoints.restore_newest(tmp_path)
