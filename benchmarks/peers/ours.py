"""This project's own training and inference, as `cifar_flax.train` runs them."""

import jax
import numpy as np

from benchmarks.peers import Peer, Program, fixed_batch, load_config, num_threads
from cifar_flax import config as config_lib
from cifar_flax import steps, train

EXAMPLES = 50_000  # of an epoch: schedules and the dispatch size depend on it


class Ours(Peer):
  """`cifar_flax.steps.Program` on all devices.

  Attributes:
    ops: "fast", or "lax" for XLA's own operations.
  """

  def __init__(self, ops: str):
    self.ops = ops
    self.devices = jax.devices()

  def describe(self) -> str:
    """Version, device and threads, in a line."""
    device = self.devices[0]
    name = (
      device.device_kind if device.platform != "cpu" else f"{num_threads()} threads"
    )
    return f"jax {jax.__version__} on {name}, ops={self.ops}"

  def peak_bytes(self) -> int:
    """The most memory in use so far: of the process, or of its GPU."""
    used = self.devices[0].memory_stats() or {}
    return used.get("peak_bytes_in_use") or super().peak_bytes()

  def dispatch_size(self) -> int:
    """Steps in a call, where the config leaves it open."""
    platform = self.devices[0].platform
    return train.STEPS_PER_DISPATCH.get(platform, EXAMPLES // 128)

  def train(
    self, net: str, batch: int, dtype: str, dispatch: int = 0, loop: str = ""
  ) -> Program:
    """The training step on one batch.

    Args:
      net: the network.
      batch: images a step.
      dtype: of activations.
      dispatch: steps in a call; 0 for as many as the trainer makes.
      loop: "fori", as the trainer has it; "scan", over steps; or "none", a step a
        call. "" is "none" for XLA's own operations on a CPU: in a loop their
        gradients fall back to naive code, tens of seconds a step.
    """
    config = load_config(net, batch, dtype, ops=self.ops)
    program = steps.Program(config, self.devices, 10, EXAMPLES)
    state = steps.create_state(config, program.network, program.tx, (32, 32, 3))
    parameters = _count(state.params) + _count(state.batch_stats)
    state, *data = steps.replicate((state, *fixed_batch(batch)), self.devices)
    naive = self.ops == "lax" and self.devices[0].platform == "cpu"
    loop = loop or ("none" if naive else "fori")
    size = 1 if loop == "none" else dispatch or self.dispatch_size()
    indices = self._indices(batch, size)
    train_steps = self._loop(loop, config, program)

    def run(num_steps: int) -> None:
      nonlocal state
      for _ in range(num_steps // size):
        state = train_steps(state, *data, np.int32(size), indices)
      jax.block_until_ready(state)

    return Program(run, size, {"parameters": parameters})

  def _loop(self, loop: str, config: config_lib.Config, program: steps.Program):
    """What takes the arguments of `program.train_steps`, by another way."""
    if loop == "fori":
      return program.train_steps
    step = steps.make_train_step(
      config, program.network, program.tx, program.steps_per_epoch
    )

    def one_step(state, images, labels, num_steps, indices):
      del num_steps
      return step(state, images, labels, indices[0])

    def scan_steps(state, images, labels, num_steps, indices):
      del num_steps

      def body(state, indices):
        return step(state, images, labels, indices), None

      return jax.lax.scan(body, state, indices)[0]

    chosen = {"none": one_step, "scan": scan_steps}[loop]
    return steps.map_over_devices(chosen, self.devices, 1, donate=0)

  def infer(self, net: str, batch: int, dtype: str) -> Program:
    """The evaluation step: forward, the right ones counted."""
    config = load_config(net, batch, dtype, ops=self.ops)
    program = steps.Program(config, self.devices, 10, EXAMPLES)
    state = steps.create_state(config, program.network, program.tx, (32, 32, 3))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    replicated = (variables, *fixed_batch(batch), steps.Metrics.empty())
    variables, *data, empty = steps.replicate(replicated, self.devices)
    size = self.dispatch_size()
    indices = self._indices(batch, size)
    mask = np.ones(indices.shape, np.float32)

    def run(num_steps: int) -> None:
      sums = empty
      for _ in range(num_steps // size):
        sums = program.eval_steps(sums, variables, *data, np.int32(size), indices, mask)
      jax.block_until_ready(sums)

    return Program(run, size)

  def _indices(self, batch: int, size: int) -> np.ndarray:
    """The same `batch` images in each of `size` steps."""
    one = np.arange(batch, dtype=np.int32).reshape(len(self.devices), 1, -1)
    return np.ascontiguousarray(np.broadcast_to(one, (len(one), size, one.shape[2])))


def _count(tree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))
