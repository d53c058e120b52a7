"""Max pooling and its gradient against a loop in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_flax import ops


def pool_by_loop(x, gradient, window):
  batch, height, width, channels = x.shape
  y = np.zeros((batch, height // window, width // window, channels), x.dtype)
  dx = np.zeros_like(x)
  for b, i, j, c in np.ndindex(*y.shape):
    rows = slice(i * window, (i + 1) * window)
    columns = slice(j * window, (j + 1) * window)
    patch = x[b, rows, columns, c]
    row, column = np.unravel_index(patch.argmax(), patch.shape)  # the first, in ties
    y[b, i, j, c] = patch[row, column]
    dx[b, i * window + row, j * window + column, c] = gradient[b, i, j, c]
  return y, dx


@pytest.mark.parametrize("name", ["fast", "lax"])
@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("size", [(6, 6), (7, 9), (9, 8)])
def test_value_and_gradient(name, window, size):
  random = np.random.default_rng(0)
  x = random.standard_normal((3, *size, 5)).astype(np.float32)
  x[0] = np.round(x[0])  # ties, of two and of more
  gradient = random.standard_normal((3, size[0] // window, size[1] // window, 5))
  gradient = gradient.astype(np.float32)
  y, dx = pool_by_loop(x, gradient, window)
  pool = ops.select(name).max_pool
  ours, pull = jax.vjp(lambda x: pool(x, window), jnp.asarray(x))
  np.testing.assert_array_equal(ours, y)
  np.testing.assert_array_equal(pull(jnp.asarray(gradient))[0], dx)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_keeps_the_dtype(dtype):
  with jax.enable_x64(True):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 4, 3)), dtype)
    y, pull = jax.vjp(ops.select("fast").max_pool, x)
    assert y.dtype == pull(y)[0].dtype == dtype
    np.testing.assert_array_equal(pull(y)[0].sum(), y.sum())


@pytest.mark.parametrize("transform", ["scan", "vmap", "pmap"])
def test_survives_transformations(transform):
  random = np.random.default_rng(0)
  x = jnp.asarray(random.standard_normal((2, 3, 7, 6, 5)), jnp.float32)
  gradient = jnp.asarray(random.standard_normal((2, 3, 3, 3, 5)), jnp.float32)

  def both(x, gradient):
    y, pull = jax.vjp(ops.select("fast").max_pool, x)
    return y, pull(gradient)[0]

  if transform == "scan":
    step = jax.jit(lambda a: jax.lax.scan(lambda c, a: (c, both(*a)), 0, a)[1])
    results = step((x, gradient))
  else:
    results = getattr(jax, transform)(both)(x, gradient)
  for i in range(2):
    expected = pool_by_loop(np.asarray(x[i]), np.asarray(gradient[i]), 2)
    for ours, theirs in zip(results, expected, strict=True):
      np.testing.assert_array_equal(ours[i], theirs)


def test_select_names_what_it_knows():
  with pytest.raises(ValueError, match="operations 'fastest': choose 'fast' or 'lax'"):
    ops.select("fastest")
