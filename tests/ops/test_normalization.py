"""BatchNorm with ReLU against NumPy, finite differences and Flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_flax.ops import compiler
from cifar_flax.ops.normalization import batch_norm_relu

EPSILON = 1e-3


@pytest.fixture(params=["cpu", "gpu"], autouse=True)
def platform(request):
  """Each form is tested on the CPU."""
  with compiler.compiling_for(request.param):
    yield


def by_hand(x, scale, bias):
  """In float64: the output, mean and variance over all axes but the last."""
  axes = tuple(range(x.ndim - 1))
  mean, variance = x.mean(axes), x.var(axes)
  y = (x - mean) / np.sqrt(variance + EPSILON) * scale + bias
  return np.maximum(y, 0), mean, variance


def arrays(shape, dtype=np.float64):
  random = np.random.default_rng(0)
  x = 0.5 + 2 * random.standard_normal(shape)
  scale, bias = random.standard_normal((2, shape[-1]))
  operands = x, scale, bias, random.standard_normal(shape)
  return tuple(a.astype(dtype) for a in operands)


def gradients(x, scale, bias, gradient, axis_name=None):
  def y(*operands):
    return batch_norm_relu(*operands, EPSILON, axis_name)[0]

  return jax.vjp(y, x, scale, bias)[1](gradient)


@pytest.mark.parametrize("shape", [(6, 3), (5, 4, 2), (4, 3, 2, 3)])
def test_values_and_finite_differences(shape):
  *operands, gradient = arrays(shape)
  with jax.enable_x64(True):
    for ours, wanted in zip(
      batch_norm_relu(*operands, EPSILON, None), by_hand(*operands), strict=True
    ):
      np.testing.assert_allclose(ours, wanted, rtol=1e-9, atol=1e-12)
    results = gradients(*operands, gradient)
  for number, ours in enumerate(results):
    wanted = np.zeros(operands[number].shape)
    for index in np.ndindex(wanted.shape):
      sides = []
      for delta in (1e-6, -1e-6):
        moved = [a.copy() for a in operands]
        moved[number][index] += delta
        sides.append((by_hand(*moved)[0] * gradient).sum())
      wanted[index] = (sides[0] - sides[1]) / 2e-6
    np.testing.assert_allclose(ours, wanted, rtol=1e-6, atol=1e-7)


# The last three have images of which many, two and one are added up at a time.
@pytest.mark.parametrize(
  "shape",
  [(1, 7, 5, 3), (7, 9, 9, 10), (96, 7, 7, 32), (6, 30, 30, 32), (3, 40, 40, 64)],
)
@pytest.mark.parametrize(
  ("dtype", "tolerance"), [(jnp.float32, 2e-5), (jnp.bfloat16, 2e-2)]
)
def test_equals_flax(shape, dtype, tolerance):
  x, scale, bias, gradient = arrays(shape, np.float32)
  x, gradient = jnp.asarray(x, dtype), jnp.asarray(gradient, dtype)
  norm = nn.BatchNorm(use_running_average=False, epsilon=EPSILON, momentum=0.0)
  stats = {"mean": jnp.zeros(shape[-1]), "var": jnp.ones(shape[-1])}

  def flax(x, scale, bias):
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
    y, updated = norm.apply(variables, x.astype("float32"), mutable=["batch_stats"])
    return nn.relu(y), updated["batch_stats"]

  y, pull, moved = jax.vjp(flax, x, scale, bias, has_aux=True)
  wanted = [y, moved["mean"], moved["var"], *pull(gradient.astype("float32"))]
  found = [*batch_norm_relu(x, scale, bias, EPSILON, None)]
  found += gradients(x, scale, bias, gradient)
  assert found[0].dtype == found[3].dtype == dtype
  for ours, theirs in zip(found, wanted, strict=True):
    ours, theirs = np.float64(ours), np.float64(theirs)
    # An element at the edge of the ReLU may fall to either side of it.
    far = np.abs(ours - theirs) > tolerance * np.abs(theirs).max()
    assert far.mean() <= (1e-4 if dtype == jnp.float32 else 1e-2)


@pytest.mark.parametrize("transform", ["scan", "vmap"])
def test_survives_transformations(transform):
  operands = [np.stack([a, a[..., ::-1] + 1]) for a in arrays((4, 5, 5, 3), np.float32)]
  if transform == "scan":
    step = jax.jit(lambda a: jax.lax.scan(lambda c, a: (c, gradients(*a)), 0, a)[1])
    results = step(tuple(operands))
  else:
    results = jax.vmap(gradients)(*operands)
  for i in range(2):
    for ours, alone in zip(results, gradients(*(a[i] for a in operands)), strict=True):
      np.testing.assert_allclose(ours[i], alone, rtol=1e-4, atol=1e-4)


def test_devices_share_the_statistics_and_the_gradient():
  x, scale, bias, gradient = arrays((8, 5, 5, 3))
  with jax.enable_x64(True):
    whole = gradients(x, scale, bias, gradient)
    split = [a.reshape(4, 2, 5, 5, 3) for a in (x, gradient)]
    dx, *parameters = jax.pmap(
      lambda x, gradient: gradients(x, scale, bias, gradient, "devices"),
      axis_name="devices",
    )(*split)
    sums = [a.sum(0) for a in parameters]
    dx = dx.reshape(x.shape)
  np.testing.assert_allclose(dx, whole[0], rtol=1e-9, atol=1e-12)
  for ours, wanted in zip(sums, whole[1:], strict=True):
    np.testing.assert_allclose(ours, wanted, rtol=1e-9, atol=1e-12)
