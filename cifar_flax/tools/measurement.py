"""Measures what networks cost on this machine: memory of a training step, and speed.

The peak memory is that of the compiled training step with its parameters, optimizer
state and one batch of images. Speeds are of whole steps on a batch that stays on the
device, augmentation and metrics included. Networks are measured in turn, window by
window, so that a change of the machine's speed affects all of them.
"""

import dataclasses
import datetime
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from cifar_flax import models, steps
from cifar_flax.config import Config
from cifar_flax.data import batches
from cifar_flax.data.records import IMAGE_SHAPE
from cifar_flax.run import accelerators, provenance
from cifar_flax.trainer import check_divisible

SECONDS_PER_WINDOW = 1.0


@dataclasses.dataclass(frozen=True)
class Measured:
  """What a network costs on this machine.

  Attributes:
    peak_bytes: memory of a training step on each device, as compiled.
    training, inference: images per second, one value per window.
  """

  peak_bytes: int
  training: list[float]
  inference: list[float]


def measure(
  configs: Mapping[str, Config], num_classes: int, windows: int
) -> dict[str, Measured]:
  """Measures the networks of configs on all devices.

  Args:
    configs: by name.
    num_classes: number of logits.
    windows: how many times each is timed, in turn.

  Returns:
    The costs, by name.

  Raises:
    UserError: JAX cannot use its devices, or uses the CPU without being asked to.
  """
  accelerators.check()
  subjects = {name: _Subject(config, num_classes) for name, config in configs.items()}
  speeds: dict[str, dict[str, list[float]]] = {
    name: {"training": [], "inference": []} for name in configs
  }
  for _ in range(windows):
    for name, subject in subjects.items():
      speeds[name]["training"].append(subject.training.images_per_second())
      speeds[name]["inference"].append(subject.inference.images_per_second())
  return {
    name: Measured(subject.peak_bytes, **speeds[name])
    for name, subject in subjects.items()
  }


def record(
  configs: Mapping[str, Config], num_classes: int, windows: int
) -> dict[str, Any]:
  """Measures networks, and returns what a measured.json keeps.

  Returns:
    `networks`, the fields of `Measured` by name, and the circumstances: date, hardware,
    load and versions.
  """
  when_and_where = circumstances()
  found = measure(configs, num_classes, windows)
  networks = {name: dataclasses.asdict(costs) for name, costs in found.items()}
  return {**when_and_where, "networks": networks}


def circumstances() -> dict[str, Any]:
  """Returns when and where it is measured, and how busy the machine is already."""
  return {
    "date": datetime.date.today().isoformat(),
    "hardware": provenance.hardware(jax.devices()),
    "load": round(os.getloadavg()[0], 2),  # processes, mean over the last minute
    "versions": provenance.versions(),
  }


class _Timer:
  """Repeats a function in windows of about a second.

  Attributes:
    images: that a call handles.
  """

  def __init__(self, call: Callable[[], None], images: int):
    self._call, self._images = call, images
    call()  # warms up
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    self._calls = max(1, round(SECONDS_PER_WINDOW / seconds))

  def images_per_second(self) -> float:
    """Times a window."""
    started = time.perf_counter()
    for _ in range(self._calls):
      self._call()
    return self._images * self._calls / (time.perf_counter() - started)


class _Subject:
  """A network that is measured.

  Attributes:
    peak_bytes: memory of its training step.
    training, inference: the timers.
  """

  def __init__(self, config: Config, num_classes: int):
    models.set_precision(config.model.dtype)
    devices, batch = jax.devices(), config.batch_size
    check_divisible(batch, len(devices))
    program = steps.Program(config, devices, num_classes, num_examples=batch)
    state = steps.create_state(config, program.network, program.tx, IMAGE_SHAPE)
    state = steps.replicate(state, devices)
    data, indices = _batch(batch, devices)
    rates = np.full(1, config.schedule.learning_rate, steps.parameter_dtype(config))
    step: Any = program.train_steps
    arguments = (*data, np.uint32(0), np.int32(1), rates, indices)
    step = step.lower(state, *arguments).compile()
    self.peak_bytes = _peak_bytes(step.memory_analysis())

    def train() -> None:
      nonlocal state
      state, _ = step(state, *arguments)
      jax.block_until_ready(state)

    self.training = _Timer(train, batch)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    variables = jax.tree.map(lambda leaf: leaf.copy(), variables)  # `state` is donated
    size = batches.eval_batch_size(config.eval_batch_size, devices[0].platform)
    size = len(devices) * max(1, size // len(devices))
    images, eval_indices = _batch(size, devices)
    mask = np.ones(eval_indices.shape, np.float32)
    empty = steps.replicate(steps.Metrics.empty(), devices)

    def infer() -> None:
      jax.block_until_ready(
        program.eval_steps(empty, variables, *images, np.int32(1), eval_indices, mask)
      )

    self.inference = _Timer(infer, size)


def _batch(size: int, devices: list[jax.Device]) -> tuple[Any, np.ndarray]:
  """Returns random images and labels on the devices, and the indices of one step."""
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (size, int(np.prod(IMAGE_SHAPE))), np.uint8)
  labels = random.integers(0, 10, size, np.int32)
  indices = np.arange(size, dtype=np.int32).reshape(len(devices), 1, -1)
  return steps.replicate((images, labels), devices), indices


def _peak_bytes(memory: Any) -> int:
  """Returns the memory for arguments, results and temporaries at the same time."""
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes  # results in the place of donated arguments
    + memory.temp_size_in_bytes
  )
