"""A folder to experiment in: small runs of the real command line, and their remains."""

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
CLOCKS = ("seconds", "images_per_second")  # of a row: the only things that may differ

# Four epochs of twelve steps: BatchNorm, dropout, augmentation and moving averages.
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
  """A line of the table.

  Attributes:
    what: was done.
    times: how often.
    found: what came of it.
    passed: whether it is what must be.
  """

  what: str
  times: int
  found: str
  passed: bool


class Lab:
  """Runs share their data and caches, and nothing else.

  Attributes:
    folder: everything is below it.
    environment: of all processes.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.environment = os.environ | {
      "XDG_CACHE_HOME": str(folder / "cache"),
      "TFDS_DATA_DIR": str(folder / "data"),
      "JAX_PLATFORMS": "cpu",
    }

  def new(self, name: str) -> pathlib.Path:
    """An empty run directory's path."""
    shutil.rmtree(self.folder / name, ignore_errors=True)
    return self.folder / name

  def command(self, workdir: pathlib.Path, **changed: str) -> list[str]:
    """The command of a small run; `data__eval_split="test"` changes a key."""
    values = RUN | {key.replace("__", "."): value for key, value in changed.items()}
    command = [sys.executable, "-m", "cifar_flax.main", "--workdir", str(workdir)]
    command += ["--config", str(ROOT / "configs" / "quickstart.py")]
    return command + [f"--config.{key}={value}" for key, value in values.items()]

  def start(self, command: Sequence[str], devices: int = 1, **more: Any):
    """A process, with its standard error in a pipe."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = self.environment | {"XLA_FLAGS": flags} | more.pop("env", {})
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
    """Exit code and standard error of a command that ends by itself."""
    process = self.start(command, devices, **more)
    error = process.communicate(timeout=600)[1]
    return process.returncode, error

  def complete(self, workdir: pathlib.Path, devices: int = 1, **changed: str) -> None:
    """Runs to the end.

    Raises:
      RuntimeError: it fails.
    """
    code, error = self.finish(self.command(workdir, **changed), devices)
    if code:
      raise RuntimeError(f"exit code {code}: {error[-1000:]}")

  def begin(self, workdir: pathlib.Path) -> None:
    """Runs for an epoch and a bit, and saves."""
    process = self.start(self.command(workdir))
    self.wait_for(process, "epoch 1/")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)

  def wait_for(self, process: subprocess.Popen, text: str) -> str:
    """Reads standard error until a line holds `text`; the line."""
    assert process.stderr is not None
    for line in process.stderr:
      if text in line:
        return line
    raise RuntimeError(f"ended without saying {text!r}")


def kill(process: subprocess.Popen, seconds: float) -> bool:
  """Kills it after some seconds; False if it ended by itself before."""
  try:
    process.communicate(timeout=seconds)
  except subprocess.TimeoutExpired:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return True
  return False


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """`metrics.jsonl`, without its clocks.

  Raises:
    ValueError: a line is not whole, or missing, or doubled.
  """
  file = workdir / "metrics.jsonl"
  lines = file.read_text().splitlines() if file.exists() else []
  found = [json.loads(line) for line in lines]
  if [row["epoch"] for row in found] != list(range(1, len(found) + 1)):
    raise ValueError(f"{file}: epochs {[row['epoch'] for row in found]}")
  return [{k: v for k, v in row.items() if k not in CLOCKS} for row in found]


def checkpoints(workdir: pathlib.Path) -> list[pathlib.Path]:
  """The numbered ones, newest first."""
  return sorted((workdir / "checkpoints").glob("step_*.ckpt"), reverse=True)


def state_hash(path: pathlib.Path) -> str:
  """SHA-256 of the state in a checkpoint: parameters, optimizer, moving averages.

  Raises:
    cifar_flax.run.checkpoints.Damaged: it is not whole.
  """
  from flax import serialization

  from cifar_flax.run import checkpoints as library

  state = library.read(path)["state"]
  return hashlib.sha256(serialization.msgpack_serialize(state)).hexdigest()


def outcome(workdir: pathlib.Path) -> tuple[str, list[dict[str, Any]]]:
  """What two runs must agree in: the hash of the last state, and all rows."""
  return state_hash(checkpoints(workdir)[0]), rows(workdir)


def verdict(same: bool) -> str:
  """In words."""
  return "bit-equal" if same else "NOT the same"


def seconds_of(lab: Lab, workdir: pathlib.Path) -> float:
  """How long a whole run takes, with the caches filled by one before it."""
  lab.complete(lab.new("warming"))
  began = time.monotonic()
  lab.complete(workdir)
  return time.monotonic() - began
