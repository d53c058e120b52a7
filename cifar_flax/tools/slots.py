"""What each of several runs trained at the same time has of this machine for itself.

A slot is a GPU or TPU chip or, without any, an equal share of the CPU's cores.
"""

import glob
import os
from collections.abc import Mapping

from cifar_flax.errors import UserError

# Where Linux shows the devices that a run can have for itself.
_DEVICE_FILES = {"GPUs": "/dev/nvidia[0-9]*", "TPU chips": "/dev/accel[0-9]*"}


def check(number: int, environment: Mapping[str, str]) -> None:
  """Raises UserError if there are fewer than `number` GPUs or TPU chips, but some."""
  for kind, count in _accelerators(environment).items():
    if 0 < count < number:
      gpus = _visible(environment, "CUDA_VISIBLE_DEVICES")
      if kind == "GPUs" and gpus is not None:
        where = f"CUDA_VISIBLE_DEVICES={','.join(gpus)} lists {count}"
      else:
        where = f"this machine has {count} {kind}"
      raise UserError(f"--at_once={number}: {where}")


def device_variables(slot: int, environment: Mapping[str, str]) -> dict[str, str]:
  """Returns environment variables that restrict a process to one GPU or TPU chip."""

  def device(name: str) -> str:
    visible = _visible(environment, name)
    return str(slot) if visible is None else "".join(visible[slot:][:1])

  names = ("CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS")
  return {name: device(name) for name in names} | {
    "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
    "TPU_PROCESS_BOUNDS": "1,1,1",
  }


def cores(slot: int, number: int, environment: Mapping[str, str]) -> set[int]:
  """Returns the CPU cores that one of `number` runs has for itself.

  Two runs on a core each train about a sixth more images per second than one on two
  cores (benchmarks/results/2026-11-26-two-cores.md).

  Returns:
    Indices of cores; empty if the run is not to be restricted: there are accelerators
    or fewer cores than runs, or the operating system cannot do it.
  """
  if any(_accelerators(environment).values()) or not hasattr(os, "sched_getaffinity"):
    return set()
  own = sorted(os.sched_getaffinity(0))
  if len(own) < number:
    return set()
  return set(own[slot * len(own) // number : (slot + 1) * len(own) // number])


def _accelerators(environment: Mapping[str, str]) -> dict[str, int]:
  """Returns how many accelerators of each kind the runs would use."""
  if environment.get("JAX_PLATFORMS") == "cpu":
    return {}
  gpus = _visible(environment, "CUDA_VISIBLE_DEVICES")
  found = {kind: len(glob.glob(files)) for kind, files in _DEVICE_FILES.items()}
  return found if gpus is None else {"GPUs": len(gpus)}


def _visible(environment: Mapping[str, str], name: str) -> list[str] | None:
  """Returns the devices that an environment variable lists, or None if it is not set.

  The values "" and "-1", which hide all devices, give an empty list.
  """
  text = environment.get(name)
  return None if text is None else [n for n in text.split(",") if n not in ("", "-1")]
