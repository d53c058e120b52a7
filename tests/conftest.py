"""Eight virtual CPU devices, no silent broadcasting, nothing compiled twice."""

import atexit
import os
import shutil
import sys
import tempfile

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
  os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()

# Shared by the workers of one run: a trainer made twice is compiled once.
if "PYTEST_XDIST_WORKER" not in os.environ:
  cache = tempfile.mkdtemp(prefix="cifar_flax_tests_")
  atexit.register(shutil.rmtree, cache, ignore_errors=True)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


@pytest.fixture(autouse=True)
def fresh_process():
  """No test gets the precision or the compiled program of the one before it.

  A program compiled before may lack a part that the test replaces.
  """
  if jax := sys.modules.get("jax"):
    jax.config.update("jax_enable_x64", False)
  if steps := sys.modules.get("cifar_flax.steps"):
    steps.program_of.cache_clear()
