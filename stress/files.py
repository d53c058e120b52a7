"""Experiments on files: damaged checkpoints, full disks, two writers, other configs."""

import os
import pathlib
import resource
import subprocess
import time
from collections.abc import Callable

from stress.lab import Lab, Row, checkpoints, outcome, rows, state_hash, verdict

DAMAGES: dict[str, Callable[[pathlib.Path], object]] = {
  "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
  "emptied": lambda path: os.truncate(path, 0),
  "a bit flipped": lambda path: _flip(path),
  "removed": lambda path: path.unlink(),
}


def _flip(path: pathlib.Path) -> None:
  data = bytearray(path.read_bytes())
  data[len(data) // 3] ^= 4
  path.write_bytes(data)


def damage(lab: Lab) -> list[Row]:
  """Checks that a run survives damage to its newest checkpoint, but not to all of them.

  With the newest damaged it falls back to the one before and ends bit-equal to the
  unbroken run. With all damaged it exits with code 2 and an error message.
  """
  lab.complete(reference := lab.new("unbroken"))
  expected, found = outcome(reference), []
  for name, harm in DAMAGES.items():
    lab.complete(workdir := lab.new("damaged"), num_epochs="4")
    newest = checkpoints(workdir)[0]
    harm(newest)
    (workdir / "summary.json").unlink()
    code, error = lab.finish(lab.command(workdir))
    warnings = [line for line in error.splitlines() if newest.name in line]
    same = code == 0 and outcome(workdir) == expected
    good = same and len(warnings) == (0 if name == "removed" else 1)
    text = f"{'; '.join(warnings)[-70:] or 'no warning'}; then {verdict(same)}"
    found.append(Row(f"newest checkpoint {name}", 1, text, good))
    for path in checkpoints(workdir):
      harm(path)
    (workdir / "summary.json").unlink()
    code, error = lab.finish(lab.command(workdir))
    last = error.strip().splitlines()[-1]
    good = code == 2 and last.startswith("error:")
    found.append(
      Row(f"all checkpoints {name}", 1, f"exit code {code}: {last[-70:]}", good)
    )
  return found


def full_disk(lab: Lab, sizes: int = 12) -> list[Row]:
  """Checks runs whose files may not exceed a size, for limits from 0 bytes upwards."""
  lab.complete(reference := lab.new("unbroken"))
  expected, largest = outcome(reference), checkpoints(reference)[0].stat().st_size
  problems, refused = [], 0
  limits = [0, 10, 100, 1000, 5000, *(largest * i // sizes for i in range(1, sizes))]
  for limit in limits:
    workdir = lab.new("full")
    lab.begin(workdir)
    before = {path.name: state_hash(path) for path in checkpoints(workdir)}

    def shrink(limit: int = limit) -> None:
      resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    code, error = lab.finish(lab.command(workdir), preexec_fn=shrink)
    last = (error.strip().splitlines() or [""])[-1]
    refused += code != 0
    if code == 0 or str(workdir) not in last or "Traceback" in error:
      problems.append(f"limit {limit}: exit code {code}: {last}")
    left = {path.name: state_hash(path) for path in checkpoints(workdir)}
    if not before.items() <= left.items():
      problems.append(f"limit {limit}: an earlier checkpoint is gone")
    lab.complete(workdir)
    if outcome(workdir) != expected:
      problems.append(f"limit {limit}: the resumed run has another result")
  text = f"{refused} failed with a line with the path, exit code 1; then bit-equal"
  text = problems[0] if problems else text
  return [Row("file size limits, at each write", len(limits), text, not problems)]


def small_disk(lab: Lab) -> list[Row]:
  """Checks a run on a tmpfs that is too small, then read-only, then large enough."""
  lab.complete(reference := lab.new("unbroken"))
  expected, largest = outcome(reference), checkpoints(reference)[0].stat().st_size
  problems: list[str] = []
  for kib in (4, *(largest * i // 1024 for i in (1, 2, 3, 4))):
    workdir = lab.new("mounted")
    workdir.mkdir()
    if not _mount(f"size={kib}k", workdir):
      return [Row("a small tmpfs", 0, "skipped: mounting a tmpfs needs root", True)]
    try:
      problems += _fill(lab, workdir, f"{kib} KiB")
      _mount("remount,size=64m", workdir)
      lab.complete(workdir)
      if outcome(workdir) != expected:
        problems.append(f"{kib} KiB: the resumed run has another result")
    finally:
      subprocess.run(["umount", workdir], check=True)
  text = "a line with the path, exit code 1, twice; earlier checkpoints intact; then "
  text = problems[0] if problems else text + verdict(True)
  return [Row("a small tmpfs, then read-only", 5, text, not problems)]


def _fill(lab: Lab, workdir: pathlib.Path, size: str) -> list[str]:
  """Runs on the full disk, then on the read-only disk; returns the problems found."""
  problems = []
  for options in ("", "remount,ro"):
    if options and not _mount(options, workdir):
      problems.append(f"{size}: cannot be remounted")
    code, error = lab.finish(lab.command(workdir))
    last = (error.strip().splitlines() or [""])[-1]
    if code != 1 or str(workdir) not in last or "Traceback" in error:
      problems.append(f"{size} {options}: exit code {code}: {last}")
    for path in checkpoints(workdir):
      state_hash(path)  # fails if it is not whole
  _mount("remount,rw", workdir)
  return problems


def _mount(options: str, folder: pathlib.Path) -> bool:
  command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
  return subprocess.run(command, capture_output=True).returncode == 0


def no_quota(lab: Lab) -> list[Row]:
  """Checks runs in which opening, syncing or replacing a checkpoint file fails.

  The errors are EDQUOT (over quota), EROFS (read-only) and ENOSPC (disk full).
  """
  found = []
  for name in ("EDQUOT", "EROFS", "ENOSPC"):
    problems = []
    for call in ("open", "fsync", "replace"):
      workdir = lab.new("refused")
      program = _REFUSE.format(name=name, call=call, folder=str(workdir))
      command = lab.command(workdir)
      command[1:3] = ["-c", program]
      code, error = lab.finish(command)
      last = (error.strip().splitlines() or [""])[-1]
      if code != 1 or str(workdir) not in last or "Traceback" in error:
        problems.append(f"{call}: exit code {code}: {last}")
    text = problems[0] if problems else "a line with the path, exit code 1"
    found.append(Row(f"{name} from open, fsync, replace", 3, text, not problems))
  return found


_REFUSE = """
import errno, os, sys, builtins
from cifar_flax import main
original, opened = os.{call}, builtins.open
def refuse(path, *args, **kwargs):
  name = os.readlink(f"/proc/self/fd/{{path}}") if type(path) is int else str(path)
  if "checkpoints" in name and "{folder}" in name:
    raise OSError(errno.{name}, os.strerror(errno.{name}))
  return original(path, *args, **kwargs)
def refuse_open(path, mode="r", *args, **kwargs):
  if "w" in mode and "checkpoints" in str(path) and "{folder}" in str(path):
    raise OSError(errno.{name}, os.strerror(errno.{name}))
  return opened(path, mode, *args, **kwargs)
if "{call}" == "open":
  builtins.open = refuse_open
else:
  os.{call} = refuse
sys.exit(main.main(sys.argv[1:]))
"""


def two_writers(lab: Lab) -> list[Row]:
  """Checks that a run directory has one writer at a time.

  A second process is refused while the lock owner lives. A dead owner, or one on
  another host whose last heartbeat is stale, does not block.
  """
  workdir = lab.new("shared")
  first = lab.start(lab.command(workdir))
  lab.wait_for(first, "first step")
  began = time.monotonic()
  code, error = lab.finish(lab.command(workdir))
  seconds = time.monotonic() - began
  good = code == 2 and f"process {first.pid} on " in error and seconds < 2
  first.kill()
  first.communicate()
  text = f"{error.strip()[:100]}... after {seconds:.1f} s"
  found = [Row("a second writer in a run directory", 1, text, good)]
  code, _ = lab.finish(lab.command(workdir))
  found.append(Row("the lock owner killed", 1, f"resumed, exit code {code}", code == 0))
  for age, wanted in ((30, 2), (90, 0)):
    lock = workdir / "lock"
    lock.write_text('{"pid": 7, "host": "another-host"}')
    os.utime(lock, (time.time() - age,) * 2)
    code, error = lab.finish(lab.command(workdir))
    text = f"exit code {code}" + (f": {error.strip()[:80]}..." if code else "")
    what = f"a lock owner on another host, last heartbeat {age} s ago"
    found.append(Row(what, 1, text, code == wanted))
  return found


REFUSED = {
  "seed": "1",
  "model.ops": "lax",
  "model.dtype": "bfloat16",
  "model.convolution": "plain",
  "batch_size": "32",
  "optimizer.name": "sgd",
  "schedule.learning_rate": "0.02",
  "augmentation.flip": "false",
  "data.train_split": "train[:640]",
  "ema_decay": "0.5",
  "num_epochs": "9",
}
ACCEPTED = {
  "eval_batch_size": "77",
  "steps_per_dispatch": "3",
  "checkpoint.keep": "1",
  "checkpoint.every_steps": "7",
  "checkpoint.min_seconds": "5",
}


def another_config(lab: Lab) -> list[Row]:
  """Checks which config keys may change when a run is resumed.

  A key that affects the result is refused by name; the others are accepted.
  """
  lab.complete(workdir := lab.new("other"))
  before, problems = outcome(workdir), []
  for key, value in REFUSED.items():
    code, error = lab.finish(lab.command(workdir, **{key.replace(".", "__"): value}))
    if code != 2 or f"config.{key}=" not in error:
      problems.append(f"{key}: exit code {code}: {error[-100:]}")
  if outcome(workdir) != before:
    problems.append("the run directory has changed")
  text = problems[0] if problems else "each refused by name"
  found = [Row("keys that affect the result", len(REFUSED), text, not problems)]
  problems = []
  for key, value in ACCEPTED.items():
    code, error = lab.finish(lab.command(workdir, **{key.replace(".", "__"): value}))
    problems += [f"{key}: {error[-100:]}"] if code else []
  staircase = "staircase"  # a schedule that does not depend on num_epochs
  lab.complete(workdir := lab.new("longer"), num_epochs="2", schedule__name=staircase)
  lab.complete(workdir, num_epochs="3", schedule__name=staircase)
  if len(rows(workdir)) != 3:
    problems.append("num_epochs: the added epoch was not trained")
  text = problems[0] if problems else "each accepted"
  what = "keys that do not affect the result"
  found.append(Row(what, len(ACCEPTED) + 1, text, not problems))
  return found
