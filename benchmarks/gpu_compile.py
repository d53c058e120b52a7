"""Compiles a whole epoch of every config for GPUs, on a machine that has none.

make gpu-compile CONFIGS=configs/net6b.py TARGETS=h100 DEVICES=1,8 DTYPES=float32

The table shows, per device: the memory of an epoch, whether the state is updated in
place, and what a training step starts: calls of cuDNN, kernels, copies, all-reduces,
and the number of CUDA graphs that hold some of them. A convolution that is no call of
cuDNN, a state that is not donated, or a step with a tenth more operations than in the
table `--expected`, is a problem. Time and cuDNN's choice of algorithms need a GPU and
are not estimated.
"""

import argparse
import collections
import glob
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_dump_to=" + tempfile.mkdtemp(prefix="gpu_compile")

from jax.experimental import topologies

from benchmarks.compiled_epoch import CompiledEpoch, compile_epoch
from cifar_flax import config as config_lib
from cifar_flax import tables

FOLDER = pathlib.Path(__file__).parent
_DUMP = os.environ["XLA_FLAGS"].partition("=")[2]
TARGETS = (
  FOLDER / "targets"
)  # XLA's descriptions of GPUs: GpuTargetConfigProto, as text
SLACK = 1.1  # how many times the operations of the table are no problem
# The columns of `Step`, and the kinds of what XLA starts that they count.
KINDS = {
  "cuDNN": ("kConvolution", "kCuDnn"),
  "matrix products": ("kGemm", "kCublasLtMatmul"),
  "kernels": ("kCustomKernel", "kKernel", "kMemset32BitValue", "kMemzero"),
  "copies": ("kCopy",),
  "all-reduces": ("kAllReduce", "kAllReduceStart", "kNcclAllReduceStart"),
}
GRAPH, LOOP = "kCommandBuffer", "kWhile"
_NOT_STARTED = (
  "kSequential",
  "kAllReduceDone",
  "kNcclAllReduceDone",
  "kAsyncStart",
  "kAsyncDone",
)


class Step(NamedTuple):
  """What one training step starts on each device.

  Attributes:
    counts: number of operations in each column of `KINDS`, and of those in none, as
      "others".
    graphs: number of CUDA graphs, which hold some of the operations.
    convolutions: those that are no call of a library.
  """

  counts: dict[str, int]
  graphs: int
  convolutions: int

  @property
  def operations(self) -> int:
    """Number of all operations."""
    return sum(self.counts.values())


def read_step(listing: str, program: str) -> Step:
  """Counts what the body of the epoch's loop starts.

  Args:
    listing: XLA's list of what the program starts, a line each, nested by indentation.
    program: the compiled program, as text.
  """
  kinds = collections.Counter(_kinds_in_loop(listing.splitlines()))
  graphs = kinds.pop(GRAPH, 0)
  counts = {
    name: sum(kinds.pop(kind, 0) for kind in of_name) for name, of_name in KINDS.items()
  }
  counts["others"] = sum(n for kind, n in kinds.items() if kind not in _NOT_STARTED)
  convolutions = len(re.findall(r" convolution\(", program))
  return Step(counts, graphs, convolutions)


def _kinds_in_loop(lines: list[str]) -> Iterator[str]:
  """Yields the kind of each line within the only loop."""
  depth: int | None = None
  for line in lines:
    found = re.match(r"(\s*)\d+: (k\w+)", line)
    if not found:
      continue
    indentation = len(found[1])
    if depth is not None and indentation <= depth:
      return
    if depth is not None:
      yield found[2]
    elif found[2] == LOOP:
      depth = indentation


class Row(NamedTuple):
  """A compiled config.

  Attributes:
    key: config, target, number of devices and dtype.
    epoch: its memory.
    step: what it starts.
  """

  key: tuple[str, str, str, str]
  epoch: CompiledEpoch
  step: Step

  def cells(self, problems: list[str]) -> list[str]:
    """Returns a line of the table."""
    epoch, step = self.epoch, self.step
    return [
      *self.key,
      f"{epoch.arguments / 2**20:,.0f}",
      f"{epoch.temporary / 2**20:,.0f}",
      f"{min(1, epoch.aliased / epoch.state):.0%}",
      *(str(number) for number in step.counts.values()),
      str(step.operations),
      str(step.graphs),
      "; ".join(problems) or "none",
    ]


COLUMNS = (
  "config",
  "target",
  "devices",
  "dtype",
  "arguments MiB",
  "temporary MiB",
  "state donated",
  *KINDS,
  "others",
  "operations",
  "graphs",
  "problems",
)


def compile_for(path: str, target: str, number: int, dtype: str) -> Row:
  """Compiles a training epoch of the config in `path`."""
  description = topologies.get_topology_desc(
    platform="cuda",
    topology_name=target,
    target_config=(TARGETS / f"{target}.txtpb").read_text(),
    topology=f"1x1x{number}",
  )
  config = config_lib.override(config_lib.load(path), {"model.dtype": dtype})
  shutil.rmtree(_DUMP, ignore_errors=True)
  devices: Any = description.devices
  epoch = compile_epoch(config, devices, "gpu")
  listings = pathlib.Path(_DUMP).glob("*thunk_sequence_after_thunk_passes.txt")
  (listing,) = [text for file in listings if LOOP in (text := file.read_text())]
  key = (config.name, target, str(number), dtype)
  return Row(key, epoch, read_step(listing, epoch.compiled.as_text()))


def expected_operations(path: pathlib.Path) -> dict[tuple[str, ...], int]:
  """Returns the operations of each row of a table that an earlier call printed."""
  rows = [line.strip("| ").split(" | ") for line in path.read_text().splitlines()]
  position = COLUMNS.index("operations")
  return {
    tuple(row[:4]): int(row[position])
    for row in rows
    if len(row) == len(COLUMNS) and row[position].isdecimal()
  }


def problems_of(row: Row, expected: dict[tuple[str, ...], int]) -> list[str]:
  """Returns a line for each requirement that is not met."""
  found = row.epoch.problems()
  if row.step.convolutions:
    found.append(f"{row.step.convolutions} convolutions are no call of cuDNN")
  known = expected.get(row.key)
  if known is not None and row.step.operations > SLACK * known:
    found.append(f"{row.step.operations} operations a step where there were {known}")
  return found


def main() -> int:
  """Prints the table; returns 1 if there is a problem."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.gpu_compile",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  targets = ",".join(sorted(file.stem for file in TARGETS.glob("*.txtpb")))
  table = FOLDER / "results" / f"gpu-compile-jaxlib-{version('jaxlib')}.md"
  configs = ",".join(sorted(glob.glob("configs/*.py")))
  parser.add_argument("--configs", default=configs, help="default: %(default)s")
  parser.add_argument("--targets", default="h100", help=f"of {targets} (%(default)s)")
  parser.add_argument("--devices", default="1,8", help="numbers of GPUs (%(default)s)")
  parser.add_argument("--dtypes", default="float32,bfloat16", help="%(default)s")
  parser.add_argument(
    "--expected", default=str(table), help="table to compare with (%(default)s)"
  )
  flags = parser.parse_args()
  known = pathlib.Path(flags.expected)
  expected = expected_operations(known) if known.exists() else {}
  print("\n".join(tables.markdown(COLUMNS)), flush=True)
  failed = False
  for path in flags.configs.split(","):
    for target in flags.targets.split(","):
      for number in map(int, flags.devices.split(",")):
        for dtype in flags.dtypes.split(","):
          row = compile_for(path, target, number, dtype)
          problems = problems_of(row, expected)
          failed |= bool(problems)
          print(tables.markdown_row(row.cells(problems)), flush=True)
  shutil.rmtree(_DUMP, ignore_errors=True)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
