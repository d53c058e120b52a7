"""Describes where figures were measured: machine, versions, commit and date."""

import contextlib
import datetime
import os
import pathlib
import platform
import re
import subprocess

from cifar_flax.run import provenance

_ISA = r"\b(avx2|avx512f|avx512_bf16|avx512_vnni|amx_\w+|asimd|sve\w*)\b"


def describe() -> list[str]:
  """Returns the lines of a report's head; peers add their own versions."""
  cpus = sorted(os.sched_getaffinity(0))
  load = os.getloadavg()[0]
  versions = [f"{name} {number}" for name, number in provenance.versions().items()]
  return [
    f"date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
    f"commit: {provenance.describe_commit(*provenance.current_commit())}",
    f"CPU: {provenance.processor()}, {len(cpus)} of {os.cpu_count()} cores, {_isa()}",
    f"caches: {_caches(cpus[0])}",
    f"memory: {_memory()}",
    *_gpus(),
    f"OS: {platform.platform()}; load before the first table: {load:.2f}",
    ", ".join(versions),
  ]


def has_gpu() -> bool:
  """Returns whether NVIDIA's driver lists a GPU."""
  return bool(_gpus())


def _read(path: str) -> str:
  with contextlib.suppress(OSError):
    return pathlib.Path(path).read_text()
  return ""


def _run(*command: str) -> str:
  with contextlib.suppress(OSError, subprocess.SubprocessError):
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return result.stdout.strip() if result.returncode == 0 else ""
  return ""


def _field(name: str, text: str) -> str:
  found = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
  return found[1] if found else "?"


def _isa() -> str:
  found = set(re.findall(_ISA, _read("/proc/cpuinfo")))
  return " ".join(sorted(found)) or "instruction sets unknown"


def _caches(cpu: int) -> str:
  found = []
  for index in range(5):
    folder = f"/sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
    level, kind, size, shared = (
      _read(f"{folder}/{name}").strip()
      for name in ("level", "type", "size", "shared_cpu_list")
    )
    if size and kind != "Instruction":
      found.append(f"L{level} {size} (CPUs {shared})")
  return ", ".join(found) or "?"


def _memory() -> str:
  kibibytes = _field("MemTotal", _read("/proc/meminfo")).split()[0]
  return f"{int(kibibytes) / 2**20:.1f} GiB" if kibibytes.isdigit() else "?"


def _gpus() -> list[str]:
  query = "--query-gpu=name,memory.total,driver_version"
  names = _run("nvidia-smi", query, "--format=csv,noheader")
  return [f"GPU: {line}" for line in names.splitlines()]
