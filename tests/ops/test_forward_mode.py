"""Which transformations of JAX the fast operations support, and what the others say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_flax import ops
from cifar_flax.ops import convolution
from cifar_flax.ops.forward_mode import ADVICE

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 2)), jnp.float32)
KEYS = jnp.arange(2, dtype=jnp.uint32)


def convolved(name, groups, kernel):
  conv = ops.select(name).conv_general_dilated
  numbers = {"dimension_numbers": DIMENSIONS, "feature_group_count": groups}
  return lambda x: conv(x, kernel, (1, 1), "SAME", **numbers)


def functions(name):
  """Each operation as a function of `X`, by what it is called here."""
  kernels = np.random.default_rng(1).standard_normal((3, 3, 2, 4))
  kernels = jnp.asarray(kernels, jnp.float32)
  ones = jnp.ones(2)
  chosen = ops.select(name)
  found = {
    "plain": convolved(name, 1, kernels),
    "depthwise": convolved(name, 2, kernels[:, :, :1]),
    "max_pool": chosen.max_pool,
  }
  if chosen.batch_norm_relu:
    found["batch_norm_relu"] = lambda x: chosen.batch_norm_relu(
      x, ones, ones, 1e-3, None
    )[0]
    found["dropout"] = lambda x: ops.dropout(x, 0.5, KEYS, 0)
  return found


NAMES = list(functions("fast"))


def loss(name, operation):
  function = functions(name)[operation]
  return lambda x: (function(x) ** 3).sum()


@pytest.mark.parametrize("operation", NAMES)
def test_reverse_mode_of_any_order_and_the_other_transformations_work(operation):
  f = loss("fast", operation)
  once = jax.grad(f)(X)
  np.testing.assert_allclose(jax.jit(jax.grad(f))(X), once, rtol=1e-4, atol=1e-5)
  again = jax.grad(jax.checkpoint(f))(X)
  np.testing.assert_allclose(again, once, rtol=1e-4, atol=1e-5)
  many = jax.vmap(jax.grad(f))(jnp.stack([X, X]))
  np.testing.assert_allclose(many, jnp.stack([once, once]), rtol=1e-4, atol=1e-5)
  hessian = jax.jacrev(jax.grad(f))(X)
  assert hessian.shape == X.shape * 2
  if operation in functions("lax"):  # forward over reverse is possible there
    expected = jax.hessian(loss("lax", operation))(X)
    np.testing.assert_allclose(hessian, expected, rtol=1e-3, atol=1e-3)
    tangent = jax.jvp(loss("lax", operation), (X,), (X,))[1]
    np.testing.assert_allclose(jnp.vdot(once, X), tangent, rtol=1e-4)
    pushed = jax.linearize(loss("lax", operation), X)[1](X)
    np.testing.assert_allclose(pushed, tangent, rtol=1e-4)


@pytest.mark.parametrize("operation", NAMES)
def test_forward_mode_says_what_to_do(operation):
  f = loss("fast", operation)
  for transformed in (lambda: jax.jvp(f, (X,), (X,)), lambda: jax.jacfwd(f)(X)):
    with pytest.raises(TypeError, match="model.ops=lax and no dropout") as error:
      transformed()
    assert str(error.value).count(ADVICE) == 1
  with pytest.raises(TypeError, match="forward-mode"):
    jax.linearize(f, X)[1](X)


def test_the_hessian_of_a_convolution_says_what_to_do():
  with pytest.raises(TypeError, match="model.ops=lax"):
    jax.hessian(loss("fast", "plain"))(X)


@pytest.mark.parametrize(
  ("kernel", "options"),
  [
    (jnp.ones((3, 3, 5, 4)), {}),
    (jnp.ones((3, 3, 2, 4), jnp.int32), {}),
    (jnp.ones((3, 3, 4)), {}),
    (jnp.ones((3, 3, 2, 4)), {"feature_group_count": 3}),
    (jnp.ones((3, 3, 2, 4)), {"rhs_dilation": (0, 1)}),
    (jnp.ones((3, 3, 2, 4)), {"padding": "SOME"}),
    (jnp.ones((3, 3, 2, 4)), {"padding": ((1, 1),)}),
    (jnp.ones((3, 3, 2, 4)), {"window_strides": (1,)}),
    (jnp.ones((3, 3, 2, 4)), {"window_strides": (0, 1)}),
    (jnp.ones((3, 3, 2, 4)), {"lhs_dilation": (1,)}),
    (jnp.ones((3, 3, 2, 4)), {"rhs_dilation": (1, 1, 1)}),
  ],
)
def test_wrong_arguments_are_refused_as_lax_refuses_them(kernel, options):
  options = {"window_strides": (1, 1), "padding": "SAME"} | options
  kinds = []
  for conv in (jax.lax.conv_general_dilated, convolution.conv_general_dilated):
    with pytest.raises(Exception) as error:  # noqa: B017  whatever lax raises
      conv(X, kernel, **options, dimension_numbers=DIMENSIONS)
    assert "model.ops" not in str(error.value)
    kinds.append((error.type, str(error.value).partition("at loc")[0]))
  assert kinds[0] == kinds[1]
