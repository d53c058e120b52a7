"""What a run says of where it comes from."""

import json
import os
import pathlib
import re
import subprocess

import jax
import pytest

from cifar_flax.run import provenance

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
  ("argv", "expected"),
  [
    (["/usr/bin/python3", "-m", "cifar_flax.main"], "python3 -m cifar_flax.main"),
    (["python", "--workdir", "/a/b/runs/x"], "python --workdir runs/x"),
    (["python", "--workdir=/a/c"], "python --workdir=../c"),
    (["python", "--workdir=runs/x"], "python --workdir=runs/x"),
    (
      ["python", "--config.data.dataset=folder:/a/b/cats"],
      "python --config.data.dataset=folder:cats",
    ),
    (
      ["python", "--vary", "data.data_dir=/a/b/one,/a/b/two"],
      "python --vary data.data_dir=one,two",
    ),
    (
      ["python", "--distributed=10.0.0.1:1234,2,0"],
      "python --distributed=10.0.0.1:1234,2,0",
    ),
    (["python", "gs://bucket/run"], "python gs://bucket/run"),
    (
      ["python", "--config.data.train_split=train[:9], a"],
      "python '--config.data.train_split=train[:9], a'",
    ),
  ],
)
def test_a_command_has_no_absolute_path(argv, expected):
  assert provenance.command(argv, "/a/b") == expected


def test_what_this_process_is():
  part = provenance.current(jax.devices()[:2], 7)
  assert part["first_step"] == 7 and part["numerics"] == provenance.NUMERICS
  assert part["device_count"] == 2 and part["device"].startswith("2 x cpu")
  assert part["command"].startswith("python")
  assert part["versions"]["jax"] == jax.__version__
  head = subprocess.run(
    ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
  )
  if head.returncode == 0:
    assert part["commit"] == head.stdout.strip()
    assert isinstance(part["modified"], bool)


def test_code_outside_of_a_repository_has_no_commit(monkeypatch, tmp_path):
  monkeypatch.setattr(provenance, "_ROOT", tmp_path)
  part = provenance.current(jax.devices()[:1], 0)
  assert part["commit"] is None and part["modified"] is None


def test_a_changed_file_is_reported(monkeypatch, tmp_path):
  git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
  (tmp_path / "file").write_text("1")
  for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
    subprocess.run([*git, *command], check=True)
  monkeypatch.setattr(provenance, "_ROOT", tmp_path)
  assert provenance.current(jax.devices()[:1], 0)["modified"] is False
  (tmp_path / "untracked").write_text("2")
  assert provenance.current(jax.devices()[:1], 0)["modified"] is False
  (tmp_path / "file").write_text("2")
  assert provenance.current(jax.devices()[:1], 0)["modified"] is True


def tracked_texts():
  listed = subprocess.run(
    ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True
  )
  if listed.returncode:
    pytest.skip("not a git repository")
  for name in filter(None, listed.stdout.split("\0")):
    try:
      yield name, (ROOT / name).read_text()
    except (UnicodeDecodeError, FileNotFoundError):  # a picture; just removed
      continue


# Folders that hold what is one machine's own.
PRIVATE = re.compile(
  r"(?<![\w.~$}-])/(home|root|Users|work|mnt|srv|private|content)/\w"
)


def absolute(value):
  """The absolute paths among the strings of a JSON value."""
  if isinstance(value, dict):
    value = list(value.values())
  if isinstance(value, list):
    return [path for item in value for path in absolute(item)]
  words = value.split() if isinstance(value, str) else []
  return [word for word in words if os.path.isabs(word.rpartition("=")[2])]


def test_no_tracked_file_holds_an_absolute_path():
  found = [
    (name, match[0])
    for name, text in tracked_texts()
    for match in PRIVATE.finditer(text)
  ]
  for name, text in tracked_texts():
    if name.endswith((".json", ".jsonl")):
      lines = text.splitlines() if name.endswith("l") else [text]
      found += [(name, path) for line in lines for path in absolute(json.loads(line))]
  assert found == []


def test_absolute_paths_would_be_found():
  assert PRIVATE.search("in " + "/ho" + "me/me/data") and PRIVATE.search(
    "=/roo" + "t/x"
  )
  assert absolute({"a": [{"command": "python --workdir=/data/x"}]}) == [
    "--workdir=/data/x"
  ]
