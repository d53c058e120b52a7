"""Many runs, one after another or several at once: what `reproduce` and `sweep` share.

Each is a process of `cifar_flax.main` with a run directory of its own, so the same
command goes on where it was stopped.
"""

import contextlib
import dataclasses
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from cifar_flax import config as config_lib
from cifar_flax.config import Config
from cifar_flax.errors import UserError
from cifar_flax.run import directory

USER_ERROR, INTERRUPTED, TERMINATED = 2, 130, 143  # exit codes of cifar_flax.main
OWN_WAY = 10.0  # seconds that runs have to save and end after Ctrl-C by themselves
GRACE = 30.0  # and after SIGTERM
POLL = 0.05  # seconds


@dataclasses.dataclass(frozen=True)
class Job:
  """One run.

  Attributes:
    config: all of it, overrides and seed included.
    workdir: its run directory.
    command: trains it.
  """

  config: Config
  workdir: pathlib.Path
  command: list[str]


class Process(Protocol):
  """What is needed of `subprocess.Popen`."""

  def poll(self) -> int | None:
    """The exit code, None while it runs."""

  def wait(self, timeout: float | None = None) -> int:
    """The exit code, once it has ended."""

  def terminate(self) -> None:
    """Asks it to end."""


def plan(path: str, overrides: Mapping[str, str], workdir: pathlib.Path) -> Job:
  """The run of a config file with keys set from text.

  Raises:
    UserError: no such config, a wrong key or value, or `workdir` has another run.
  """
  config = config_lib.override(config_lib.load(path), dict(overrides))
  command = [sys.executable, "-m", "cifar_flax.main", "--config", path]
  command += ["--workdir", str(workdir)]
  command += [f"--config.{key}={value}" for key, value in overrides.items()]
  job = Job(config_lib.validate(config), workdir, command)
  _check_free(job)
  return job


def _check_free(job: Job) -> None:
  """Refuses now what `main` would refuse hours later."""
  file, rows = job.workdir / "config.json", job.workdir / "metrics.jsonl"
  if not file.exists():
    return
  before = config_lib.flatten(config_lib.load(str(file)))
  free = directory.free_keys(job.config)
  for key, now in config_lib.flatten(job.config).items():
    if key not in free and before[key] != now:
      raise UserError(
        f"config.{key}={now!r}: {job.workdir} was trained with {before[key]!r}; keep "
        "that, or choose another --output"
      )
  made = len(rows.read_text().splitlines()) if rows.exists() else 0
  if made > job.config.num_epochs:
    raise UserError(
      f"config.num_epochs={job.config.num_epochs}: {job.workdir} has finished {made} "
      "epochs; give as many or more, or another --output"
    )


def finished(job: Job) -> dict[str, Any] | None:
  """The summary in a job's run directory if it has all that the job asks for."""
  return directory.finished_summary(job.workdir, job.config)


def start_process(job: Job, place: int | None) -> Process:
  """Starts a run.

  Args:
    job: the run.
    place: None gives it this terminal and all devices; a number that accelerator
      alone, and its lines go to `log.txt` in its run directory.
  """
  if place is None:
    return subprocess.Popen(job.command)
  job.workdir.mkdir(parents=True, exist_ok=True)
  environment = {**os.environ, **_only(place, os.environ)}
  with open(job.workdir / "log.txt", "a") as log:
    return subprocess.Popen(job.command, env=environment, stdout=log, stderr=log)


def check_places(number: int, environment: Mapping[str, str]) -> None:
  """Raises UserError where fewer GPUs are given than runs at once."""
  given = _given(environment)
  if given is not None and 0 < len(given) < number:
    raise UserError(
      f"--at_once={number}: CUDA_VISIBLE_DEVICES={','.join(given)} gives {len(given)}"
    )


def _given(environment: Mapping[str, str]) -> list[str] | None:
  """The GPUs that the user names: none of them for "" and -1, None without a word."""
  text = environment.get("CUDA_VISIBLE_DEVICES")
  return None if text is None else [n for n in text.split(",") if n not in ("", "-1")]


def _only(place: int, environment: Mapping[str, str]) -> dict[str, str]:
  """Environment variables that leave a process one GPU or one TPU chip."""
  given = _given(environment)
  return {
    "CUDA_VISIBLE_DEVICES": str(place) if given is None else "".join(given[place:][:1]),
    "TPU_VISIBLE_CHIPS": str(place),
    "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
    "TPU_PROCESS_BOUNDS": "1,1,1",
  }


def train_all(
  jobs: Sequence[Job],
  after: Callable[[dict[pathlib.Path, int]], None] = lambda failures: None,
  at_once: int = 1,
  start: Callable[[Job, int | None], Process] = start_process,
  ends: Sequence[int] = (INTERRUPTED, TERMINATED),
) -> int:
  """Makes the runs that are not finished.

  Args:
    jobs: the runs, in order.
    after: called after each with the exit codes of those that failed.
    at_once: how many run beside each other, each with an accelerator of its own.
    start: starts one, given its place, None if it runs alone.
    ends: exit codes of a run after which no other is started.

  Returns:
    0, or 1 if a run failed, or the one of `ends` that a run ended with.
  """
  failures: dict[pathlib.Path, int] = {}
  waiting = [(f"[{i}/{len(jobs)}] {job.workdir}", job) for i, job in enumerate(jobs, 1)]
  code = 0
  with _Places(at_once, start) as places:
    while waiting or places.taken:
      while waiting and places.free():
        where, job = waiting.pop(0)
        if finished(job):
          print(f"{where}: is finished", flush=True)
        else:
          print(f"{where}: {shlex.join(job.command)}", flush=True)
          places.take(where, job)
      for where, job, ended in places.ended():
        if failed := ended or not finished(job):
          failures[job.workdir] = int(failed)
          said = f"{where}: failed with exit code {int(failed)}"
          print(said, file=sys.stderr, flush=True)
        elif at_once > 1:
          print(f"{where}: done", flush=True)
        after(failures)
        if ended in ends:
          waiting, code = [], ended
  return code or (1 if failures else 0)


class _Places:
  """Runs that go on beside each other; none stays behind when it is left.

  Attributes:
    taken: the run in each place that has one: what it is called, itself, its process.
  """

  def __init__(self, number: int, start: Callable[[Job, int | None], Process]):
    self._number, self._start = number, start
    self._told: int | None = None  # the signal that asked for an end
    self.taken: dict[int, tuple[str, Job, Process]] = {}

  def free(self) -> list[int]:
    """The places without a run."""
    return [place for place in range(self._number) if place not in self.taken]

  def take(self, where: str, job: Job) -> None:
    """Starts a run in the first free place."""
    place = self.free()[0]
    process = self._start(job, None if self._number == 1 else place)
    self.taken[place] = where, job, process

  def ended(self) -> Iterator[tuple[str, Job, int]]:
    """Waits a little; the runs that have ended, and their exit codes.

    Raises:
      SystemExit: SIGTERM has come.
    """
    if self._told is not None:
      sys.exit(128 + self._told)
    for place, (where, job, process) in list(self.taken.items()):
      if (code := process.poll()) is not None:
        del self.taken[place]
        yield where, job, code
    time.sleep(POLL if self.taken else 0)

  def __enter__(self) -> "_Places":
    # Not an exception: it could come between the start of a run and its being known.
    self._before = signal.signal(signal.SIGTERM, self._tell)
    return self

  def _tell(self, number: int, frame: Any) -> None:
    self._told = number

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    signal.signal(signal.SIGTERM, self._before)
    processes = [process for _, _, process in self.taken.values()]
    if isinstance(error, KeyboardInterrupt):  # has most likely reached them as well
      _wait(processes, OWN_WAY)
    for process in processes:
      if process.poll() is None:
        process.terminate()
    _wait(processes, GRACE)
    if processes:
      print("the same command goes on from here", file=sys.stderr)


def _wait(processes: Sequence[Process], seconds: float) -> None:
  """Waits for their ends, so long at most."""
  end = time.monotonic() + seconds
  for process in processes:
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(max(0.0, end - time.monotonic()))
