"""The mathematics of the networks, in the form that is fast on the backend at hand."""

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
  "Operations",
  "Purpose",
  "dropout",
  "example_keys",
  "hash_uint32",
  "select",
  "uniform",
]


class Operations(NamedTuple):
  """What a network is built from.

  Attributes:
    conv_general_dilated: takes what `lax.conv_general_dilated` takes; the argument of
      that name of `flax.linen.Conv`.
    max_pool: (x `[batch, height, width, channels]`, window: int = 2) -> the largest of
      each non-overlapping window; an odd row or column left over is dropped.
    batch_norm_relu: as `ops.normalization.batch_norm_relu`; None where that of Flax
      and XLA is as fast.
    compiler_options: for the `jax.jit` around a program made of them.
  """

  conv_general_dilated: Callable[..., jax.Array]
  max_pool: Callable[..., jax.Array]
  batch_norm_relu: Callable[..., tuple[jax.Array, ...]] | None
  compiler_options: Mapping[str, str]


_LAX = Operations(lax.conv_general_dilated, max_pool_lax, None, {})
# cuDNN and the TPU compiler have convolutions of their own for every layout.
_FAST = Operations(lax.conv_general_dilated, max_pool, None, {})


def select(name: str, dtype: str = "float32") -> Operations:
  """Chooses the operations a network is built from, for `compiler.platform()`.

  Args:
    name: "fast", whatever is fastest on this backend, or "lax", XLA's own.
    dtype: of the activations.

  Returns:
    The operations; both kinds give the same results up to rounding.

  Raises:
    UserError: another name.
  """
  if name not in ("fast", "lax"):
    raise UserError(f"operations {name!r} are unknown: choose 'fast' or 'lax'")
  if name == "lax":
    return _LAX
  if compiler.platform() != "cpu":
    return _FAST
  options = compiler.supported(compiler.cpu_options(dtype))
  return Operations(conv_general_dilated, max_pool, batch_norm_relu, options)
