"""Which checkpoints a run writes at the ends of its epochs, and when it is stopped."""

import numpy as np
import pytest

from cifar_flax import config as config_lib
from cifar_flax.errors import Stopped
from cifar_flax.run import checkpoints, saver, signals


class FakeRun:
  """Four epochs of ten steps; a checkpoint holds the number of the epoch."""

  def __init__(self, folder, writes=True, **checkpoint):
    config = config_lib.Config(num_epochs=4)
    for name, value in {"min_seconds": 0.0, "keep": 100, **checkpoint}.items():
      setattr(config.checkpoint, name, value)
    self.folder, self.history, self.stop = folder, [], signals.Watch()
    self.saver = saver.Saver(folder, config, self.snapshot, self.stop, writes)

  def snapshot(self):
    state = {"epoch": np.int32(len(self.history))}
    return checkpoints.encode({"state": state, "run": ""})

  def epoch(self, accuracy):
    number = len(self.history) + 1
    self.history.append({"epoch": number, "eval_accuracy": accuracy})
    self.saver.after_epoch(self.history, 10 * number)

  def best(self):
    return int(checkpoints.restore(self.folder, "best")["state"]["epoch"])

  def steps(self):
    return [int(path.stem[5:]) for path in checkpoints.saved(self.folder)[::-1]]


@pytest.mark.parametrize(
  ("accuracies", "best"),
  [
    ((0.1, 0.2, 0.3, 0.4), (1, 2, 3, 4)),
    ((0.4, 0.2, 0.3, 0.1), (1, 1, 1, 1)),
    ((0.3, 0.3, 0.5, 0.5), (1, 1, 3, 3)),  # the first of equal ones
    ((0.0, None, 0.2, None), (1, 1, 3, 3)),  # epochs without an evaluation
  ],
)
def test_the_best_checkpoint_is_the_first_of_the_highest_accuracy(
  tmp_path, accuracies, best
):
  run, found = FakeRun(tmp_path), []
  for accuracy in accuracies:
    run.epoch(accuracy)
    found.append(run.best())
  assert tuple(found) == best
  assert run.steps() == [10, 20, 30, 40]


@pytest.mark.parametrize("harm", ["missing", "damaged", "directory"])
def test_a_lost_best_checkpoint_is_replaced_by_the_best_epoch_after_it(
  tmp_path, harm, caplog
):
  run = FakeRun(tmp_path)
  for accuracy in (0.5, 0.9):
    run.epoch(accuracy)
  best = tmp_path / "best.ckpt"
  best.unlink()
  if harm == "damaged":
    best.write_bytes(b"nothing")
  elif harm == "directory":
    best.mkdir()
  resumed = FakeRun(tmp_path)
  resumed.history = run.history
  found = []
  for accuracy in (None, 0.3, 0.2, 0.4):
    resumed.epoch(accuracy)
    found.append(resumed.best() if best.is_file() else None)
  assert found == [None, 4, 4, 6]
  assert (
    f"{best}: is lost; the best of the epochs after 2 will replace it" in caplog.text
  )
  assert (tmp_path / "best.ckpt.damaged").exists() == (harm != "missing")


def test_an_intact_best_checkpoint_is_kept_on_resume(tmp_path, caplog):
  run = FakeRun(tmp_path)
  run.epoch(0.5)
  resumed = FakeRun(tmp_path)
  resumed.history = run.history
  resumed.epoch(0.4)
  assert resumed.best() == 1 and not caplog.text


def test_without_an_evaluation_there_is_no_best_checkpoint(tmp_path):
  FakeRun(tmp_path).epoch(None)
  assert [path.name for path in tmp_path.iterdir()] == ["step_000000010.ckpt"]


def test_within_min_seconds_only_the_first_and_the_last_epoch_are_saved(tmp_path):
  run = FakeRun(tmp_path, min_seconds=3600.0)
  for accuracy in (0.1, 0.2, 0.3, 0.2):
    run.epoch(accuracy)
  assert run.steps() == [10, 40] and run.best() == 3


def test_within_an_epoch_every_so_many_steps_are_saved_once(tmp_path):
  run = FakeRun(tmp_path, every_steps=4)
  for step in (2, 4, 4, 5, 8, 9):
    run.saver.after_call(step)
  assert run.steps() == [4, 8]


def test_a_run_that_is_stopped_is_saved_first(tmp_path):
  run = FakeRun(tmp_path)
  run.saver.after_call(6)
  assert not list(tmp_path.iterdir())
  run.stop.signal = 15
  with pytest.raises(Stopped) as stopped:
    run.saver.after_call(7)
  assert stopped.value.signal == 15 and run.steps() == [7]


def test_a_process_that_does_not_write_writes_nothing(tmp_path):
  run = FakeRun(tmp_path / "checkpoints", writes=False, every_steps=1)
  run.saver.after_call(5)
  run.epoch(0.5)
  assert not run.folder.exists()


def test_a_folder_that_cannot_be_made_is_an_error_before_the_first_step(tmp_path):
  (tmp_path / "checkpoints").write_text("")
  with pytest.raises(FileExistsError, match="checkpoints"):
    FakeRun(tmp_path / "checkpoints")
