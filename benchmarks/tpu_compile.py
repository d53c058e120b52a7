"""Compiles a whole epoch of every config for TPUs, on a machine that has none.

make tpu-compile CONFIGS=configs/net6b.py TOPOLOGIES=v5e:2x4

The table shows, per device: the memory of an epoch, whether the state is updated in
place, and an estimate of the time. The estimate is the larger of arithmetic and memory
traffic as the compiler counts it, which is too high for data that stay on the chip.
"""

import argparse
import glob
import os
import sys
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"
# libtpu would ask a metadata server, which does not exist; the values are not used.
os.environ["TPU_SKIP_MDS_QUERY"] = "1"
os.environ["TPU_ACCELERATOR_TYPE"] = "v5litepod-8"
os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"

from jax.experimental import topologies

from benchmarks.compiled_epoch import CompiledEpoch, compile_epoch
from cifar_flax import config as config_lib
from cifar_flax import tables

GIB = 2**30
# Largest memory of the arguments relative to their values: layouts pad small axes.
MOST_PADDING = 2.0


class Chip(NamedTuple):
  """The specification of a chip, from Google's "TPU versions" pages.

  Attributes:
    flops: bfloat16 operations per second; the default for float32 convolutions too.
    bandwidth: bytes per second from and to memory.
    memory: size in bytes.
  """

  flops: float
  bandwidth: float
  memory: float


CHIPS = {
  "v5e:2x4": Chip(197e12, 819e9, 16 * GIB),
  "v4:2x2x1": Chip(275e12, 1228e9, 32 * GIB),
  "v6e:2x4": Chip(918e12, 1640e9, 32 * GIB),
}


class Epoch(NamedTuple):
  """A compiled epoch, and its cost on each device.

  Attributes:
    compiled: with its memory.
    cores: devices that share a chip.
    flops, traffic: operations, and bytes to and from memory, of an epoch.
  """

  compiled: CompiledEpoch
  cores: int
  flops: float
  traffic: float

  def problems(self, chip: Chip) -> list[str]:
    """Returns a line for each requirement that is not met."""
    epoch = self.compiled
    found = epoch.problems()
    if epoch.arguments > MOST_PADDING * epoch.logical:
      found.append(f"arguments padded {epoch.arguments / epoch.logical:.1f} times")
    if epoch.temporary > epoch.logical:  # such as a copy of the images
      found.append(
        f"temporary memory {epoch.temporary / epoch.logical:.1f} x arguments"
      )
    if self.cores * (epoch.arguments + epoch.temporary) > chip.memory:
      found.append("does not fit into memory")
    return found

  def seconds(self, chip: Chip) -> float:
    """Returns an estimate of the epoch's seconds."""
    arithmetic, memory = self.flops / chip.flops, self.traffic / chip.bandwidth
    return self.cores * max(arithmetic, memory)


def compile_for(path: str, topology: str) -> Epoch:
  """Compiles a training epoch of the config in `path`."""
  description = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  devices: Any = description.devices
  epoch = compile_epoch(config_lib.load(path), devices, "tpu")
  cost = epoch.compiled.cost_analysis()
  cost = cost[0] if isinstance(cost, list) else cost
  return Epoch(
    compiled=epoch,
    cores=len(devices) // len({tuple(device.coords) for device in devices}),
    # The number of steps is an argument, so the analysis counts the loop's body once.
    flops=cost["flops"] * epoch.steps,
    traffic=cost["bytes accessed"] * epoch.steps,
  )


COLUMNS = (
  "config",
  "topology",
  "arguments MiB",
  "padded",
  "temporary MiB",
  "state donated",
  "GFLOP",
  "traffic GB",
  "estimated s/epoch",
  "problems",
)


def main() -> int:
  """Prints the table; returns 1 if there is a problem."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.tpu_compile",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  configs = ",".join(sorted(glob.glob("configs/*.py")))
  parser.add_argument("--configs", default=configs, help="default: %(default)s")
  parser.add_argument("--topologies", default=",".join(CHIPS), help="%(default)s")
  flags = parser.parse_args()
  print("\n".join(tables.markdown(COLUMNS)))
  failed = False
  for path in flags.configs.split(","):
    for topology in flags.topologies.split(","):
      chip, found = CHIPS[topology], compile_for(path, topology)
      epoch, problems = found.compiled, found.problems(chip)
      failed |= bool(problems)
      cells = (
        path,
        topology,
        f"{epoch.arguments / 2**20:,.0f}",
        f"{epoch.arguments / epoch.logical:.2f}x",
        f"{epoch.temporary / 2**20:,.0f}",
        f"{min(1, epoch.aliased / epoch.state):.0%}",
        f"{found.flops / 1e9:,.0f}",
        f"{found.traffic / 1e9:,.0f}",
        f"{found.seconds(chip):.2f}",
        "; ".join(problems) or "none",
      )
      print(tables.markdown_row(cells), flush=True)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
