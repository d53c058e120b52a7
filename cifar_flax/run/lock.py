"""One writer for a run directory.

The file `lock` in it is locked (flock), which ends with the process that holds it,
however that ends. A file system that several hosts share may not pass such locks on:
for the others' sake the owner stands in the file, and touches it while it lives.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from cifar_flax.errors import UserError
from cifar_flax.run.files import naming

FILE = "lock"
BEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 60.0


def check(workdir: pathlib.Path) -> None:
  """Raises UserError, naming the owner, if another process writes in `workdir`."""
  with contextlib.suppress(FileNotFoundError):
    os.close(_acquire(workdir / FILE, os.O_RDONLY))


@contextlib.contextmanager
def hold(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other processes from writing in `workdir`, which is made if absent.

  Raises:
    UserError: another process does.
    OSError: the lock can't be written.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / FILE
  file = _acquire(path, os.O_RDWR | os.O_CREAT)
  ended = threading.Event()
  beating = threading.Thread(target=_beat, args=(file, ended), daemon=True)
  beating.start()
  try:
    owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
    with naming(path):
      os.ftruncate(file, 0)
      os.pwrite(file, owner.encode(), 0)
    yield
  finally:
    ended.set()
    beating.join()
    with contextlib.suppress(OSError):
      os.ftruncate(file, 0)
    os.close(file)


def _beat(file: int, ended: threading.Event) -> None:
  while not ended.wait(BEAT_SECONDS):
    with contextlib.suppress(OSError):  # a full disk is found by those who write
      os.utime(file)


def _acquire(path: pathlib.Path, flags: int) -> int:
  """A descriptor of the locked file."""
  file = os.open(path, flags, 0o666)
  try:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise _occupied(path, _owner(file)) from None
    except OSError:  # a file system without locks: the heartbeat has to do
      pass
    owner = _owner(file)
    age = time.time() - os.fstat(file).st_mtime
    elsewhere = owner and owner.get("host") != socket.gethostname()
    if elsewhere and age < DEAD_AFTER_SECONDS:
      raise _occupied(path, owner, age)
  except BaseException:
    os.close(file)
    raise
  return file


def _owner(file: int) -> dict[str, Any]:
  try:
    found = json.loads(os.pread(file, 4096, 0))
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def _occupied(
  path: pathlib.Path, owner: dict[str, Any], age: float | None = None
) -> UserError:
  who = f"process {owner.get('pid', '?')} on {owner.get('host', 'an unknown host')}"
  hint = "wait for its end, or choose another --workdir"
  if age is not None:
    hint += (
      f"; it gave a sign of life {age:.0f} s ago, and counts as dead after "
      f"{DEAD_AFTER_SECONDS:.0f}"
    )
  return UserError(f"{path.parent}: {who} is writing here; {hint}")
