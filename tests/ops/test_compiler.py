import jax
import jax.numpy as jnp
import pytest

from cifar_flax import ops
from cifar_flax.ops import compiler

KEY = "xla_cpu_experimental_ynn_fusion_type"


@pytest.mark.parametrize("options", [{"xla_cpu_no_such": "1"}, {KEY: "NO_SUCH"}])
def test_what_this_xla_does_not_know_is_left_out(options):
  assert compiler.supported(options) == {}


def test_lax_is_xla_as_it_comes():
  assert ops.select("lax").compiler_options == {}


def compiled_convolution(options):
  def convolve(x, kernel):
    return ops.select("fast").conv_general_dilated(
      x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  shapes = (
    jax.ShapeDtypeStruct(shape, jnp.float32)
    for shape in ((8, 16, 16, 32), (3, 3, 32, 64))
  )
  return jax.jit(convolve, compiler_options=options).lower(*shapes).compile().as_text()


def test_convolutions_stay_out_of_the_library_with_one_thread():
  options = dict(ops.select("fast").compiler_options)
  if jax.default_backend() != "cpu" or not options:
    pytest.skip("this backend or version of XLA has no such option")
  assert "ynn" in compiled_convolution({})  # else the option has become needless
  assert "ynn" not in compiled_convolution(options)
