"""Dropout: its rate, what its mask depends on, and its gradient."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_flax import ops

SHAPE = (8, 30, 30, 16)


def noise(count=8, seed=0):
  return ops.hash_uint32(seed, jnp.arange(count, dtype=jnp.uint32))


def mask(shape=SHAPE, rate=0.5, layer=0, seed=0):
  return (
    np.asarray(ops.dropout(jnp.ones(shape), rate, noise(shape[0], seed), layer)) > 0
  )


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.25, 0.5, 0.9])
def test_keeps_the_right_share_and_the_mean(rate):
  x = 1 + jnp.arange(np.prod(SHAPE), dtype=jnp.float32).reshape(SHAPE) % 7
  y = np.asarray(ops.dropout(x, rate, noise(), 3))
  kept = y != 0
  sigma = np.sqrt(rate * (1 - rate) / kept.size)
  assert abs(kept.mean() - (1 - rate)) < 4.5 * sigma
  np.testing.assert_allclose(y[kept], np.asarray(x)[kept] / (1 - rate), rtol=1e-6)
  for axes in ((1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)):  # no row is special
    shares = kept.mean(axes)
    spread = np.sqrt(rate * (1 - rate) * shares.size / kept.size)
    assert np.abs(shares - (1 - rate)).max() < 5 * spread


def test_rate_zero_is_the_identity():
  x = jnp.ones((2, 3))
  assert ops.dropout(x, 0.0, noise(2), 0) is x


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_refuses_other_rates(rate):
  with pytest.raises(ValueError, match="0 disables dropout"):
    ops.dropout(jnp.ones((2, 3)), rate, noise(2), 0)


@pytest.mark.parametrize(
  "rate", [1e-320, 2.0**-33, 2.0**-32, 1 - 2.0**-24, 1 - 2.0**-32, 1 - 2.0**-53]
)
def test_rates_at_both_ends_neither_overflow_nor_divide_by_zero(rate):
  y = np.asarray(ops.dropout(jnp.ones((4, 64)), rate, noise(4), 0))
  assert np.isfinite(y).all()
  assert (y == 1).all() if rate < 0.5 else (y == 0).all()


def test_mask_depends_on_the_example_not_on_its_place_in_the_batch():
  x = jnp.ones(SHAPE)
  whole = ops.dropout(x, 0.3, noise(), 2)
  part = ops.dropout(x[2:5][::-1], 0.3, noise()[2:5][::-1], 2)
  np.testing.assert_array_equal(whole[2:5][::-1], part)
  np.testing.assert_array_equal(
    whole, jax.jit(ops.dropout, static_argnums=(1, 3))(x, 0.3, noise(), 2)
  )


def test_masks_of_examples_layers_seeds_and_neighbours_are_independent():
  """Two independent halves agree in half of their places, within 5 sigma."""
  base = mask()
  others = {
    "layer": mask(layer=1),
    "seed": mask(seed=1),
    "example": np.roll(base, 1, 0),
    "row": np.roll(base, 1, 1),
    "column": np.roll(base, 1, 2),
    "channel": np.roll(base, 1, 3),
  }
  for name, other in others.items():
    agree = np.mean(base == other)
    assert abs(agree - 0.5) < 5 * 0.5 / np.sqrt(base.size), name


def test_consecutive_noise_and_layers_make_distinct_masks():
  """noise 0, 1, 2, ... unhashed, as a careless caller would pass it."""
  raw = jnp.arange(64, dtype=jnp.uint32)
  masks = np.concatenate(
    [ops.dropout(jnp.ones((64, 256)), 0.5, raw, layer) > 0 for layer in range(4)]
  )
  signs = 2.0 * masks - 1
  correlation = signs @ signs.T / 256 - np.eye(256)
  assert np.abs(correlation).max() < 6 / np.sqrt(256)
  assert abs(correlation.std() * np.sqrt(256) - 1) < 0.05


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
def test_gradient_has_the_same_mask_and_dtype(dtype):
  with jax.enable_x64(True):
    x = jnp.ones((4, 5, 6, 7), dtype)
    y, pull = jax.vjp(lambda x: ops.dropout(x, 0.25, noise(4), 1), x)
    (dx,) = pull(x)
  assert y.dtype == dx.dtype == dtype
  np.testing.assert_array_equal(np.asarray(dx, np.float64), np.asarray(y, np.float64))
  share = np.mean(np.asarray(y, np.float64) > 0)
  assert 0.6 < share < 0.9


def test_works_inside_scan_vmap_pmap_and_grad():
  x = jnp.ones((3, 4, 5, 6))
  noises = jnp.stack([noise(4, seed) for seed in range(3)])

  def gradient(x, noise):
    return jax.grad(lambda x: (ops.dropout(x, 0.5, noise, 0) ** 2).sum())(x)

  expected = np.stack([gradient(x[i], noises[i]) for i in range(3)])
  _, scanned = jax.lax.scan(lambda c, a: (c, gradient(*a)), 0, (x, noises))
  np.testing.assert_array_equal(scanned, expected)
  np.testing.assert_array_equal(jax.vmap(gradient)(x, noises), expected)
  np.testing.assert_array_equal(jax.pmap(gradient)(x, noises), expected)


def test_a_padded_convolution_behind_it_compiles_in_seconds():
  program = """
import jax, jax.numpy as jnp, numpy as np
from cifar_flax import ops
conv = ops.select("fast").conv_general_dilated
def loss(kernel, x, step, index):
  noise = ops.hash_uint32(0, step, index)
  for layer in range(2):
    x = ops.dropout(x, 0.5, noise, layer)
    x = conv(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
  return jnp.sum(x * x)
shapes = (jnp.zeros((3, 3, 8, 8)), jnp.zeros((2, 8, 8, 8)), np.uint32(1))
jax.jit(jax.grad(loss)).lower(*shapes, np.arange(2, dtype=np.uint32)).compile()
"""
  subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
