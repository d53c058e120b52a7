"""The operations of the networks, in the form that is fastest on each backend."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
from jax import lax

from cifar_flax.errors import UserError
from cifar_flax.ops import compiler
from cifar_flax.ops.convolution import conv_general_dilated
from cifar_flax.ops.dropout import dropout
from cifar_flax.ops.hashing import Purpose, example_keys, hash_uint32, uniform
from cifar_flax.ops.normalization import batch_norm_relu
from cifar_flax.ops.pooling import max_pool, max_pool_lax

__all__ = [
  "BatchNormReLU",
  "Operations",
  "Purpose",
  "dropout",
  "example_keys",
  "hash_uint32",
  "select",
  "uniform",
]


# (x, scale, bias, epsilon, axis name) -> (result, mean, variance)
BatchNormReLU = Callable[
  [jax.Array, jax.Array, jax.Array, float, str | None],
  tuple[jax.Array, jax.Array, jax.Array],
]


class Operations(NamedTuple):
  """The operations that a network is built from.

  Attributes:
    conv_general_dilated: has the signature of `lax.conv_general_dilated`; passed to
      `flax.linen.Conv` as the argument of the same name.
    max_pool: (x `[batch, height, width, channels]`, window: int = 2) -> the maximum of
      each non-overlapping window; a remaining row or column is dropped.
    batch_norm_relu: has the signature of `ops.normalization.batch_norm_relu`; None
      where Flax's BatchNorm, compiled by XLA, is as fast.
    compiler_options: options for the `jax.jit` of a program that uses them.
  """

  conv_general_dilated: Callable[..., jax.Array]
  max_pool: Callable[..., jax.Array]
  batch_norm_relu: BatchNormReLU | None
  compiler_options: Mapping[str, str]


_LAX = Operations(lax.conv_general_dilated, max_pool_lax, None, {})
# cuDNN and the TPU compiler have fast convolutions for every layout.
_FAST = Operations(lax.conv_general_dilated, max_pool, None, {})


def select(name: str, dtype: str = "float32") -> Operations:
  """Chooses the operations a network is built from, for `compiler.platform()`.

  Args:
    name: "fast" for the fastest forms on this backend, "lax" for plain `jax.lax`.
    dtype: type of the activations.

  Returns:
    The operations; "fast" and "lax" give the same results up to rounding. Only "lax"
    can be differentiated in forward mode.

  Raises:
    UserError: `name` is neither "fast" nor "lax".
  """
  if name not in ("fast", "lax"):
    raise UserError(f"unknown operations {name!r}: choose 'fast' or 'lax'")
  if name == "lax":
    return _LAX
  if compiler.platform() == "gpu":
    return _FAST._replace(batch_norm_relu=batch_norm_relu)
  if compiler.platform() != "cpu":
    return _FAST
  options = compiler.supported(compiler.cpu_options(dtype))
  return Operations(conv_general_dilated, max_pool, batch_norm_relu, options)
