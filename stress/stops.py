"""Experiments on ends of runs: SIGKILL, SIGTERM, Ctrl-C and divergence."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from cifar_flax.run import signals as library
from cifar_flax.run.checkpoints import read
from stress.lab import Lab, Row, checkpoints, kill, outcome, rows, seconds_of, verdict

# Text that a run prints on standard error when a phase begins.
PHASES = ("first step", "epoch 1/", "epoch 2/")


def kills(lab: Lab, count: int, seed: int = 0) -> list[Row]:
  """Checks that runs killed and resumed until they finish equal an unbroken run.

  SIGKILL comes at uniformly random times. Half of the kills are of runs that also save
  within epochs.
  """
  random.seed(seed)
  rows_found = []
  for name, changed in (
    ("", {}),
    (", saved every 5 steps", {"checkpoint__every_steps": "5"}),
  ):
    seconds = seconds_of(lab, reference := lab.new("unbroken"))
    expected = outcome(reference)
    made = runs = 0
    problems: list[str] = []
    while made < count // 2:
      workdir = lab.new("killed")
      command = lab.command(workdir, **changed)
      while kill(lab.start(command), random.uniform(0, seconds)):
        made += 1
        problems += _unreadable(workdir)
      runs += 1
      if outcome(workdir) != expected:
        problems.append("the result differs from the unbroken run's")
    found = f"{runs} runs finished, {len(problems)} problems"
    found += f": {problems[0]}" if problems else ", all bit-equal to the unbroken run"
    rows_found.append(Row(f"SIGKILL{name}", made, found, not problems))
  return rows_found


def _unreadable(workdir: pathlib.Path) -> list[str]:
  """Returns a list with the error of the first damaged file of a run, if any."""
  problems = []
  try:
    rows(workdir)
    for path in checkpoints(workdir):
      read(path)
  except Exception as error:  # any error means that something is damaged
    problems.append(f"{type(error).__name__}: {error}")
  return problems


def signals(lab: Lab) -> list[Row]:
  """Checks that each signal stops a run in the first steps, and two in every phase."""
  lab.complete(reference := lab.new("unbroken"))
  expected = outcome(reference)
  found = []
  for number in library.SIGNALS:
    code = 128 + number
    every = number in (signal.SIGTERM, signal.SIGINT)
    for phase, wait in _phases(lab).items():
      if not every and phase != "in the first steps":
        continue
      workdir = lab.new("signalled")
      process = lab.start(lab.command(workdir))
      wait(process)
      seconds, _ = _stop(process, number)
      at_once = phase in ("importing", "loading")
      good = process.returncode in ((code, -number) if at_once else (code,))
      good &= seconds < (2 if at_once else 10)
      lab.complete(workdir)
      good &= (same := outcome(workdir) == expected)
      text = _ended(process, seconds, same)
      found.append(Row(f"{number.name} {phase}", 1, text, good))
  return found


# Makes every write of a checkpoint take long enough to be hit by a second signal.
_SLOW = """
import sys, time
from cifar_flax import __main__ as commands
from cifar_flax import main
from cifar_flax.run import checkpoints
from cifar_flax.tools import jobs
write = checkpoints.write_atomically
def slow(path, data):
  print("saving", file=sys.stderr, flush=True)
  time.sleep(3)
  write(path, data)
checkpoints.write_atomically = slow
if "--worker" in sys.argv:
  from cifar_flax.tools import worker
  import os
  worker.serve(iter(sys.stdin.readline, ""), os.fdopen(int(sys.argv[2]), "w"))
  sys.exit()
jobs.WORKER = (sys.executable, "-c", sys.argv[1], "--worker")
sys.exit(commands.main(sys.argv[2:]))
"""


def groups(
  lab: Lab,
  commands: Sequence[str] = ("train", "sweep"),
  numbers: Sequence[signal.Signals] = library.SIGNALS,
) -> list[Row]:
  """Checks that a request to stop loses nothing if it arrives as several signals.

  `timeout` signals its child and then its process group; a terminal signals the group;
  a sweep passes on what it receives. Each way stops a run, and a sweep of one run,
  which take 3 s to save. While they save, the same arrives again, and SIGTERM after
  2 s. The resumed run must be bit-equal to an unbroken one.
  """
  lab.complete(reference := lab.new("unbroken"))
  expected, found = outcome(reference), []
  ways: dict[str, Callable[[subprocess.Popen, int], None]] = {
    "process": lambda process, number: process.send_signal(number),
    "group": lambda process, number: os.killpg(process.pid, number),
    "both": lambda process, number: _to_both(process, number),
  }
  for command in commands:
    for number in numbers:
      for way, send in ways.items():
        if way != "both" and number not in (signal.SIGTERM, signal.SIGINT):
          continue
        workdir = lab.new("grouped")
        process = _start_slow(lab, command, workdir)
        lab.wait_for(process, "first step")
        send(process, number)
        lab.wait_for(process, "saving")
        send(process, number)
        time.sleep(2)
        os.killpg(process.pid, signal.SIGTERM)
        began = time.monotonic()
        process.communicate(timeout=60)
        seconds = time.monotonic() - began
        run = workdir if command == "train" else workdir / "seed0"
        saved = bool(checkpoints(run))
        lab.complete(run)
        same = outcome(run) == expected
        good = process.returncode == 128 + number and saved and same
        text = _ended(process, seconds, same) + ("" if saved else "; NOT saved")
        found.append(Row(f"{number.name} to {command}, {way}", 1, text, good))
  return found


def _start_slow(lab: Lab, command: str, workdir: pathlib.Path) -> subprocess.Popen:
  """Starts `train` or a `sweep` of one run, whose saves are slow."""
  words = lab.command(workdir)[3:]
  if command == "sweep":
    words[words.index("--workdir")] = "--output"
  program = [sys.executable, "-c", _SLOW, _SLOW, command, *words]
  return lab.start(program, process_group=0)


def _to_both(process: subprocess.Popen, number: int) -> None:
  """Sends a signal to a process and to its group, as `timeout` does."""
  process.send_signal(number)
  os.killpg(process.pid, number)


def interruptions(lab: Lab, count: int = 20) -> list[Row]:
  """Checks that runs stopped at random times and resumed equal an unbroken run.

  SIGTERM or Ctrl-C may come within a step, an evaluation or a save.
  """
  random.seed(1)
  seconds = seconds_of(lab, reference := lab.new("unbroken"))
  expected, found = outcome(reference), []
  for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
    made, slowest, problems = 0, 0.0, []
    while made < count // 2:
      command = lab.command(workdir := lab.new("interrupted"))
      while True:
        process = lab.start(command)
        try:
          process.communicate(timeout=random.uniform(0, seconds))
          break
        except subprocess.TimeoutExpired:
          left, last = _stop(process, number)
          slowest = max(slowest, left)
        made += 1
        if process.returncode == 0:  # the run finished before the signal took effect
          break
        # In its first 30 ms Python is still starting and exits by itself, with 1.
        starting = process.returncode == 1 and last == "KeyboardInterrupt"
        if process.returncode not in (code, -number) and not starting:
          problems.append(f"exit code {process.returncode}: {last}")
        problems += _unreadable(workdir)
      if outcome(workdir) != expected:
        problems.append("the result differs from the unbroken run's")
    text = problems[0] if problems else f"exit code {code}, then {verdict(True)}"
    text += f"; the slowest exited after {slowest:.1f} s"
    good = not problems and slowest < 10
    found.append(Row(f"{number.name} at random times", made, text, good))
  return found


def _phases(lab: Lab) -> dict[str, Callable[[subprocess.Popen], object]]:
  return {
    "importing": lambda process: time.sleep(0.8),
    "loading": lambda process: time.sleep(2.0),
    "in the first steps": lambda process: lab.wait_for(process, PHASES[0]),
    "after an epoch": lambda process: lab.wait_for(process, PHASES[1]),
    "after two": lambda process: lab.wait_for(process, PHASES[2]),
  }


def _stop(process: subprocess.Popen, number: int) -> tuple[float, str]:
  """Sends a signal; returns the seconds until the exit and the last line on stderr."""
  began = time.monotonic()
  process.send_signal(number)
  error = process.communicate(timeout=60)[1]
  return time.monotonic() - began, (error.strip().splitlines() or [""])[-1]


def _ended(process: subprocess.Popen, seconds: float, same: bool) -> str:
  code = process.returncode
  code = 128 - code if code < 0 else code  # as a shell reports it
  return f"exit code {code} after {seconds:.1f} s; then {verdict(same)}"


def divergence(lab: Lab) -> list[Row]:
  """Checks that a run with a far too high learning rate stops without saving NaN."""
  workdir = lab.new("diverged")
  extreme = {
    "schedule__name": "constant",
    "schedule__learning_rate": "100",
    "optimizer__name": "sgd",
    "optimizer__weight_decay": "1",
    "checkpoint__every_steps": "1",
  }
  code, error = lab.finish(lab.command(workdir, **extreme))
  last = error.strip().splitlines()[-1]
  words = ("diverged", "not finite", "learning rate ")
  good = code == 1 and all(word in last for word in words)
  good &= bool(saved := checkpoints(workdir))
  good &= all(not _has_nan(path) for path in saved)
  return [Row("learning rate 100", 1, f"exit code {code}: {last}", good)]


def _has_nan(path: pathlib.Path) -> bool:
  import jax
  import numpy as np

  leaves = jax.tree.leaves(read(path)["state"])
  return not all(np.isfinite(leaf).all() for leaf in leaves)
