import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_flax import ops
from cifar_flax.models import layers
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


def test_two_bfloat16_maxima_before_a_sum_are_right():
  # In jaxlib 0.11.2 to 0.12.0, YNNPACK's fusion of them reads what was never written.
  def program(x):
    y = jnp.maximum(x.astype(jnp.bfloat16), 0)
    z = jnp.maximum(y + y, 0)
    return jnp.sum(z.astype(jnp.float32), -1)

  x = np.random.default_rng(0).integers(-8, 8, (64, 32)).astype(np.float32)
  expected = 2 * np.maximum(x, 0).sum(-1)  # small integers: exact in any order
  options = dict(ops.select("fast", "bfloat16").compiler_options)
  found = jax.jit(program, compiler_options=options)(x)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_relu_computes_in_at_least_float32_and_keeps_the_type(dtype):
  with jax.enable_x64(dtype == "float64"):
    x = jnp.asarray([-2.0, -0.0, 0.0, 1.5, np.inf, np.nan], dtype)
    y = layers.relu(x)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(np.float32(y), [0, 0, 0, 1.5, np.inf, np.nan])
    operations = jax.make_jaxpr(layers.relu)(x).eqns
    computing = [e for e in operations if e.primitive.name != "convert_element_type"]
    assert computing
    for operation in computing:
      assert operation.outvars[0].aval.dtype != jnp.bfloat16


def test_convolutions_stay_out_of_the_library_with_one_thread():
  options = dict(ops.select("fast").compiler_options)
  if jax.default_backend() != "cpu" or not options:
    pytest.skip("this backend or version of XLA has no such option")
  assert "ynn" in compiled_convolution({})  # else the option has become needless
  assert "ynn" not in compiled_convolution(options)
