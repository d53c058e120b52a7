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


def damage(path, how):
  path.unlink(missing_ok=True)
  if how == "directory":
    (path / "inside").mkdir(parents=True)
  else:
    path.write_bytes({"empty": b"", "text": b"no checkpoint"}.get(how, how))


HARM = ["empty", "text", "directory", checkpoints.encode(content(9))[:-1]]


@pytest.mark.parametrize("how", HARM)
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_new_checkpoint_is_never_pruned_for_damaged_ones(tmp_path, how, keep):
  for step in (500, 600):
    save(tmp_path, step, keep=3)
  for step in (650, 900, 1000):  # older and newer than the next one
    damage(tmp_path / f"step_{step:09d}.ckpt", how)
  assert checkpoints.restore_newest(tmp_path) == content(600)
  save(tmp_path, 700, keep)
  kept = [int(path.stem[5:]) for path in checkpoints.saved(tmp_path)]
  assert kept == [700, 600, 500][:keep]
  assert checkpoints.restore_newest(tmp_path) == content(700)
  aside = sorted(path.name for path in tmp_path.glob("*.damaged"))
  assert {f"step_{step:09d}.ckpt.damaged" for step in (900, 1000)} <= set(aside)


def test_an_intact_checkpoint_of_a_later_step_does_not_replace_the_new_one(tmp_path):
  for step in (900, 700):
    save(tmp_path, step, keep=1)
  assert checkpoints.restore_newest(tmp_path) == content(700)


def test_a_checkpoint_damaged_after_it_was_verified_does_not_count(tmp_path):
  for step in (1, 2, 3):
    save(tmp_path, step)
  damage(tmp_path / "step_000000003.ckpt", "text")
  save(tmp_path, 4)
  kept = [path.name for path in checkpoints.saved(tmp_path)]
  assert kept == ["step_000000004.ckpt", "step_000000002.ckpt"]


def test_few_damaged_files_are_kept(tmp_path):
  for step in range(10):
    path = tmp_path / f"step_{step:09d}.ckpt"
    damage(path, "text")
    checkpoints.set_aside(path)
    damage(path, "empty")
    checkpoints.set_aside(path)
  names = sorted(path.name for path in tmp_path.iterdir())
  assert len(names) == checkpoints.MAX_DAMAGED
  assert names[-2:] == ["step_000000009.ckpt.2.damaged", "step_000000009.ckpt.damaged"]


def test_what_cannot_be_renamed_does_not_end_a_run(tmp_path, monkeypatch, caplog):
  damage(tmp_path / "step_000000009.ckpt", "text")

  def refuse(self, target):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(type(tmp_path), "rename", refuse)
  save(tmp_path, 5, keep=1)
  assert checkpoints.restore_newest(tmp_path) == content(5)
  assert "cannot be renamed (Permission denied)" in caplog.text


@pytest.mark.parametrize("how", HARM)
def test_a_damaged_file_in_the_place_of_the_best_checkpoint_is_replaced(tmp_path, how):
  damage(tmp_path / checkpoints.BEST, how)
  checkpoints.save_best(tmp_path, checkpoints.encode(content(3)))
  assert checkpoints.restore(tmp_path, "best") == content(3)
