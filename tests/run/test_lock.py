"""One writer for a run directory, on this host and on others."""

import os
import subprocess
import sys
import time

import pytest

from cifar_flax.errors import UserError
from cifar_flax.run import lock

HOLD = """
import pathlib, sys, time
from cifar_flax.run import lock
with lock.hold(pathlib.Path(sys.argv[1])):
  print("held", flush=True)
  time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
  command = [sys.executable, "-c", HOLD, str(tmp_path)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()


def test_the_owner_is_named_and_does_not_block_once_it_is_dead(tmp_path, holder):
  for attempt in (lock.check, lambda folder: lock.hold(folder).__enter__()):
    with pytest.raises(UserError, match=f"{tmp_path}: process {holder.pid} on "):
      attempt(tmp_path)
  holder.kill()
  holder.wait()
  lock.check(tmp_path)
  with lock.hold(tmp_path):
    pass


def test_it_can_be_held_again_and_again(tmp_path):
  for _ in range(2):
    with lock.hold(tmp_path / "made"), pytest.raises(UserError):
      lock.check(tmp_path / "made")
    lock.check(tmp_path / "made")


def test_looking_makes_nothing(tmp_path):
  lock.check(tmp_path / "absent")
  lock.check(tmp_path)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("age", "dead"), [(0, False), (55, False), (65, True)])
def test_an_owner_on_another_host_lives_as_long_as_its_heart_beats(tmp_path, age, dead):
  path = tmp_path / lock.FILE
  path.write_text('{"pid": 7, "host": "elsewhere"}')
  os.utime(path, (time.time() - age,) * 2)
  if dead:
    with lock.hold(tmp_path):
      pass
  else:
    with pytest.raises(UserError, match=f"process 7 on elsewhere .* was {age} s"):
      lock.check(tmp_path)


def test_the_heart_beats(tmp_path, monkeypatch):
  monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
  with lock.hold(tmp_path):
    path = tmp_path / lock.FILE
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 10
    while path.stat().st_mtime == 0 and time.monotonic() < deadline:
      time.sleep(0.01)
    assert time.time() - path.stat().st_mtime < 60


NONSENSE = [
  b"",
  b"{",
  b"[1]",
  b'{"host": 3}',
  b'{"pid": 7, "host": ["a"]}',
  b"\xff\x80",
]
NONSENSE += [b"\x00" * 5000, b"[" * 4096, b'{"a":' * 800]


@pytest.mark.parametrize("content", NONSENSE)
def test_a_lock_file_that_says_nonsense_is_no_owner(tmp_path, content):
  for age in (0, 65):
    (tmp_path / lock.FILE).write_bytes(content)
    os.utime(tmp_path / lock.FILE, (time.time() - age,) * 2)
    lock.check(tmp_path)
    with lock.hold(tmp_path):
      pass


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_something_else_in_the_place_of_the_lock_file_is_named(tmp_path, make):
  make(tmp_path / lock.FILE)
  with pytest.raises(UserError, match=f"{tmp_path}/lock: is not a file; remove it"):
    lock.check(tmp_path)
