"""Convolutions and both gradients against `lax.conv_general_dilated`."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cifar_flax.ops import select
from cifar_flax.ops.convolution import conv_general_dilated

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class Case(NamedTuple):
  height: int
  width: int
  kernel: tuple[int, int]
  strides: tuple[int, int]
  dilation: tuple[int, int]
  padding: str | tuple
  groups: int
  inputs: int  # per group
  outputs: int  # per group
  batch: int = 4

  def arguments(self):
    return {
      "window_strides": self.strides,
      "padding": self.padding,
      "rhs_dilation": self.dilation,
      "feature_group_count": self.groups,
      "dimension_numbers": DIMENSIONS,
    }

  def arrays(self, dtype, seed=0):
    random = np.random.default_rng(seed)
    x_shape = (self.batch, self.height, self.width, self.inputs * self.groups)
    kernel_shape = (*self.kernel, self.inputs, self.outputs * self.groups)
    x = jnp.asarray(random.standard_normal(x_shape), dtype)
    kernel = jnp.asarray(random.standard_normal(kernel_shape), dtype)
    shape = jax.eval_shape(
      lambda *a: lax.conv_general_dilated(*a, **self.arguments()), x, kernel
    ).shape
    return x, kernel, jnp.asarray(random.standard_normal(shape), dtype)

  def exists(self):
    return all(
      size >= (kernel - 1) * step + 1 or self.padding == "SAME"
      for size, kernel, step in zip(
        (self.height, self.width), self.kernel, self.dilation, strict=True
      )
    )


# Each names the form it must take, so that the sample always visits all of them.
CHOSEN = [
  Case(9, 8, (1, 1), (1, 1), (1, 1), "VALID", 1, 5, 4),
  Case(9, 8, (1, 1), (2, 2), (1, 1), "SAME", 1, 5, 4),
  Case(7, 7, (7, 7), (1, 1), (1, 1), "VALID", 1, 3, 4),
  Case(9, 8, (3, 3), (1, 1), (1, 1), "VALID", 6, 1, 1),
  Case(9, 8, (5, 3), (2, 1), (1, 2), "SAME", 4, 1, 3),
  Case(8, 9, (3, 3), (1, 1), (1, 1), "SAME", 1, 3, 5),
  Case(8, 9, (3, 3), (1, 1), (2, 2), "SAME", 1, 3, 5),
  Case(9, 10, (3, 1), (1, 1), (1, 1), "VALID", 1, 3, 5),
  Case(9, 10, (2, 4), (2, 2), (1, 1), ((0, 3), (4, 1)), 1, 3, 5),
  Case(8, 8, (3, 3), (1, 1), (1, 1), "SAME", 2, 3, 2),
  Case(7, 8, (3, 2), (2, 1), (2, 3), ((2, 2), (3, 0)), 3, 2, 4),
  Case(8, 7, (3, 3), (1, 1), (1, 1), "VALID", 1, 3, 5, batch=40),
  Case(7, 8, (3, 3), (1, 1), (1, 1), "SAME", 1, 48, 48),
  Case(10, 9, (3, 2), (1, 2), (1, 3), ((0, 3), (4, 1)), 1, 30, 80),
]


def grid():
  """Every combination once, with sizes, channels and the other axis drawn by seed."""
  random = np.random.default_rng(6)
  for kernel, stride, dilation, padding, groups in itertools.product(
    range(1, 8), (1, 2), (1, 2, 3), ("SAME", "VALID", "explicit"), (1, 2, 5)
  ):
    if padding == "explicit":
      padding = tuple(
        tuple(int(v) for v in row) for row in random.integers(0, 5, (2, 2))
      )
    case = Case(
      *(int(v) for v in random.integers(7, 15, 2)),
      (kernel, int(random.choice([kernel, 1, 3]))),
      (stride, int(random.choice([stride, 1]))),
      (dilation, int(random.choice([dilation, 1]))),
      padding,
      groups,
      int(random.choice([1, 3])),
      int(random.choice([1, 2, 4])),
      int(random.choice([1, 4, 20, 32])),
    )
    if case.exists():
      yield case


# Enough channels for fewer multiplications, down to a single row of the result.
WIDE = [
  Case(height, 7, (3, width), (1, stride), (1, 2 // stride), padding, 1, 50, 49)
  for height, (width, stride), padding in itertools.product(
    (3, 4, 6, 9), ((1, 1), (3, 1), (3, 2)), ("SAME", "VALID", ((2, 0), (1, 3)))
  )
]
GRID = list(grid())
SAMPLE = CHOSEN + [GRID[i] for i in np.random.default_rng(1).permutation(len(GRID))[:9]]


def value_and_gradients(convolution, arguments):
  def run(x, kernel, gradient):
    y, pull = jax.vjp(lambda x, kernel: convolution(x, kernel, **arguments), x, kernel)
    return y, *pull(gradient)

  return run


def assert_agree(case, dtype, tolerance):
  arrays = case.arrays(dtype)
  exact = [np.asarray(array, np.float64) for array in arrays]
  run = value_and_gradients(conv_general_dilated, case.arguments())
  ours = jax.jit(run, compiler_options=dict(select("fast").compiler_options))(*arrays)
  with jax.enable_x64(True):
    wide = [jnp.asarray(array) for array in exact]
    theirs = jax.jit(value_and_gradients(lax.conv_general_dilated, case.arguments()))(
      *wide
    )
  for name, a, b in zip(("value", "input", "filter"), ours, theirs, strict=True):
    assert a.dtype == dtype and a.shape == b.shape, name
    a, b = np.asarray(a, np.float64), np.asarray(b)
    error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)
    assert error <= tolerance, (name, error)


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_agrees_with_lax(case):
  assert_agree(case, jnp.float32, 1e-5 if case.inputs >= 30 else 2e-6)


@pytest.mark.full
@pytest.mark.parametrize("case", GRID, ids=str)
def test_agrees_with_lax_over_the_grid(case):
  assert_agree(case, jnp.float32, 2e-6)


@pytest.mark.full
@pytest.mark.parametrize("case", WIDE, ids=str)
def test_fewer_multiplications_agree_with_lax(case):
  assert_agree(case, jnp.float32, 1e-5)


@pytest.mark.parametrize("case", [*CHOSEN[::3], CHOSEN[-1]], ids=str)
def test_float64_stays_float64(case):
  with jax.enable_x64(True):
    assert_agree(case, jnp.float64, 1e-13)


# Sums are kept in float32 and rounded once: half a unit in the eighth bit is 0.4 %.
@pytest.mark.parametrize("case", CHOSEN[::2], ids=str)
def test_bfloat16_rounds_once(case):
  assert_agree(case, jnp.bfloat16, 0.008)


@pytest.mark.parametrize("groups", [1, 3])
def test_bfloat16_filter_gradients_are_added_in_float32(groups):
  """Sums over 1,000 images of one sign: in bfloat16 they stop growing at 256."""
  random = np.random.default_rng(0)
  case = Case(4, 5, (3, 3), (1, 1), (1, 1), "SAME", groups, 3 // groups, 3 // groups)
  x = jnp.asarray(random.uniform(0.5, 1, (1000, 4, 5, 3)), jnp.bfloat16)
  kernel = jnp.asarray(random.uniform(0.5, 1, (3, 3, 3 // groups, 3)), jnp.bfloat16)
  gradient = jnp.asarray(random.uniform(0.5, 1, (1000, 4, 5, 3)), jnp.bfloat16)
  run = value_and_gradients(conv_general_dilated, case.arguments())
  options = dict(select("fast").compiler_options)
  ours = jax.jit(run, compiler_options=options)(x, kernel, gradient)[2]
  middle = np.einsum(
    "bhwi,bhwo->io", *(np.asarray(a, np.float64) for a in (x, gradient))
  )
  expected = middle if groups == 1 else np.diag(middle)[None]
  np.testing.assert_allclose(np.asarray(ours, np.float64)[1, 1], expected, rtol=0.004)


@pytest.mark.parametrize("case", [*CHOSEN[:10:3], CHOSEN[-1]], ids=str)
@pytest.mark.parametrize("transform", ["scan", "vmap", "pmap"])
def test_survives_transformations(case, transform):
  run = value_and_gradients(conv_general_dilated, case.arguments())
  first, second = case.arrays(jnp.float32, 1), case.arrays(jnp.float32, 2)
  stacked = [jnp.stack(pair) for pair in zip(first, second, strict=True)]
  if transform == "scan":
    scanned = jax.jit(lambda a: lax.scan(lambda c, a: (c, run(*a)), 0, a)[1])
    results = scanned(stacked)
  else:
    results = getattr(jax, transform)(run)(*stacked)
  reference = jax.jit(value_and_gradients(lax.conv_general_dilated, case.arguments()))
  for index, arrays in enumerate((first, second)):
    for ours, theirs in zip(results, reference(*arrays), strict=True):
      np.testing.assert_allclose(ours[index], theirs, rtol=1e-4, atol=1e-4)


def convolutions(jaxpr):
  """All in `jaxpr` and in the loops and calls inside it."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "conv_general_dilated":
      yield equation
    for parameter in equation.params.values():
      inner = getattr(parameter, "jaxpr", parameter)
      if hasattr(inner, "eqns"):
        yield from convolutions(inner)


def test_takes_no_convolution_gradient_from_jax():
  """Inside a loop XLA:CPU computes JAX's own gradients by naive code."""
  for case in CHOSEN:
    run = value_and_gradients(conv_general_dilated, case.arguments())
    jaxpr = jax.make_jaxpr(run)(*case.arrays(jnp.float32)).jaxpr
    for equation in convolutions(jaxpr):
      numbers = equation.params["dimension_numbers"]
      assert numbers.lhs_spec == numbers.out_spec == (0, 3, 1, 2), case
      assert numbers.rhs_spec == (3, 2, 0, 1), case
      assert set(equation.params["lhs_dilation"]) == {1}, case
      assert equation.params["batch_group_count"] == 1, case


UNCOVERED = {
  "zeros between pixels": (
    (4, 8, 9, 2),
    (4, 3, 2, 6),
    {"lhs_dilation": (2, 1), "padding": ((0, 1), (0, 0))},
  ),
  "cropped": ((4, 8, 9, 2), (4, 3, 2, 6), {"padding": ((-1, 0), (0, 2))}),
  "wider sums": ((4, 8, 9, 2), (4, 3, 2, 6), {"preferred_element_type": jnp.float64}),
  "channels first": ((4, 2, 8, 9), (6, 2, 4, 3), {"dimension_numbers": None}),
  "groups of examples": ((4, 8, 9, 2), (4, 3, 2, 6), {"batch_group_count": 2}),
  "one dimension": (
    (4, 9, 2),
    (3, 2, 6),
    {"window_strides": (1,), "dimension_numbers": ("NWC", "WIO", "NWC")},
  ),
}


@pytest.mark.parametrize("name", UNCOVERED)
def test_what_it_does_not_cover_is_lax(name):
  x_shape, kernel_shape, changed = UNCOVERED[name]
  arguments = {"window_strides": (1, 1), "padding": "VALID"}
  arguments |= {"dimension_numbers": DIMENSIONS} | changed
  random = np.random.default_rng(0)
  with jax.enable_x64(True):
    x = jnp.asarray(random.standard_normal(x_shape), jnp.float32)
    kernel = jnp.asarray(random.standard_normal(kernel_shape), jnp.float32)
    ours = conv_general_dilated(x, kernel, **arguments)
    theirs = lax.conv_general_dilated(x, kernel, **arguments)
  assert ours.dtype == theirs.dtype
  np.testing.assert_array_equal(ours, theirs)


def test_shapes_that_do_not_fit_raise_what_lax_raises():
  x, kernel = jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 4, 8))
  with pytest.raises(ValueError, match="feature dimension"):
    conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS)


def test_an_empty_result_has_the_shape_lax_gives_it():
  x, kernel = jnp.ones((1, 2, 5, 3)), jnp.ones((3, 3, 3, 8))
  y = conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=DIMENSIONS)
  assert y.shape == (1, 0, 3, 8)
