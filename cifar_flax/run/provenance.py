"""The provenance of a result: code, command, machine and versions.

This module does not import JAX, so that an invalid command line fails without delay.
"""

import importlib.metadata
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  import jax

# Version of the computation. Increment it whenever the same config and data give other
# results than before, apart from rounding. A run of another NUMERICS cannot be resumed,
# and is never compared in the same table.
NUMERICS = 1

# Packages that affect the results; their versions are recorded.
PACKAGES = (
  "cifar_flax",
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "numpy",
  "tensorflow-datasets",
)
_ROOT = pathlib.Path(__file__).parents[2]  # of the repository


def current(devices: Sequence["jax.Device"], first_step: int) -> dict[str, Any]:
  """Returns the provenance of the part of a run that this process computes.

  Args:
    devices: the devices it computes on.
    first_step: number of updates made before this part.

  Returns:
    A dictionary with first_step, numerics, commit, modified, command, device,
    device_count, versions.
  """
  commit, modified = current_commit()
  return {
    "first_step": first_step,
    "numerics": NUMERICS,
    "commit": commit,
    "modified": modified,
    "command": command(sys.orig_argv, os.getcwd()),
    "device": hardware(devices),
    "device_count": len(devices),
    "versions": versions(),
  }


def describe_commit(commit: str | None, modified: bool | None) -> str:
  """Returns a commit's first digits, and whether tracked files differed from it."""
  words = (commit or "unknown")[:12]
  return f"{words} with modified files" if modified else words


def current_commit() -> tuple[str | None, bool | None]:
  """Returns the commit of the code, and whether tracked files differ from it.

  Both are None if the code is not at the root of a git repository.
  """
  try:
    top, commit = _git("rev-parse", "--show-toplevel", "HEAD").split()
    if not os.path.samefile(top, _ROOT):
      return None, None
    return commit, bool(_git("status", "--porcelain", "--untracked-files=no"))
  except (OSError, ValueError, subprocess.SubprocessError):
    return None, None


def _git(*arguments: str) -> str:
  command = ["git", "-C", str(_ROOT), *arguments]
  return subprocess.run(
    command, check=True, capture_output=True, text=True, timeout=10
  ).stdout


def command(argv: Sequence[str], folder: str) -> str:
  """Returns a command line for a shell, without absolute paths.

  Args:
    argv: program and arguments.
    folder: its working directory; absolute paths are made relative to it.
  """
  program, *arguments = argv

  def relative(match: re.Match) -> str:
    return match[1] + os.path.relpath(match[2], folder)

  # A path starts the argument or follows "=", "," or a ":" that is not part of "://".
  arguments = [re.sub(r"(^|[=,]|:(?!//))(/[^=:,]*)", relative, a) for a in arguments]
  return shlex.join([os.path.basename(program), *arguments])


def hardware(devices: Sequence["jax.Device"]) -> str:
  """Describes devices and processor, such as "1 x NVIDIA H100, Xeon, 16 cores"."""
  kind = devices[0].device_kind
  return f"{len(devices)} x {kind}, {processor()}, {os.cpu_count()} cores"


def processor() -> str:
  """Returns the model of the CPU, such as "AMD EPYC 7763 64-Core Processor"."""
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
  names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
  return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
  """Returns the versions of Python and of `PACKAGES`."""
  result = {"python": platform.python_version()}
  for package in PACKAGES:
    try:
      result[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      result[package] = "not installed"
  return result
