"""The platform that programs are compiled for, and XLA's compiler options."""

import contextlib
import functools
from collections.abc import Iterator, Mapping

import jax


def cpu_options(dtype: str) -> dict[str, str]:
  """Returns the compiler options for CPU programs with activations of type `dtype`.

  YNNPACK computes matrix products and, except in bfloat16, sums; Eigen computes
  convolutions. By default, jaxlib 0.10 uses YNNPACK for convolutions as well, which
  then run on one thread each. In jaxlib 0.11.2 to 0.12.0, YNNPACK's fusions around a
  bfloat16 sum read uninitialised memory. In float32 they are used, because a step is
  8 % slower without them.
  """
  kinds = ["INDIVIDUAL_DOT"] + ["REDUCE"] * (dtype != "bfloat16")
  value = ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in kinds)
  return {"xla_cpu_experimental_ynn_fusion_type": value}


_platform: str | None = None


def platform() -> str:
  """Returns the platform to compile for, by default that of JAX's default backend."""
  return _platform or jax.default_backend()


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
  """Changes `platform` inside the context; no device of that platform is needed."""
  global _platform
  _platform, before = platform, _platform
  try:
    yield
  finally:
    _platform = before


def supported(options: Mapping[str, str]) -> Mapping[str, str]:
  """Returns `options` if this version of XLA accepts all of them, else {}."""
  return dict(options) if _compiles(tuple(options.items())) else {}


@functools.cache
def _compiles(options: tuple[tuple[str, str], ...]) -> bool:
  try:
    jax.jit(lambda: 0, compiler_options=dict(options)).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True
