"""The lock of a run directory, which allows one process at a time to write to it.

The owner holds an flock on the file `lock`; the kernel releases it when the owner exits
or is killed. A file system shared by several hosts may not propagate flocks between
them, so the owner also writes its process id and host into the file, and updates the
file's modification time as a heartbeat.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import stat
import threading
import time
from collections.abc import Iterator
from typing import Any

from cifar_flax.errors import UserError
from cifar_flax.run.files import name_in_errors

FILE = "lock"
BEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 60.0


def check(workdir: pathlib.Path) -> None:
  """Raises UserError, naming the owner, if another process has locked `workdir`."""
  with contextlib.suppress(FileNotFoundError):
    os.close(_acquire(workdir / FILE, os.O_RDONLY))


@contextlib.contextmanager
def hold(workdir: pathlib.Path) -> Iterator[None]:
  """Locks `workdir`, which is created if absent, for the duration of the context.

  Raises:
    UserError: another process has locked it.
    OSError: the lock file cannot be written.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / FILE
  file = _acquire(path, os.O_RDWR | os.O_CREAT)
  ended = threading.Event()
  beating = threading.Thread(target=_beat, args=(file, ended), daemon=True)
  beating.start()
  try:
    owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
    with name_in_errors(path):
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
  """Updates the modification time of the lock file until `ended` is set."""
  while not ended.wait(BEAT_SECONDS):
    with contextlib.suppress(OSError):  # other writes report a full disk
      os.utime(file)


def _acquire(path: pathlib.Path, flags: int) -> int:
  """Opens and locks the file; returns its descriptor."""
  file = os.open(path, flags | os.O_NONBLOCK, 0o666)  # a named pipe would block
  try:
    if not stat.S_ISREG(os.fstat(file).st_mode):
      raise UserError(f"{path}: is not a file; remove it")
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise _locked(path, _owner(file)) from None
    except OSError:  # a file system without flock: only the heartbeat is checked
      pass
    owner = _owner(file)
    age = time.time() - os.fstat(file).st_mtime
    elsewhere = owner and owner.get("host") != socket.gethostname()
    if elsewhere and age < DEAD_AFTER_SECONDS:
      raise _locked(path, owner, age)
  except BaseException:
    os.close(file)
    raise
  return file


def _owner(file: int) -> dict[str, Any]:
  """Returns `pid` and `host` of the owner, or {} if the file does not name one."""
  try:
    owner = json.loads(os.pread(file, 4096, 0))
    known = isinstance(owner["pid"], int) and isinstance(owner["host"], str)
  except (KeyError, RecursionError, TypeError, ValueError):
    return {}
  return owner if known else {}


def _locked(
  path: pathlib.Path, owner: dict[str, Any], age: float | None = None
) -> UserError:
  """Returns the error that names the owner and, if given, the heartbeat's age in s."""
  who = f"process {owner.get('pid', '?')} on {owner.get('host', 'an unknown host')}"
  hint = "wait until it ends, or choose another --workdir"
  if age is not None:
    hint += (
      f"; its last heartbeat was {age:.0f} s ago, and it is considered dead after "
      f"{DEAD_AFTER_SECONDS:.0f} s"
    )
  return UserError(f"{path.parent}: {who} is writing here; {hint}")
