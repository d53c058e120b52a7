"""Costs and receptive fields of layers that nothing knows by name."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from cifar_flax.tools import costs, dependence

SIZE, IN, OUT = 12, 6, 8
PIXELS = SIZE * SIZE


class LowRank(nn.Module):
  """A 3x3 kernel made of two factors, k = a b, with a bias."""

  rank: int = 2

  @nn.compact
  def __call__(self, x):
    init = nn.initializers.normal(1.0)
    a = self.param("a", init, (9 * IN, self.rank))
    b = self.param("b", init, (self.rank, OUT))
    bias = self.param("bias", init, (OUT,))
    kernel = (a @ b).reshape(3, 3, IN, OUT)
    return bias.reshape(1, 1, 1, OUT) + jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class Involution(nn.Module):
  """A 3x3 kernel for each pixel, made of it: Li et al. 2021."""

  groups: int = 2

  @nn.compact
  def __call__(self, x):
    batch, height, width, channels = x.shape
    kernel = nn.Dense(9 * self.groups, name="kernel")(x)
    kernel = kernel.reshape(batch, height, width, 9, self.groups, 1)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = [(i, j) for i in range(3) for j in range(3)]
    taps = [padded[:, i : i + height, j : j + width] for i, j in corners]
    taps = jnp.stack(taps, axis=3)
    taps = taps.reshape(batch, height, width, 9, self.groups, -1)
    return jnp.sum(kernel * taps, axis=3).reshape(batch, height, width, channels)


class Shifts(nn.Module):
  """A depthwise 3x3 convolution as a sum of nine shifted products."""

  @nn.compact
  def __call__(self, x):
    kernel = self.param("kernel", nn.initializers.normal(1.0), (3, 3, IN))
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = jnp.zeros_like(x)
    for i in range(3):
      for j in range(3):
        y = y + padded[:, i : i + SIZE, j : j + SIZE] * kernel[i, j].reshape(
          1, 1, 1, IN
        )
    return y


class SqueezeExcite(nn.Module):
  """A gate for each channel around a plain convolution: Hu et al. 2018."""

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(OUT, (3, 3), use_bias=False, name="conv")(x)
    gate = nn.relu(nn.Dense(4, use_bias=False, name="down")(x.mean((1, 2))))
    gate = nn.sigmoid(nn.Dense(OUT, use_bias=False, name="up")(gate))
    return x * gate[:, None, None, :]


class Twice(nn.Module):
  """One kernel, used twice."""

  @nn.compact
  def __call__(self, x):
    conv = nn.Conv(IN, (3, 3), use_bias=False, name="conv")
    return conv(nn.relu(conv(x)))


class Residual(nn.Module):
  """Two 3x3 convolutions beside a skip, each with BatchNorm."""

  @nn.compact
  def __call__(self, x):
    y = nn.Conv(IN, (3, 3), use_bias=False, name="conv1")(x)
    y = nn.relu(nn.BatchNorm(use_running_average=True, name="norm1")(y))
    y = nn.Conv(IN, (3, 3), use_bias=False, name="conv2")(y)
    y = nn.BatchNorm(use_running_average=True, name="norm2")(y)
    return nn.relu(x + y)


class Scanned(nn.Module):
  """The same 1x1 kernel, four times in a scan."""

  @nn.compact
  def __call__(self, x):
    kernel = self.param("kernel", nn.initializers.normal(1.0), (IN, IN))
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ kernel), None), x, None, length=4)[0]


class Accumulated(nn.Module):
  """A depthwise filter of three rows, whose taps a scan adds up one by one."""

  @nn.compact
  def __call__(self, x):
    kernel = self.param("kernel", nn.initializers.normal(1.0), (3, 1, 1, 1, IN))
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    rows = jnp.stack([padded[:, i : i + SIZE] for i in range(3)])

    def add(total, tap):
      row, weight = tap
      return total + row * weight, None

    return jax.lax.scan(add, jnp.zeros_like(x), (rows, kernel))[0]


class Vmapped(nn.Module):
  """A product for each image, by vmap."""

  @nn.compact
  def __call__(self, x):
    kernel = self.param("kernel", nn.initializers.normal(1.0), (IN, OUT))
    return jax.vmap(lambda image: image @ kernel)(x)


# Multiply-adds of one image, by the module's name, each counted by hand.
BY_HAND = {
  LowRank: {
    # The kernel itself, (9 * 6 x 2) times (2 x 8), and 3*3*6 for each result.
    None: 9 * IN * 2 * OUT + 9 * IN * OUT * PIXELS,
  },
  Involution: {
    "kernel": IN * 9 * 2 * PIXELS,  # a 1x1 convolution to 9 taps of 2 groups
    None: 9 * IN * PIXELS,  # nine products for each channel
  },
  Shifts: {None: 9 * IN * PIXELS},
  SqueezeExcite: {
    "conv": 9 * IN * OUT * PIXELS,
    "down": OUT * 4,
    "up": 4 * OUT,
  },
  Twice: {"conv": 2 * 9 * IN * IN * PIXELS},
  Residual: {"conv1": 9 * IN * IN * PIXELS, "conv2": 9 * IN * IN * PIXELS},
  Scanned: {None: 4 * IN * IN * PIXELS},
  Accumulated: {None: 3 * IN * PIXELS},
  Vmapped: {None: IN * OUT * PIXELS},
}
# Side of what an output sees: of 3x3 windows one behind the other; all of it for gates.
FIELDS = {
  LowRank: 3,
  Involution: 3,
  Shifts: 3,
  Twice: 5,
  Residual: 5,
  Vmapped: 1,
}


def image(seed=0):
  return np.random.default_rng(seed).normal(size=(1, SIZE, SIZE, IN)).astype(np.float32)


def traced(module):
  """The module's program, its modules, and its variables."""
  variables = module.init(jax.random.key(0), image())
  names = set()

  def record(call, args, kwargs, context):
    names.update(context.module.path)
    return call(*args, **kwargs)

  def apply(variables, x):
    with nn.intercept_methods(record):
      return checkpoint_name(module.apply(variables, x), "end")

  return jax.make_jaxpr(apply)(variables, image()).jaxpr, names, variables


def seen_at_the_end(module):
  program, _, variables = traced(module)
  found = []
  inputs = [None] * len(jax.tree.leaves(variables)) + [dependence.IMAGE]
  dependence.follow(program, inputs, lambda name, seen: found.append(seen) or seen)
  (seen,) = found
  return seen


@pytest.mark.parametrize("kind", BY_HAND)
def test_multiply_adds_are_those_counted_by_hand(kind):
  program, names, _ = traced(kind())
  found = costs.count(program, names)
  counted = {name: c.multiply_adds for name, c in found.items() if c.multiply_adds}
  assert counted == BY_HAND[kind]
  assert not any(cost.unknown for cost in found.values())


def test_gates_and_normalisation_are_elementwise():
  program, names, _ = traced(SqueezeExcite())
  assert costs.count(program, names)[None].elementwise >= OUT * PIXELS
  program, names, _ = traced(Residual())
  found = costs.count(program, names)
  assert found["norm1"].elementwise > 0 and not found["norm1"].multiply_adds


def test_what_hides_its_arithmetic_is_named():
  class Transformed(nn.Module):
    @nn.compact
    def __call__(self, x):
      return jnp.abs(jnp.fft.fft(x, axis=1))

  program, names, _ = traced(Transformed())
  assert costs.count(program, names)[None].unknown == {"fft"}


def test_a_branch_counts_its_most_expensive_side_and_says_so():
  class Either(nn.Module):
    @nn.compact
    def __call__(self, x):
      kernel = self.param("kernel", nn.initializers.normal(1.0), (IN, IN))
      return jax.lax.cond(x.sum() > 0, lambda x: x @ kernel, lambda x: x, x)

  program, names, _ = traced(Either())
  cost = costs.count(program, names)[None]
  assert cost.multiply_adds == IN * IN * PIXELS and cost.unknown == {"cond"}


def sides_by_gradient(module):
  """Rows and columns of the image that the middle output really depends on."""
  variables = module.init(jax.random.key(1), image())
  middle = SIZE // 2

  def output(x):
    return (module.apply(variables, x)[0, middle, middle] ** 2).sum()

  found = sum(np.abs(jax.grad(output)(image(seed))) for seed in range(3))[0].sum(-1)
  rows, columns = (np.flatnonzero(found.any(axis)) for axis in (1, 0))
  return np.ptp(rows) + 1, np.ptp(columns) + 1, rows.min() - middle


@pytest.mark.parametrize("kind", FIELDS)
def test_receptive_fields_are_those_of_gradients(kind):
  seen = seen_at_the_end(kind())
  assert (seen.rows.size, seen.columns.size) == (FIELDS[kind],) * 2
  assert (seen.rows.size, seen.columns.size, seen.rows.low) == sides_by_gradient(kind())
  assert seen.exact and seen.rows.jump == 1 and seen.rows.axis == 1


def test_a_gate_sees_the_whole_image():
  seen = seen_at_the_end(SqueezeExcite())
  rows, columns, _ = sides_by_gradient(SqueezeExcite())
  assert (rows, columns) == (SIZE, SIZE)
  assert seen.rows.size >= SIZE and seen.columns.size >= SIZE


def test_what_is_not_understood_sees_everything_and_says_so():
  class Rolled(nn.Module):
    @nn.compact
    def __call__(self, x):
      return jnp.take(x, jnp.arange(SIZE)[::-1], axis=1)

  seen = seen_at_the_end(Rolled())
  assert not seen.exact and seen.rows.size == SIZE
