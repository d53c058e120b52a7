"""Helpers of the experiments: start small runs and read their run directories."""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
# Columns of metrics.jsonl that may differ between equal runs.
CLOCKS = ("seconds", "images_per_second")

# Four epochs of twelve steps, with everything that a checkpoint has to restore:
# BatchNorm, dropout, augmentation and moving averages.
RUN = {
  "num_epochs": "4",
  "batch_size": "64",
  "eval_batch_size": "100",
  "steps_per_dispatch": "4",
  "ema_decay": "0.9",
  "data.train_split": "train[:800]",
  "data.eval_split": "test[:500]",
  "checkpoint.min_seconds": "0",
  "checkpoint.keep": "3",
}


class Row(NamedTuple):
  """A row of the printed table.

  Attributes:
    what: the experiment.
    times: how often it was repeated.
    found: its result in words.
    passed: whether the result is as required.
  """

  what: str
  times: int
  found: str
  passed: bool


class Lab:
  """Starts runs below one folder that share data and caches and nothing else.

  Attributes:
    folder: parent of the run directories, the data and the caches.
    environment: environment variables of every process that is started.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.environment = os.environ | {
      "XDG_CACHE_HOME": str(folder / "cache"),
      "TFDS_DATA_DIR": str(folder / "data"),
      "JAX_PLATFORMS": "cpu",
    }

  def new(self, name: str) -> pathlib.Path:
    """Returns the path of a run directory, after removing what is there."""
    shutil.rmtree(self.folder / name, ignore_errors=True)
    return self.folder / name

  def command(self, workdir: pathlib.Path, **changed: str) -> list[str]:
    """Returns a small run's command; `data__eval_split="test"` overrides a key."""
    values = RUN | {key.replace("__", "."): value for key, value in changed.items()}
    command = [sys.executable, "-m", "cifar_flax.main", "--workdir", str(workdir)]
    command += ["--config", str(ROOT / "configs" / "quickstart.py")]
    return command + [f"--config.{key}={value}" for key, value in values.items()]

  def start(self, command: Sequence[str], devices: int = 1, **more: Any):
    """Starts a process with its standard error in a pipe and returns it.

    `process_group=0` gives it a process group of its own, as a shell does.
    """
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = self.environment | {"XLA_FLAGS": flags}
    return subprocess.Popen(
      command,
      cwd=ROOT,
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
      **more,
    )

  def finish(
    self, command: Sequence[str], devices: int = 1, **more: Any
  ) -> tuple[int, str]:
    """Runs a command to its end; returns its exit code and standard error."""
    process = self.start(command, devices, **more)
    error = process.communicate(timeout=600)[1]
    return process.returncode, error

  def complete(self, workdir: pathlib.Path, devices: int = 1, **changed: str) -> None:
    """Trains a run to its end.

    Raises:
      RuntimeError: the command exits with an error.
    """
    code, error = self.finish(self.command(workdir, **changed), devices)
    if code:
      raise RuntimeError(f"exit code {code}: {error[-1000:]}")

  def begin(self, workdir: pathlib.Path) -> None:
    """Trains for a little more than one epoch and stops the run, which saves it."""
    process = self.start(self.command(workdir))
    self.wait_for(process, "epoch 1/")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)

  def wait_for(self, process: subprocess.Popen, text: str) -> str:
    """Reads a process's standard error until a line contains `text`.

    Returns:
      That line.

    Raises:
      RuntimeError: the process ended without such a line.
    """
    assert process.stderr is not None
    for line in process.stderr:
      if text in line:
        return line
    raise RuntimeError(f"the process ended without printing {text!r}")


def kill(process: subprocess.Popen, seconds: float) -> bool:
  """Kills a process after some seconds; returns False if it ended before that."""
  try:
    process.communicate(timeout=seconds)
  except subprocess.TimeoutExpired:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return True
  return False


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the rows of `metrics.jsonl` without the columns `CLOCKS`.

  Raises:
    ValueError: a line is cut off, missing or duplicated.
  """
  file = workdir / "metrics.jsonl"
  lines = file.read_text().splitlines() if file.exists() else []
  found = [json.loads(line) for line in lines]
  if [row["epoch"] for row in found] != list(range(1, len(found) + 1)):
    raise ValueError(f"{file}: epochs {[row['epoch'] for row in found]}")
  return [{k: v for k, v in row.items() if k not in CLOCKS} for row in found]


def checkpoints(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Returns the numbered checkpoints of a run, newest first."""
  return sorted((workdir / "checkpoints").glob("step_*.ckpt"), reverse=True)


def state_hash(path: pathlib.Path) -> str:
  """Returns the SHA-256 of a checkpoint's state.

  The state is the parameters, the optimizer's state and the moving averages.

  Raises:
    cifar_flax.run.checkpoints.Damaged: the file is damaged or incomplete.
  """
  from flax import serialization

  from cifar_flax.run import checkpoints as library

  state = library.read(path)["state"]
  return hashlib.sha256(serialization.msgpack_serialize(state)).hexdigest()


def outcome(workdir: pathlib.Path) -> tuple[str, list[dict[str, Any]]]:
  """Returns what equal runs have in common: the last state's hash and all rows."""
  return state_hash(checkpoints(workdir)[0]), rows(workdir)


def verdict(same: bool) -> str:
  """Returns the result of a comparison in words."""
  return "bit-equal" if same else "NOT the same"


def seconds_of(lab: Lab, workdir: pathlib.Path) -> float:
  """Returns the duration of a whole run, after another one has filled the caches."""
  lab.complete(lab.new("warming"))
  began = time.monotonic()
  lab.complete(workdir)
  return time.monotonic() - began
