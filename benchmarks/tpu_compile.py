"""Compiles a whole epoch of every config for TPUs, on a machine that has none.

make tpu-compile CONFIGS=configs/net6b.py TOPOLOGIES=v5e:2x4

The table shows, per device: the memory of an epoch, whether the state is updated in
place, and an estimate of the time. The estimate is the larger of arithmetic and memory
traffic as the compiler counts it, which is too high for data that stay on the chip.
"""

import argparse
import glob
import math
import os
import sys
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"
# libtpu would ask a metadata server, which does not exist; the values are not used.
os.environ["TPU_SKIP_MDS_QUERY"] = "1"
os.environ["TPU_ACCELERATOR_TYPE"] = "v5litepod-8"
os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"

import jax
import numpy as np
from jax.experimental import topologies

from cifar_flax import config as config_lib
from cifar_flax import registry, steps, tables
from cifar_flax.ops import compiler

GIB = 2**30
NUM_EXAMPLES, IMAGE_SHAPE = 50_000, (32, 32, 3)
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
  """Memory and cost of a compiled epoch, per device.

  Attributes:
    cores: devices that share a chip.
    state: bytes of the state.
    arguments, logical: bytes of all arguments in memory, and of their values.
    temporary: bytes in addition to arguments and results.
    aliased: bytes of results that reuse an argument's memory.
    flops, traffic: operations, and bytes to and from memory, of an epoch.
  """

  cores: int
  state: int
  arguments: int
  logical: int
  temporary: int
  aliased: int
  flops: float
  traffic: float

  def problems(self, chip: Chip) -> list[str]:
    """Returns a line for each requirement that is not met."""
    found = []
    if self.aliased < self.state:
      found.append(f"{self.state - self.aliased} bytes of the state are not donated")
    if self.arguments > MOST_PADDING * self.logical:
      found.append(f"arguments padded {self.arguments / self.logical:.1f} times")
    if self.temporary > self.logical:  # such as a copy of the images
      found.append(f"temporary memory {self.temporary / self.logical:.1f} x arguments")
    if self.cores * (self.arguments + self.temporary) > chip.memory:
      found.append("does not fit into memory")
    return found

  def seconds(self, chip: Chip) -> float:
    """Returns an estimate of the epoch's seconds."""
    arithmetic, memory = self.flops / chip.flops, self.traffic / chip.bandwidth
    return self.cores * max(arithmetic, memory)


def compile_epoch(path: str, topology: str) -> Epoch:
  """Compiles a training epoch of the config in `path`."""
  description = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  devices: Any = description.devices
  config = config_lib.load(path)
  with compiler.compiling_for("tpu"):
    num_classes = registry.DATASETS[config.data.dataset].num_classes
    program = steps.Program(config, devices, num_classes, NUM_EXAMPLES)
    state = steps.create_state(config, program.network, program.tx, IMAGE_SHAPE)
    steps_per_epoch = program.steps_per_epoch
    batch = config.batch_size // len(devices)
    arguments: tuple[Any, ...] = (
      state,
      jax.ShapeDtypeStruct((NUM_EXAMPLES, math.prod(IMAGE_SHAPE)), np.uint8),
      jax.ShapeDtypeStruct((NUM_EXAMPLES,), np.int32),
      np.uint32(config.seed),
      np.int32(steps_per_epoch),
      np.zeros(steps_per_epoch, np.float32),
      jax.ShapeDtypeStruct((len(devices), steps_per_epoch, batch), np.int32),
    )
    train_steps: Any = program.train_steps
    compiled = train_steps.lower(*arguments).compile()
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  cost = cost[0] if isinstance(cost, list) else cost
  logical = sum(_bytes(leaf) for leaf in jax.tree.leaves(arguments[:6]))
  return Epoch(
    cores=len(devices) // len({tuple(device.coords) for device in devices}),
    state=sum(_bytes(leaf) for leaf in jax.tree.leaves(state)),
    arguments=memory.argument_size_in_bytes,
    logical=logical + _bytes(arguments[6]) // len(devices),
    temporary=memory.temp_size_in_bytes,
    aliased=memory.alias_size_in_bytes,
    # The number of steps is an argument, so the analysis counts the loop's body once.
    flops=cost["flops"] * steps_per_epoch,
    traffic=cost["bytes accessed"] * steps_per_epoch,
  )


def _bytes(leaf: Any) -> int:
  return int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize


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
      chip, epoch = CHIPS[topology], compile_epoch(path, topology)
      problems = epoch.problems(chip)
      failed |= bool(problems)
      cells = (
        path,
        topology,
        f"{epoch.arguments / 2**20:,.0f}",
        f"{epoch.arguments / epoch.logical:.2f}x",
        f"{epoch.temporary / 2**20:,.0f}",
        f"{min(1, epoch.aliased / epoch.state):.0%}",
        f"{epoch.flops / 1e9:,.0f}",
        f"{epoch.traffic / 1e9:,.0f}",
        f"{epoch.seconds(chip):.2f}",
        "; ".join(problems) or "none",
      )
      print(tables.markdown_row(cells), flush=True)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
