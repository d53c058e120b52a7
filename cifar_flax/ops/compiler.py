"""What is compiled for, and with which options of the XLA compiler."""

import contextlib
import functools
from collections.abc import Iterator, Mapping

import jax


def cpu_options(dtype: str) -> dict[str, str]:
  """Options for programs on a CPU whose activations are of `dtype`.

  YNNPACK for products and, except in bfloat16, sums; Eigen for convolutions. By default
  jaxlib 0.10 gives convolutions to YNNPACK as well, where each runs on one thread. In
  jaxlib 0.11.2 to 0.12.0, YNNPACK's fusions around a bfloat16 sum read memory that was
  never written; in float32 a step is 8 % slower without them.
  """
  kinds = ["INDIVIDUAL_DOT"] + ["REDUCE"] * (dtype != "bfloat16")
  value = ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in kinds)
  return {"xla_cpu_experimental_ynn_fusion_type": value}


_platform: str | None = None


def platform() -> str:
  """The platform that programs are compiled for: of JAX's default backend."""
  return _platform or jax.default_backend()


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
  """Compiles for another platform, of which there need not be a device here."""
  global _platform
  _platform, before = platform, _platform
  try:
    yield
  finally:
    _platform = before


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
