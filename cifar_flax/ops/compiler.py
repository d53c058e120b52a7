"""Options of the XLA compiler that decide which library computes an operation."""

import functools
from collections.abc import Mapping

import jax

# YNNPACK for products and sums, Eigen for convolutions. By default jaxlib 0.10 gives
# convolutions to YNNPACK as well, where each runs on one thread.
CPU = {
  "xla_cpu_experimental_ynn_fusion_type": (
    "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
  )
}


def supported(options: Mapping[str, str]) -> Mapping[str, str]:
  """Returns `options` if this version of XLA knows them all, else {}."""
  return dict(options) if _compiles(tuple(options.items())) else {}


@functools.cache
def _compiles(options: tuple[tuple[str, str], ...]) -> bool:
  try:
    jax.jit(lambda: 0, compiler_options=dict(options)).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True
