"""The networks; `create` builds the one that a config names."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_flax import config as config_lib
from cifar_flax import ops, registry
from cifar_flax.models.layers import BatchNormReLU
from cifar_flax.models.network import Network


def set_precision(dtype: str) -> None:
  """Enables JAX's 64-bit types if a config's `model.dtype` needs them, else disables.

  A run is a function of its config, so it must not depend on what was enabled before.
  Everything that computes with a network calls this first.
  """
  jax.config.update("jax_enable_x64", dtype == "float64")  # type: ignore[no-untyped-call]


def create(
  config: config_lib.Model, num_classes: int, axis_name: str | None = None
) -> Network:
  """Builds a network.

  Kernels are initialised by `glorot_uniform` and biases by zero, as in Keras.

  Args:
    config: the part `model` of a run's config.
    num_classes: number of logits.
    axis_name: mapped axis over which BatchNorm computes its statistics, or None.

  Returns:
    The network; call it with images [batch, 32, 32, 3] in [0, 1].
  """
  operations = ops.select(config.ops, config.dtype)
  dtype = jnp.dtype(config.dtype)
  types: dict[str, Any] = {
    "dtype": dtype,
    "param_dtype": jnp.promote_types(dtype, jnp.float32),
  }
  kernel_init = nn.initializers.glorot_uniform()
  return registry.lookup(registry.NETWORKS[config.name])(
    num_classes=num_classes,
    conv=partial(
      nn.Conv,
      kernel_init=kernel_init,
      conv_general_dilated=operations.conv_general_dilated,
      **types,
    ),
    dense=partial(nn.Dense, kernel_init=kernel_init, **types),
    norm=partial(
      BatchNormReLU,
      operation=operations.batch_norm_relu,
      momentum=config.batch_norm_momentum,
      epsilon=config.batch_norm_epsilon,
      axis_name=axis_name,
      **types,
    ),
    max_pool=operations.max_pool,
    dropout_rate=config.dropout_rate,
    dense_dropout_rate=config.dense_dropout_rate,
    convolution=registry.lookup(registry.CONVOLUTIONS[config.convolution]),
    width=config.width,
  )
