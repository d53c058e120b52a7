"""Training steps of a network on one batch, to be timed or profiled in this process."""

from typing import Any

import jax
import numpy as np

from benchmarks.peers import BATCH, fixed_batch, load_config
from cifar_flax import steps


class TrainingSteps:
  """A number of training steps in one call, in float32; the first call compiles."""

  def __init__(self, net: str, number: int):
    """Prepares `number` steps of the published config `net`."""
    config = load_config(net, BATCH, "float32", ops="fast")
    program = steps.Program(config, jax.devices(), 10, 50_000)
    state = steps.create_state(config, program.network, program.tx, (32, 32, 3))
    self._state, *data = steps.replicate((state, *fixed_batch(BATCH)), jax.devices())
    one = np.arange(BATCH, dtype=np.int32).reshape(len(jax.devices()), 1, -1)
    indices, rates = np.repeat(one, number, axis=1), np.zeros(number, np.float32)
    self._rest = (*data, np.uint32(0), np.int32(number), rates, indices)
    self._function: Any = program.train_steps

  def __call__(self) -> None:
    """Makes the steps and waits for them."""
    self._state, _ = self._function(self._state, *self._rest)
    jax.block_until_ready(self._state)

  def text(self) -> str:
    """Returns the compiled program as text; on a CPU alone, where it is one `jit`."""
    return self._function.lower(self._state, *self._rest).compile().as_text()
