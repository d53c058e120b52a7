"""This project's convolutions, one at a time."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import networks
from benchmarks.peers import Peer, Program, num_threads
from cifar_flax import config as config_lib
from cifar_flax import models
from cifar_flax import ops as ops_lib


class OurLayers(Peer):
  """Convolutions and blocks on the first device.

  Attributes:
    ops: "fast", or "lax" for XLA's own operations.
    operations: those.
    devices: all of JAX's.
    naive_in_loops: whether gradients in a loop fall back to naive code, as those of
      XLA's own operations do on a CPU: tens of seconds a step.
  """

  def __init__(self, ops: str):
    self.ops = ops
    self.operations = ops_lib.select(ops)
    self.devices = jax.devices()
    self.naive_in_loops = ops == "lax" and self.devices[0].platform == "cpu"

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

  def convolution(
    self, conv: dict[str, Any], shape: Sequence[int], product: str, dtype: str
  ) -> Program:
    """One of the products of a convolution, nothing else.

    Args:
      conv: fields of `networks.Conv`.
      shape: of the images, [batch, height, width, channels].
      product: "forward", "input gradient" or "filter gradient".
      dtype: of everything.
    """
    layer = networks.Conv(**conv)
    convolve = partial(
      self.operations.conv_general_dilated,
      window_strides=(1, 1),
      padding=layer.padding,
      rhs_dilation=(layer.dilation, layer.dilation),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=layer.groups,
    )
    kernel_shape = (*layer.size, shape[3] // layer.groups, layer.features)
    x, kernel = _random(shape, dtype), _random(kernel_shape, dtype)
    dy = _random(jax.eval_shape(convolve, x, kernel).shape, dtype)
    products: dict[str, Callable] = {
      "forward": lambda x, k, dy: convolve(x, k),
      "input gradient": lambda x, k, dy: jax.vjp(lambda x: convolve(x, k), x)[1](dy)[0],
      "filter gradient": lambda x, k, dy: jax.vjp(partial(convolve, x), k)[1](dy)[0],
    }

    def step(operands, result):
      operands = [_with_first(operand, result) for operand in operands]
      return operands, products[product](*operands)

    operands = [x, kernel, dy]
    result = jax.eval_shape(products[product], *operands)
    return self._repeat(step, operands, result)

  def block(self, kind: str, batch: int, dtype: str) -> Program:
    """A type of convolution, BatchNorm and ReLU: the output and all gradients."""
    values = {"model.dtype": dtype, "model.ops": self.ops, "model.convolution": kind}
    config = config_lib.override(config_lib.Config(), values).model
    slot, parts = networks.convolution_types(config)[kind], models.create(config, 10)
    plus = parts.batch_norm_relu(train=True)
    options: dict[str, Any] = {"features": slot.features, "padding": slot.padding}
    options["conv"] = partial(parts.conv, use_bias=False)
    if kind == "spatially_separable":
      options["between"] = plus
    module = nn.Sequential([parts.convolution(**options), plus()])
    x = _random((batch, slot.height, slot.height, slot.channels), dtype)
    variables = jax.jit(module.init)(jax.random.key(0), x)

    def forward(stats, params, x):
      every = {"params": params, "batch_stats": stats}
      return module.apply(every, x, mutable=["batch_stats"])

    def step(operands, result):
      variables, x, dy = operands
      x = _with_first(x, result[1])
      apply = partial(forward, variables["batch_stats"])
      y, pull, updated = jax.vjp(apply, variables["params"], x, has_aux=True)
      grads, dx = pull(dy)
      # So that the next step needs all of these.
      params = jax.tree.map(lambda p, g: p - 1e-6 * g, variables["params"], grads)
      return ({"params": params, **updated}, x, dy), (y, dx)

    y, _ = jax.eval_shape(forward, variables["batch_stats"], variables["params"], x)
    dy = _random(y.shape, dtype)
    return self._repeat(step, (variables, x, dy), (y, x))

  def _repeat(self, step: Callable, operands: Any, result: Any) -> Program:
    """`step`: (operands, result) -> (operands, result), each needing the one before."""

    def steps(carry, num_steps):
      if self.naive_in_loops:
        return step(*carry)
      return jax.lax.fori_loop(0, num_steps, lambda i, carry: step(*carry), carry)

    options = dict(self.operations.compiler_options)
    steps = jax.jit(steps, donate_argnums=0, compiler_options=options)
    zeros = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), result)
    carry = jax.tree.map(jnp.copy, (operands, zeros))

    def run(num_steps: int) -> None:
      nonlocal carry
      for _ in range(num_steps if self.naive_in_loops else 1):
        carry = steps(carry, np.int32(num_steps))
      jax.block_until_ready(carry)

    return Program(run)


def _with_first(operand: jax.Array, result: jax.Array) -> jax.Array:
  """`operand` with one number out of `result`: then no loop can do without either."""
  number = jnp.clip(result[0, 0, 0, 0], -1, 1).astype(operand.dtype)
  return operand.at[0, 0, 0, 0].set(number)


def _random(shape: Sequence[int], dtype: str) -> jax.Array:
  values = np.random.default_rng(0).uniform(-1, 1, shape)
  return jnp.asarray(values, dtype)
