"""Measures this project's convolutions, one at a time."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

# The peers share a GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import networks
from benchmarks.peers import Peer, Workload, num_threads
from cifar_flax import config as config_lib
from cifar_flax import models
from cifar_flax import ops as ops_lib


class OurLayers(Peer):
  """Single convolutions and convolution types, on the first device.

  Attributes:
    ops: "fast", or "lax" for XLA's own operations.
    operations: the operations of that name.
    devices: all devices of JAX.
    naive_in_loops: whether gradients of a convolution in a loop fall back to naive
      code, as with XLA's own operations on a CPU: tens of seconds per step.
  """

  def __init__(self, ops: str):
    self.ops = ops
    self.operations = ops_lib.select(ops)
    self.devices = jax.devices()
    self.naive_in_loops = ops == "lax" and self.devices[0].platform == "cpu"

  def describe(self) -> str:
    """Returns version, device and threads, in one line."""
    device = self.devices[0]
    name = (
      device.device_kind if device.platform != "cpu" else f"{num_threads()} threads"
    )
    return f"jax {jax.__version__} on {name}, ops={self.ops}"

  def convolution(
    self, conv: dict[str, Any], shape: Sequence[int], product: str, dtype: str
  ) -> Workload:
    """Prepares one product of a convolution, without anything around it.

    Args:
      conv: fields of `networks.Conv`.
      shape: shape of the input, [batch, height, width, channels].
      product: "forward", "input gradient" or "filter gradient".
      dtype: of input, kernel and output.
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
    return self._repeat(products[product], x, kernel, dy)

  def block(self, kind: str, batch: int, dtype: str) -> Workload:
    """Prepares output and gradients of a convolution type, BatchNorm and ReLU."""
    values = {"model.dtype": dtype, "model.ops": self.ops, "model.convolution": kind}
    config = config_lib.override(config_lib.Config(), values).model
    slot, parts = networks.convolution_types(config)[kind], models.create(config, 10)
    norm_relu = parts.batch_norm_relu(train=True)
    options: dict[str, Any] = {"features": slot.features, "padding": slot.padding}
    options["conv"] = partial(parts.conv, use_bias=False)
    if kind == "spatially_separable":
      options["between"] = norm_relu
    module = nn.Sequential([parts.convolution(**options), norm_relu()])
    x = _random((batch, slot.height, slot.height, slot.channels), dtype)
    variables = jax.jit(module.init)(jax.random.key(0), x)

    def forward(params, x):
      every = {"params": params, "batch_stats": variables["batch_stats"]}
      return module.apply(every, x, mutable=["batch_stats"])

    def forward_and_backward(params, x, dy):
      y, pull, updated = jax.vjp(forward, params, x, has_aux=True)
      return y, pull(dy), updated

    y, _ = jax.eval_shape(forward, variables["params"], x)
    dy = _random(y.shape, dtype)
    return self._repeat(forward_and_backward, variables["params"], x, dy)

  def _repeat(self, function: Callable, *operands: Any) -> Workload:
    """Returns repeated calls of `function`; each overwrites the last one's result."""
    once = jax.jit(
      lambda result, *operands: function(*operands),
      donate_argnums=0,
      keep_unused=True,
      compiler_options=dict(self.operations.compiler_options),
    )
    operands = jax.device_put(operands)
    result = jax.tree.map(
      lambda like: jnp.zeros(like.shape, like.dtype),
      jax.eval_shape(function, *operands),
    )

    def run(num_steps: int) -> None:
      nonlocal result
      for _ in range(num_steps):
        result = once(result, *operands)
      jax.block_until_ready(result)

    return Workload(run, text=lambda: compiled_text(once, result, *operands))


def compiled_text(function: Any, *arguments: Any) -> str:
  """Returns the program of a jitted function as text."""
  return function.lower(*arguments).compile().as_text()


def _random(shape: Sequence[int], dtype: str) -> jax.Array:
  values = np.random.default_rng(0).uniform(-1, 1, shape)
  return jnp.asarray(values, dtype)
