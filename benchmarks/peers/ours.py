"""Measures this project's training and inference, as the trainer runs them."""

import time
from collections.abc import Callable

import jax
import numpy as np

from benchmarks.peers import ROOT, Workload, data_options, fixed_batch, load_config
from benchmarks.peers.our_layers import OurLayers, compiled_text
from cifar_flax import config as config_lib
from cifar_flax import optimizer, steps
from cifar_flax.data import batches
from cifar_flax.trainer import STEPS_PER_DISPATCH, CallLength, Trainer

EXAMPLES = 50_000  # per epoch; schedules and the dispatch size depend on it
SHORT_EPOCH = 16  # steps on a CPU, where one takes a large part of a second


class Ours(OurLayers):
  """This project on all devices: `steps.Program`, the trainer, and single layers."""

  def dispatch_size(self) -> int:
    """Returns the steps per call of a config that does not set them."""
    platform = self.devices[0].platform
    return STEPS_PER_DISPATCH.get(platform, EXAMPLES // 128)

  def train(self, net: str, batch: int, dtype: str) -> Workload:
    """Prepares the training step on one batch.

    The steps run in the trainer's loop, or in separate calls if `naive_in_loops`.
    """
    config = load_config(net, batch, dtype, ops=self.ops)
    program = steps.Program(config, self.devices, 10, EXAMPLES)
    state = steps.create_state(config, program.network, program.tx, (32, 32, 3))
    parameters = _count(state.params) + _count(state.batch_stats)
    state, *data = steps.replicate((state, *fixed_batch(batch)), self.devices)
    size, train_steps = self.dispatch_size(), program.train_steps
    if self.naive_in_loops:
      size, train_steps = 1, self._single_step(config, program)
    indices = self._indices(batch, size)
    rates = np.full(size, config.schedule.learning_rate, steps.parameter_dtype(config))

    def arguments(number: int):
      return state, *data, np.uint32(0), np.int32(number), rates, indices

    def call(number: int) -> None:
      nonlocal state
      state, _ = train_steps(*arguments(number))
      jax.block_until_ready(state)

    return Workload(
      _in_calls(call, size),
      facts={"parameters": parameters},
      text=lambda: compiled_text(train_steps, *arguments(1)),
    )

  def _single_step(self, config: config_lib.Config, program: steps.Program):
    """Returns a step that takes the arguments of `program.train_steps`."""

    def single_step(state, images, labels, seed, num_steps, rates, indices):
      del num_steps
      tx = optimizer.create_optimizer(config, lambda _: rates[0])
      step = steps.make_train_step(
        config, program.network, tx, program.steps_per_epoch, seed
      )
      return step(state, images, labels, indices[0])

    options = self.operations.compiler_options
    return steps.map_over_devices(single_step, self.devices, 1, 0, options)

  def infer(self, net: str, batch: int, dtype: str) -> Workload:
    """Prepares the evaluation step: forward pass and metrics."""
    config = load_config(net, batch, dtype, ops=self.ops)
    program = steps.Program(config, self.devices, 10, EXAMPLES)
    state = steps.create_state(config, program.network, program.tx, (32, 32, 3))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    replicated = (variables, *fixed_batch(batch), steps.Metrics.empty())
    variables, *data, empty = steps.replicate(replicated, self.devices)
    size = self.dispatch_size()
    indices = self._indices(batch, size)
    mask = np.ones(indices.shape, np.float32)

    def arguments(number: int):
      return empty, variables, *data, np.int32(number), indices, mask

    def call(number: int) -> None:
      jax.block_until_ready(program.eval_steps(*arguments(number)))

    return Workload(
      _in_calls(call, size),
      text=lambda: compiled_text(program.eval_steps, *arguments(1)),
    )

  def epoch(self, net: str, dtype: str, data: str) -> Workload:
    """Prepares an epoch of the trainer on real images, augmentation included.

    On a CPU, an epoch has `SHORT_EPOCH` steps.
    """
    trainer = self._trainer(net, dtype, data)
    steps_per_epoch = trainer.program.steps_per_epoch

    def run(num_steps: int) -> None:
      for _ in range(num_steps // steps_per_epoch):
        list(trainer.train_epoch())
        trainer.history.append({})  # makes the trainer begin the next epoch

    name = trainer.dataset.info.name
    return Workload(run, steps_per_epoch, {"data": name})

  def evaluate(self, net: str, dtype: str, data: str) -> Workload:
    """Prepares the trainer's evaluation on real images."""
    trainer = self._trainer(net, dtype, data)
    size = batches.eval_batch_size(0, self.devices[0].platform)
    num_steps = -(-len(trainer.dataset.eval.labels) // size)

    def run(steps: int) -> None:
      for _ in range(steps // num_steps):
        trainer.evaluation()

    return Workload(run, num_steps, {"data": trainer.dataset.info.name})

  def _trainer(self, net: str, dtype: str, data: str) -> Trainer:
    config = config_lib.load(str(ROOT / "configs" / f"{net}.py"))
    values = {"model.dtype": dtype, "model.ops": self.ops, **data_options(data)}
    if self.devices[0].platform == "cpu":
      values["data.train_split"] = f"train[:{SHORT_EPOCH * config.batch_size}]"
      values["data.eval_split"] = f"test[:{16 * batches.eval_batch_size(0, 'cpu')}]"
    trainer = Trainer(config_lib.override(config, values), self.devices)
    trainer.restore(None)
    return trainer

  def _indices(self, batch: int, size: int) -> np.ndarray:
    """Returns indices that select the same `batch` images in each of `size` steps."""
    one = np.arange(batch, dtype=np.int32).reshape(len(self.devices), 1, -1)
    return np.ascontiguousarray(np.broadcast_to(one, (len(one), size, one.shape[2])))


def _in_calls(call: Callable[[int], None], most: int) -> Callable[[int], None]:
  """Returns a function that makes steps in calls as long as the trainer's.

  Args:
    call: makes a number of steps and waits for them.
    most: the largest number of steps in a call.
  """
  length = CallLength(most)

  def run(num_steps: int) -> None:
    while num_steps > 0:
      number = min(length.steps(), num_steps)
      begun = time.perf_counter()
      call(number)
      length.record(number, time.perf_counter() - begun)
      num_steps -= number

  return run


def _count(tree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))
