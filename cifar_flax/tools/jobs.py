"""Trains many runs, one after another or several at once, for `reproduce` and `sweep`.

Each run has its own run directory and is what `cifar_flax.main` makes of its command,
so rerunning the same command resumes where it was stopped.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import pathlib
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from cifar_flax import config as config_lib
from cifar_flax import effects
from cifar_flax.config import Config
from cifar_flax.errors import Stopped, UserError
from cifar_flax.run import directory, signals, streams
from cifar_flax.tools import slots
from cifar_flax.tools.forecast import Forecast

MAIN = (sys.executable, "-m", "cifar_flax.main")  # how a user trains the same run
USER_ERROR = 2  # exit code of a command that was given wrong input
STOPPED = signals.EXIT_CODES
WORKER = (sys.executable, "-m", "cifar_flax.tools.worker")
# How often to print which runs are still saving.
SECONDS_BETWEEN_REMINDERS = 30.0
# How long to wait after a second Ctrl-C, which ends the runs that received it too.
SECONDS_AFTER_SECOND_CTRL_C = 1.0
# How long a worker whose run has ended may take to exit before it is killed.
SECONDS_TO_EXIT = 60.0
SECONDS_BETWEEN_POLLS = 0.05


@dataclasses.dataclass(frozen=True)
class Job:
  """A planned run.

  Attributes:
    config: its complete config, including overrides and seed.
    workdir: its run directory.
    command: the command that trains it.
  """

  config: Config
  workdir: pathlib.Path
  command: list[str]


class Process(Protocol):
  """A run that is being trained; the members of `subprocess.Popen` that are used.

  Attributes:
    pid: its process id.
  """

  pid: int

  def poll(self) -> int | None:
    """Returns the run's exit code, or None while it is being trained."""

  def send_signal(self, number: int) -> None:
    """Sends a signal to the process."""


def plan(path: str, overrides: Mapping[str, str], workdir: pathlib.Path) -> Job:
  """Plans a run of a config file with overridden keys.

  Args:
    path: the config file.
    overrides: the text of each overridden key's value.
    workdir: the run directory.

  Raises:
    UserError: there is no such config, a key or value is wrong, or `workdir` contains a
      different run.
  """
  config = config_lib.load(path)
  overrides = effects.effective(config, overrides)  # `main` refuses the others
  config = config_lib.override(config, overrides)
  command = [*MAIN, "--config", path, "--workdir", str(workdir)]
  command += [f"--config.{key}={value}" for key, value in overrides.items()]
  job = Job(config_lib.validate(config), workdir, command)
  _check_workdir(job)
  return job


def _check_workdir(job: Job) -> None:
  """Raises UserError if a run directory contains a different run.

  `main` would raise as well, but only when it starts the run, possibly hours later.
  """
  file, rows = job.workdir / "config.json", job.workdir / "metrics.jsonl"
  if not file.exists():
    return
  try:
    trained, free = config_lib.load(str(file)), directory.free_keys(job.config)
  except UserError as error:  # the run compares its checkpoint, and writes it again
    logging.warning("%s; continuing without it", error)
    return
  for key, (before, now) in effects.differences(trained, job.config).items():
    if config_lib.is_moved_folder(key, before, now):
      _check_data(job)
    elif key not in free:
      raise UserError(
        f"config.{key}={now!r}: {job.workdir} was trained with {before!r}; use that "
        "value or another --output"
      )
  done = rows.read_bytes().count(b"\n") if rows.exists() else 0
  if done > job.config.num_epochs:
    raise UserError(
      f"config.num_epochs={job.config.num_epochs}: {job.workdir} has finished {done} "
      f"epochs; use {done} or more, or another --output"
    )


def _check_data(job: Job) -> None:
  """Raises UserError if a finished run was trained on other data than a folder has.

  A run that is not finished compares them when it is resumed.
  """
  if summary := finished_summary(job):
    known = _fingerprint(json.dumps(dataclasses.asdict(job.config.data)))
    if summary["data"]["fingerprint"] != known:
      raise UserError(
        f"{config_lib.shown_data(job.config.data)}: {job.workdir} was trained on other "
        "data; restore them or use another --output"
      )


@functools.cache
def _fingerprint(data: str) -> str:
  from cifar_flax.data import datasets  # imports TFDS

  return datasets.load(config_lib.Data(**json.loads(data))).info.fingerprint


def finished_summary(job: Job) -> dict[str, Any] | None:
  """Returns the summary of a finished job, or None if the job is not finished."""
  return directory.finished_summary(job.workdir, job.config)


class Worker:
  """A process that trains one run after another, and the run that it trains now.

  It is a `Process`: its exit codes are those of the run.
  """

  def __init__(self, slot: int | None, number: int):
    """Starts the process.

    Args:
      slot: None if runs are trained one at a time: they use all devices and print to
        this terminal. Otherwise, the index of the only accelerator that they use or, if
        there is none, of their share of the CPU; each prints to `log.txt` in its run
        directory.
      number: number of slots.
    """
    self._has_slot = slot is not None
    environment, cores = dict(os.environ), set()
    if slot is not None:
      environment |= slots.device_variables(slot, os.environ)
      cores = slots.cores(slot, number, os.environ)
    reader, writer = os.pipe()
    self._process = subprocess.Popen(
      [*WORKER, str(writer)],
      stdin=subprocess.PIPE,
      pass_fds=[writer],
      env=environment,
      text=True,
    )
    os.close(writer)
    if cores:  # before it has any other thread
      with contextlib.suppress(ProcessLookupError):  # dead: `wait` finds its code
        os.sched_setaffinity(self._process.pid, cores)
    self._answers = os.fdopen(reader)
    self._code: int | None = None
    self.pid = self._process.pid

  def train(self, job: Job) -> None:
    """Makes the process train a run; the run before must have ended."""
    log = None
    if self._has_slot:
      job.workdir.mkdir(parents=True, exist_ok=True)
      log = str(job.workdir / "log.txt")
    order = {"arguments": job.command[len(MAIN) :], "log": log}
    self._code, stdin = None, self._process.stdin
    assert stdin is not None
    with contextlib.suppress(BrokenPipeError):  # dead: `wait` finds its code
      stdin.write(json.dumps(order) + "\n")
      stdin.flush()

  def wait(self, timeout: float | None = None) -> int:
    """Waits for the run to end and returns its exit code.

    Raises:
      subprocess.TimeoutExpired: it did not end within `timeout` seconds.
    """
    if self._code is None:
      if not select.select([self._answers], [], [], timeout)[0]:
        raise subprocess.TimeoutExpired(self._process.args, timeout or 0.0)
      line = self._answers.readline()
      # A process that a signal ended has the exit code of a run that it stopped.
      code = int(line) if line else self._process.wait()
      self._code = signals.shell_code(code) if -code in signals.SIGNALS else code
    return self._code

  def poll(self) -> int | None:
    """Returns the run's exit code, or None while it is being trained."""
    with contextlib.suppress(subprocess.TimeoutExpired):
      return self.wait(0.0)
    return None

  def send_signal(self, number: int) -> None:
    """Sends a signal to the process."""
    self._process.send_signal(number)

  def can_train(self) -> bool:
    """Returns whether the process is ready for another run."""
    return self._code not in (None, *STOPPED) and self._process.poll() is None

  def close(self) -> None:
    """Ends the process unless it is training, and waits for its end."""
    assert self._process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    if self._code is not None:
      try:
        self._process.wait(SECONDS_TO_EXIT)
      except subprocess.TimeoutExpired:  # its run has ended, so nothing is lost
        self._process.kill()
        self._process.wait()
    self._answers.close()


class Workers:
  """Starts runs, each in the worker of its slot; close it at the end."""

  def __init__(self, number: int = 1):
    """Prepares for `number` runs at the same time on this machine."""
    self._number, self._of_slot = number, dict[int | None, Worker]()

  def __call__(self, job: Job, slot: int | None) -> Worker:
    """Starts a run; for `slot`, see `Worker`."""
    worker = self._of_slot.get(slot)
    if worker is None or not worker.can_train():
      if worker is not None:
        worker.close()
      worker = self._of_slot[slot] = Worker(slot, self._number)
    worker.train(job)
    return worker

  def close(self) -> None:
    """Ends the processes that are not training."""
    for worker in self._of_slot.values():
      worker.close()


def train_all(
  jobs: Sequence[Job],
  after_each: Callable[[dict[pathlib.Path, int]], None] = lambda failures: None,
  at_once: int = 1,
  start: Callable[[Job, int | None], Process] | None = None,
  stop_codes: Sequence[int] = STOPPED,
) -> int:
  """Trains the runs that are not finished.

  One process trains all runs of a slot, one after another, so that those that differ
  only in seed and schedule share what is compiled. If it dies, the next run has a new
  one.

  Args:
    jobs: the runs, in order.
    after_each: called after each run with the exit codes of all failed runs.
    at_once: number of runs trained at the same time, each in its own slot.
    start: starts a run, given its slot, which is None if `at_once` is 1; `Workers` by
      default.
    stop_codes: if a run exits with one of these codes, no further run is started.

  Returns:
    0 if all runs are finished, the code in `stop_codes` that a run exited with, or 1 if
    a run failed otherwise.

  Raises:
    Stopped: a signal asked this process to stop; the runs have saved and ended.
    KeyboardInterrupt: a second Ctrl-C asked it to end without waiting for them.
  """
  failures: dict[pathlib.Path, int] = {}
  waiting = [(f"[{i}/{len(jobs)}] {job.workdir}", job) for i, job in enumerate(jobs, 1)]
  code, workers, forecast = 0, Workers(at_once), Forecast(jobs, at_once)
  with (
    streams.guarded(lasts=True),
    _Signals() as asked,
    contextlib.closing(workers),
    _Pool(at_once, start or workers, asked) as pool,
  ):
    while waiting or pool.running:
      while waiting and pool.free_slots():
        label, job = waiting.pop(0)
        if finished_summary(job):
          print(f"{label}: already finished", flush=True)
        else:
          print(f"{label}: {shlex.join(job.command)}", flush=True)
          pool.start(label, job)
      for label, job, exit_code in pool.poll_exited():
        if failed := exit_code or not finished_summary(job):
          failures[job.workdir] = int(failed)
          print(f"{label}: {_failure(int(failed))}", file=sys.stderr, flush=True)
        elif at_once > 1:
          print(f"{label}: done", flush=True)
        after_each(failures)
        forecast.renew()
        if exit_code in stop_codes:
          waiting, code = [], exit_code
      if not code:
        forecast.say([*pool.jobs(), *(job for _, job in waiting)])
    if number := asked.request.signal:
      raise Stopped(number, saved=False)
  return code or (1 if failures else 0)


def _failure(code: int) -> str:
  """Returns the words for a run that has exited with an error."""
  if code in STOPPED:
    return f"was stopped by {signal.Signals(code - 128).name}"
  return f"failed with exit code {code}"


class _Signals:
  """A context manager that records the signals that ask this process to stop.

  Its handlers do not raise: an exception between the start of a process and its entry
  in `_Pool.running` would leave that process behind.

  Attributes:
    request: the signals.
    interrupted: whether there was a second Ctrl-C.
  """

  def __init__(self) -> None:
    self.request, self.interrupted = signals.Request(), False
    self._before: dict[int, Any] = {}  # the previous handlers

  def __enter__(self) -> "_Signals":
    if threading.current_thread() is threading.main_thread():
      heeded = signals.heeded()
      self._before = {n: signal.signal(n, self._record) for n in heeded}
    return self

  def _record(self, number: int, frame: Any) -> None:
    self.interrupted |= self.request.add(number)

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)


class _Pool:
  """A context manager that trains several runs at once and stops them on exit.

  Attributes:
    running: the label, job and process of each occupied slot.
  """

  def __init__(
    self,
    number: int,
    start: Callable[[Job, int | None], Process],
    asked: _Signals,
  ):
    self._number, self._start_process, self._asked = number, start, asked
    self.running: dict[int, tuple[str, Job, Process]] = {}

  def free_slots(self) -> list[int]:
    """Returns the slots without a run."""
    return [slot for slot in range(self._number) if slot not in self.running]

  def jobs(self) -> list[Job]:
    """Returns the runs that are being trained."""
    return [job for _, job, _ in self.running.values()]

  def start(self, label: str, job: Job) -> None:
    """Starts a run in the first free slot."""
    slot = self.free_slots()[0]
    process = self._start_process(job, None if self._number == 1 else slot)
    self.running[slot] = label, job, process

  def poll_exited(self) -> Iterator[tuple[str, Job, int]]:
    """Yields label, job and exit code of the runs that have exited, then sleeps.

    Raises:
      Stopped: a signal asks this process to stop.
    """
    if number := self._asked.request.signal:
      raise Stopped(number, saved=False)
    yield from self._take_exited()
    time.sleep(SECONDS_BETWEEN_POLLS if self.running else 0)

  def _take_exited(self) -> Iterator[tuple[str, Job, int]]:
    for slot, (label, job, process) in list(self.running.items()):
      if (code := process.poll()) is not None:
        del self.running[slot]
        yield label, job, code

  def __enter__(self) -> "_Pool":
    return self

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    """Asks all runs to stop and waits until they have saved and ended.

    Raises:
      KeyboardInterrupt: a second Ctrl-C; what is still saving has been printed.
    """
    # Ctrl-C is passed on as SIGTERM: to a run that the terminal has sent it as well, a
    # late SIGINT would look like a second Ctrl-C.
    number = self._asked.request.signal
    number = signal.SIGTERM if number in (0, signal.SIGINT) else number
    for _, _, process in self.running.values():
      for each in (number, signal.SIGCONT):  # a stopped process has to be woken
        process.send_signal(each)
    reminder = time.monotonic() + SECONDS_BETWEEN_REMINDERS
    end = float("inf")
    while self.running and time.monotonic() < end:
      for label, _, code in self._take_exited():
        if code and code not in STOPPED:
          print(f"{label}: {_failure(code)}", file=sys.stderr, flush=True)
      if self._asked.interrupted:
        end = min(end, time.monotonic() + SECONDS_AFTER_SECOND_CTRL_C)
      elif time.monotonic() >= reminder:
        reminder += SECONDS_BETWEEN_REMINDERS
        self._print_running("waiting for process {} to save and end")
      time.sleep(SECONDS_BETWEEN_POLLS if self.running else 0)
    if self.running:
      self._print_running("process {} is still saving and will end by itself")
      raise KeyboardInterrupt

  def _print_running(self, text: str) -> None:
    for label, _, process in self.running.values():
      line = f"{label}: {text.format(process.pid)}"
      print(line, file=sys.stderr, flush=True)
