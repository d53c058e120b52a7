"""Compiles a training epoch of a config for devices that this machine need not have."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cifar_flax import registry, steps
from cifar_flax.config import Config
from cifar_flax.ops import compiler

NUM_EXAMPLES, IMAGE_SHAPE = 50_000, (32, 32, 3)


class CompiledEpoch(NamedTuple):
  """A compiled epoch and its memory on each device.

  Attributes:
    steps: number of steps.
    state: bytes of the state.
    arguments, logical: bytes of all arguments in memory, and of their values.
    temporary: bytes in addition to arguments and results.
    aliased: bytes of results that reuse an argument's memory.
    compiled: what `jax.stages.Lowered.compile` returns.
  """

  steps: int
  state: int
  arguments: int
  logical: int
  temporary: int
  aliased: int
  compiled: Any

  def problems(self) -> list[str]:
    """Returns a line if the state is not updated in place."""
    missing = self.state - self.aliased
    return [f"{missing} bytes of the state are not donated"] if missing > 0 else []


def compile_epoch(
  config: Config, devices: Sequence[Any], platform: str
) -> CompiledEpoch:
  """Compiles an epoch of `NUM_EXAMPLES` images.

  Args:
    config: of the run.
    devices: of a `jax.experimental.topologies` description.
    platform: of the devices: gpu or tpu.
  """
  with compiler.compiling_for(platform):
    num_classes = registry.DATASETS[config.data.dataset].num_classes
    program = steps.Program(config, devices, num_classes, NUM_EXAMPLES)
    state = steps.create_state(config, program.network, program.tx, IMAGE_SHAPE)
    number, batch = program.steps_per_epoch, config.batch_size // len(devices)
    arguments: tuple[Any, ...] = (
      state,
      jax.ShapeDtypeStruct((NUM_EXAMPLES, math.prod(IMAGE_SHAPE)), np.uint8),
      jax.ShapeDtypeStruct((NUM_EXAMPLES,), np.int32),
      np.uint32(config.seed),
      np.int32(number),
      np.zeros(number, np.float32),
      jax.ShapeDtypeStruct((len(devices), number, batch), np.int32),
    )
    train_steps: Any = program.train_steps
    compiled = train_steps.lower(*arguments).compile()
  memory = compiled.memory_analysis()
  logical = sum(_bytes(leaf) for leaf in jax.tree.leaves(arguments[:6]))
  return CompiledEpoch(
    steps=number,
    state=sum(_bytes(leaf) for leaf in jax.tree.leaves(state)),
    arguments=memory.argument_size_in_bytes,
    logical=logical + _bytes(arguments[6]) // len(devices),
    temporary=memory.temp_size_in_bytes,
    aliased=memory.alias_size_in_bytes,
    compiled=compiled,
  )


def _bytes(leaf: Any) -> int:
  return int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize
