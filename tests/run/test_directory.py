"""Which run directories count as finished, and what is damaged in one."""

import json
import logging

import pytest

from cifar_flax import config as config_lib
from cifar_flax.errors import UserError
from cifar_flax.run import directory
from stress.lab import Lab, outcome

SUMMARY = {
  "parameters": 7,
  "num_epochs": 3,
  "final_eval_accuracy": 0.5,
  "max_train_accuracy": 1,
  "seconds": 7.5,
  "device": "1 x cpu",
  "versions": {},
  "data": {
    "name": "shapes10",
    "version": "1.0.0",
    "fingerprint": "abc",
    "train_split": "train",
    "eval_split": "test",
    "train_examples": 7,
    "eval_examples": 7,
  },
}


@pytest.mark.parametrize(
  ("num_epochs", "eval_flip", "flipped", "finished"),
  [
    (3, False, None, True),
    (3, False, 0.5, True),
    (3, True, 0.5, True),
    (3, True, 0.0, True),
    (3, True, None, False),  # not yet evaluated with mirror images
    (4, False, None, False),  # one more epoch to train
    (2, False, None, False),
  ],
)
def test_a_summary_counts_if_it_covers_the_config(
  tmp_path, num_epochs, eval_flip, flipped, finished
):
  config = config_lib.Config(num_epochs=num_epochs, eval_flip=eval_flip)
  assert directory.finished_summary(tmp_path, config) is None
  summary = SUMMARY | {"flip_eval_accuracy": flipped}
  (tmp_path / "summary.json").write_text(json.dumps(summary))
  found = directory.finished_summary(tmp_path, config)
  assert found == (summary if finished else None)


def test_a_summary_of_before_eval_flip_existed_has_no_flipped_accuracy(tmp_path):
  (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
  config = config_lib.Config(num_epochs=3)
  assert directory.finished_summary(tmp_path, config) == SUMMARY
  config.eval_flip = True
  assert directory.finished_summary(tmp_path, config) is None


def put(file, content):
  if file.is_dir():
    file.rmdir()
  file.unlink(missing_ok=True)
  if content is None:
    file.mkdir()
  else:
    file.write_bytes(content)


# Contents of a JSON file that nobody has written; None is a folder.
DAMAGED = [None, b"", b"{", b"[]", b"null", b"3", b'"text"', b"\xff\x00", b"[" * 10**5]
CHANGES = [
  {"num_epochs": "3"},
  {"num_epochs": True},
  {"num_epochs": 3.0},
  {"final_eval_accuracy": None},
  {"final_eval_accuracy": [0.5]},
  {"flip_eval_accuracy": "0.5"},
  {"device": 3},
  {"numerics": "1"},
  {"data": []},
  {"data": SUMMARY["data"] | {"fingerprint": None}},
]
DAMAGED_SUMMARIES = [
  *DAMAGED,
  b"{}",
  json.dumps(SUMMARY).encode()[:-1],
  *(json.dumps(SUMMARY | change).encode() for change in CHANGES),
]


def test_a_damaged_summary_is_named_and_counts_as_missing(tmp_path, caplog):
  file, config = tmp_path / "summary.json", config_lib.Config(num_epochs=3)
  for content in DAMAGED_SUMMARIES:
    put(file, content)
    with pytest.raises(UserError) as error:
      directory.read_summary(tmp_path)
    assert str(error.value).startswith(f"{file}: damaged (")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
      assert directory.finished_summary(tmp_path, config) is None
    assert str(error.value) in caplog.text and len(caplog.records) == 1
  put(file, json.dumps(SUMMARY).encode())
  assert directory.finished_summary(tmp_path, config) == SUMMARY


@pytest.mark.full
def test_a_run_writes_its_damaged_files_again(tmp_path):
  lab = Lab(tmp_path)
  lab.complete(workdir := lab.new("run"), num_epochs="2")
  before = outcome(workdir)
  command = lab.command(workdir, num_epochs="2")
  for name in ("summary.json", "metrics.jsonl", "config.json", "lock"):
    put(workdir / name, b"\xff\x00{")
  next(workdir.glob("events.*")).write_bytes(b"\xff")
  code, error = lab.finish(command)
  assert code == 0 and error.startswith(f"{workdir}/summary.json: damaged (")
  assert outcome(workdir) == before
  assert directory.read_summary(workdir)["num_epochs"] == 2
  config_lib.load(str(workdir / "config.json"))
  for name in ("summary.json", "metrics.jsonl", "config.json", "lock"):
    content = (workdir / name).read_bytes()
    (workdir / "summary.json").unlink(missing_ok=True)
    put(workdir / name, None)
    code, error = lab.finish(command)
    last = error.splitlines()[-1]
    assert code in (1, 2) and last.startswith(f"error: {workdir}/{name}: "), error
    assert "Traceback" not in error
    put(workdir / name, content)
  (events := workdir / "events.out.tfevents.folder").mkdir()
  code, error = lab.finish(command)
  assert code == 1 and error.splitlines()[-1] == f"error: {events}: Is a directory"
