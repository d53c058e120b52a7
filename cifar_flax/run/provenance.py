"""Where a result comes from: code, command, machine, versions.

Imports JAX nowhere, so that a command line can be refused at once.
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

# What a config computes, as a number: raised by one whenever the same config and data
# would give other numbers than before (rounding aside). Runs of different NUMERICS are
# never resumed, and never compared in one table.
NUMERICS = 1

# What computes the numbers.
PACKAGES = (
  "cifar_flax",
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "numpy",
  "tensorflow-datasets",
)
_ROOT = pathlib.Path(__file__).parents[1]


def current(devices: Sequence["jax.Device"], first_step: int) -> dict[str, Any]:
  """What this process is, for the part of a run that it makes.

  Args:
    devices: that it computes on.
    first_step: updates made before this part.

  Returns:
    first_step, numerics, commit, modified, command, device, device_count, versions.
  """
  commit, modified = _commit()
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


def _commit() -> tuple[str | None, bool | None]:
  """The commit of the code, and whether tracked files differ from it.

  Both are None for code that is not in a git repository of its own.
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
  """A command line for a shell, with no absolute path in it.

  Args:
    argv: program and arguments.
    folder: where it ran; absolute paths become relative to it.
  """
  program, *arguments = argv

  def relative(found: re.Match) -> str:
    return found[1] + os.path.relpath(found[2], folder)

  # At the beginning, or behind "=", "," or a ":" that is no URL's.
  arguments = [re.sub(r"(^|[=,]|:(?!//))(/[^=:,]*)", relative, a) for a in arguments]
  return shlex.join([os.path.basename(program), *arguments])


def hardware(devices: Sequence["jax.Device"]) -> str:
  """Devices and processor in words, such as "1 x NVIDIA H100, Xeon, 16 cores"."""
  model = platform.processor() or platform.machine()
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  if cpuinfo.exists():
    names = [
      line.partition(":")[2].strip()
      for line in cpuinfo.read_text().splitlines()
      if line.startswith("model name")
    ]
    model = names[0] if names else model
  kind = devices[0].device_kind
  return f"{len(devices)} x {kind}, {model}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
  """Versions of Python and of `PACKAGES`."""
  found = {"python": platform.python_version()}
  for package in PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = "not installed"
  return found
