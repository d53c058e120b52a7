"""Each type of convolution against NumPy, SciPy and, where installed, PyTorch."""

import doctest
import functools
import itertools
import random
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.signal

from cifar_flax import config as config_lib
from cifar_flax import convolutions, main, models, ops, registry, steps
from cifar_flax.convolutions import (
  Convolution,
  DepthwiseSeparable,
  DilatedBranches,
  FilterGroups,
  Grouped,
  Plain,
  SpatiallySeparable,
)

SIZES = [(7, 7), (8, 8), (9, 14), (20, 19)]
STRIDES = [(1, 1), (2, 2)]
KERNELS = [1, 2, 3, 4, 5, 6, 7]
DILATIONS = [1, 2, 3]
SINGLE = ["plain", "spatially_separable", "depthwise_separable", "grouped"]
EQUATIONS = [*SINGLE, "filter_groups", "dilated_branches"]  # types in `expected`
BRANCHES = [(1, 2), (3, 5), (4, 7), (1, 3, 6)]
RATES = [(1,), (2,), (1, 2), (1, 2, 3)]
IN_CHANNELS, FEATURES = 6, 12

# (type, options, size, strides, padding); the dilation of a type without an option for
# it is bound in `conv`, as a caller would.
GRID = [
  (kind, {"kernel": kernel, "dilation": dilation}, size, strides, padding)
  for kind, kernel, dilation, size, strides, padding in itertools.product(
    SINGLE, KERNELS, DILATIONS, SIZES, STRIDES, ["SAME", "VALID"]
  )
  if padding == "SAME" or (kernel - 1) * dilation < min(size)
]
GRID += [
  ("filter_groups", {"kernels": kernels, "dilation": dilation}, *case, "SAME")
  for kernels, dilation, *case in itertools.product(BRANCHES, DILATIONS, SIZES, STRIDES)
]
GRID += [
  ("dilated_branches", {"kernel": kernel, "dilations": rates}, *case, "SAME")
  for kernel, rates, *case in itertools.product(KERNELS, RATES, SIZES, STRIDES)
]


def sample_of_the_grid(number):
  """`number` cases of each type, the same ones every time."""
  chosen = []
  for kind in EQUATIONS:
    cases = [case for case in GRID if case[0] == kind]
    chosen += random.Random(f"{kind} 1").sample(cases, number)
  return chosen


SAMPLE = sample_of_the_grid(6)


def make_layer(case, operations="lax", use_bias=True):
  kind, options, _, strides, padding = case
  dilation = options.get("dilation", 1)
  conv = functools.partial(
    nn.Conv,
    use_bias=use_bias,
    kernel_dilation=(dilation, dilation),
    conv_general_dilated=ops.select(operations).conv_general_dilated,
  )
  square = (options.get("kernel"),) * 2
  special = {
    "plain": {"kernel_size": square},
    "spatially_separable": {"kernel_size": options.get("kernel")},
    "depthwise_separable": {"kernel_size": square},
    "grouped": {"kernel_size": square, "groups": 3},
    "filter_groups": {"kernel_sizes": options.get("kernels")},
    "dilated_branches": {"kernel_size": square, "dilations": options.get("dilations")},
  }[kind]
  make = registry.lookup(registry.CONVOLUTIONS[kind])
  return make(features=FEATURES, strides=strides, padding=padding, conv=conv, **special)


def random_like(shapes, seed):
  """Unequal random weights: a flipped, transposed or shuffled kernel shows."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


def random_inputs(case, layer, batch=2):
  x = np.random.default_rng(0).normal(size=(batch, *case[2], IN_CHANNELS))
  shapes = jax.eval_shape(layer.init, jax.random.key(0), x.astype(np.float32))
  return x.astype(np.float32), random_like(shapes["params"], seed=1)


def expected(case, x, params, convolve):
  """The type's equation, from its docstring, on top of `convolve`."""
  kind, options, _, strides, padding = case
  dilation = (options.get("dilation", 1),) * 2

  def conv(x, name, strides=strides, dilation=dilation, groups=1):
    p = params[name]
    y = convolve(x, p["kernel"], strides, padding, dilation, groups)
    return y + p["bias"]

  if kind == "plain":
    return conv(x, "conv")
  if kind == "spatially_separable":
    vertical = conv(x, "vertical", strides=(strides[0], 1))
    return conv(vertical, "horizontal", strides=(1, strides[1]))
  if kind == "depthwise_separable":
    return conv(conv(x, "depthwise", groups=IN_CHANNELS), "pointwise", strides=(1, 1))
  if kind == "grouped":
    return conv(x, "conv", groups=3)
  if kind == "filter_groups":
    names = [f"branch_{k}x{k}" for k in options["kernels"]]
    return np.concatenate([conv(x, name) for name in names], axis=-1)
  assert kind == "dilated_branches"
  rates = options["dilations"]
  branches = [conv(x, f"dilation_{rate}", dilation=(rate, rate)) for rate in rates]
  return np.concatenate(branches, axis=-1)


def check(case, operations, convolve):
  layer = make_layer(case, operations)
  x, params = random_inputs(case, layer)
  y = np.asarray(jax.jit(layer.apply)({"params": params}, x))
  wanted = expected(case, x, params, convolve)
  assert y.shape == wanted.shape
  assert y.dtype == np.float32
  assert np.abs(y - wanted).max() <= 1e-5 * np.abs(wanted).max(), case


def identify(case):
  kind, options, (height, width), (stride, _), padding = case
  words = [f"{name}{value}" for name, value in options.items()]
  return "-".join([kind, *words, f"{height}x{width}", f"stride{stride}", padding])


@pytest.mark.parametrize("operations", ["fast", "lax"])
@pytest.mark.parametrize("case", SAMPLE, ids=identify)
def test_against_numpy(case, operations):
  check(case, operations, reference.convolve)


@pytest.mark.full
@pytest.mark.parametrize("operations", ["fast", "lax"])
@pytest.mark.parametrize("kind", EQUATIONS)
def test_the_whole_grid_against_numpy(kind, operations):
  for case in GRID:
    if case[0] == kind:
      check(case, operations, reference.convolve)


def test_the_sample_sees_every_side_of_the_grid():
  assert {case[0] for case in SAMPLE} == set(EQUATIONS)
  for values, choose in [
    (SIZES, lambda case: case[2]),
    (STRIDES, lambda case: case[3]),
    (["SAME", "VALID"], lambda case: case[4]),
    (DILATIONS, lambda case: case[1].get("dilation")),
    (KERNELS, lambda case: case[1].get("kernel")),
    (RATES, lambda case: case[1].get("dilations")),
  ]:
    assert set(values) <= {choose(case) for case in SAMPLE}, values


def scipy_convolve(x, kernel, strides, padding, dilation, groups):
  """SciPy's correlation, one pair of channels at a time, with zeros between taps."""
  height, width, inputs, outputs = kernel.shape
  extents = [(height - 1) * dilation[0] + 1, (width - 1) * dilation[1] + 1]
  spread = np.zeros((*extents, inputs, outputs))
  spread[:: dilation[0], :: dilation[1]] = kernel
  if padding == "SAME":
    pads = [
      reference.same_padding(*axis)
      for axis in zip(x.shape[1:3], extents, strides, strict=True)
    ]
    x = np.pad(x, [(0, 0), *pads, (0, 0)])
  images = []
  for image, out in itertools.product(x, range(outputs)):
    first = out // (outputs // groups) * inputs
    total = sum(
      scipy.signal.correlate(
        np.float64(image[..., first + c]), spread[..., c, out], "valid", "direct"
      )
      for c in range(inputs)
    )
    images.append(total[:: strides[0], :: strides[1]])
  stacked = np.stack(images).reshape(x.shape[0], outputs, *images[0].shape)
  return stacked.transpose(0, 2, 3, 1)


@pytest.mark.parametrize("case", SAMPLE[::3], ids=identify)
def test_against_scipy(case):
  check(case, "fast", scipy_convolve)


@pytest.mark.parametrize("case", SAMPLE, ids=identify)
def test_against_pytorch(case):
  torch = pytest.importorskip("torch")

  def convolve(x, kernel, strides, padding, dilation, groups):
    x = torch.tensor(np.transpose(x, (0, 3, 1, 2)), dtype=torch.float64)
    kernel = torch.tensor(np.transpose(kernel, (3, 2, 0, 1)), dtype=torch.float64)
    if padding == "SAME":
      extents = [
        (k - 1) * d + 1 for k, d in zip(kernel.shape[2:], dilation, strict=True)
      ]
      rows, columns = (
        reference.same_padding(*axis)
        for axis in zip(x.shape[2:], extents, strides, strict=True)
      )
      x = torch.nn.functional.pad(x, (*columns, *rows))
    y = torch.nn.functional.conv2d(
      x, kernel, stride=strides, dilation=dilation, groups=groups
    )
    return y.numpy().transpose(0, 2, 3, 1)

  check(case, "fast", convolve)


@pytest.mark.parametrize("kind", [*SINGLE, "filter_groups", "dilated_branches"])
@pytest.mark.parametrize("operations", ["fast", "lax"])
def test_shifting_the_input_shifts_the_output(kind, operations):
  options = {"kernel": 3, "kernels": (3, 5), "dilations": (1, 2)}
  for strides in STRIDES:
    case = (kind, options, (24, 26), strides, "SAME")
    layer = make_layer(case, operations)
    x, params = random_inputs(case, layer)
    apply = jax.jit(layer.apply)
    shifted = np.roll(x, (2 * strides[0], strides[1]), axis=(1, 2))
    y, y_shifted = apply({"params": params}, x), apply({"params": params}, shifted)
    inside = (slice(None), slice(5, -5), slice(5, -5))  # where no border is seen
    wanted = np.roll(y, (2, 1), axis=(1, 2))[inside]
    assert wanted.size > 0 and np.abs(wanted).max() > 1
    np.testing.assert_allclose(y_shifted[inside], wanted, rtol=1e-4, atol=1e-4)


def test_plain_is_nn_conv():
  case = ("plain", {"kernel": 3}, (9, 14), (2, 2), "VALID")
  x, params = random_inputs(case, make_layer(case))
  theirs = nn.Conv(FEATURES, (3, 3), strides=(2, 2), padding="VALID")
  np.testing.assert_array_equal(
    make_layer(case).apply({"params": params}, x),
    theirs.apply({"params": params["conv"]}, x),
  )


def test_separable_kernels_are_products_of_plain_ones():
  # k[u, v, c, o] = d[u, v, c] p[c, o], and q[u, c, m] r[v, m, o] summed over m.
  cases = ("depthwise_separable", "spatially_separable")
  for kind in cases:
    case = (kind, {"kernel": 3}, (9, 14), (1, 1), "VALID")
    layer = make_layer(case, use_bias=False)
    x, p = random_inputs(case, layer)
    if kind == "depthwise_separable":
      depthwise, pointwise = p["depthwise"]["kernel"], p["pointwise"]["kernel"]
      kernel = np.einsum("uvc,co->uvco", depthwise[:, :, 0], pointwise[0, 0])
    else:
      vertical, horizontal = p["vertical"]["kernel"], p["horizontal"]["kernel"]
      kernel = np.einsum("ucm,vmo->uvco", vertical[:, 0], horizontal[0])
    wanted = reference.convolve(x, kernel, padding="VALID")
    y = layer.apply({"params": p}, x)
    assert np.abs(y - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("kind", EQUATIONS)
def test_rows_and_columns_may_differ(kind):
  """Strides and, if the type allows it, kernel sizes of rows and columns."""
  options = {"kernel": 3, "kernels": (3, 5), "dilations": (1, 2)}
  for strides in ((1, 2), (2, 1)):
    case = (kind, options, (9, 14), strides, "SAME")
    layer = make_layer(case)
    if isinstance(getattr(layer, "kernel_size", None), tuple):
      layer = layer.copy(kernel_size=(5, 2))
    x, params = random_inputs(case, layer)
    for name, p in params.items():
      if getattr(layer, "kernel_size", None) == (5, 2) and name != "pointwise":
        assert p["kernel"].shape[:2] == (5, 2)
    y = np.asarray(layer.apply({"params": params}, x))
    wanted = expected(case, x, params, reference.convolve)
    assert y.shape == wanted.shape
    assert np.abs(y - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_what_is_between_comes_between():
  def negative_part(name):
    del name
    return lambda x: jnp.minimum(x, 0)

  case = ("spatially_separable", {"kernel": 3}, (7, 8), (1, 1), "SAME")
  x, p = random_inputs(case, make_layer(case))
  layer = SpatiallySeparable(features=FEATURES, between=negative_part)
  vertical = reference.convolve(x, p["vertical"]["kernel"]) + p["vertical"]["bias"]
  wanted = reference.convolve(np.minimum(vertical, 0), p["horizontal"]["kernel"])
  wanted += p["horizontal"]["bias"]
  y = layer.apply({"params": p}, x)
  assert np.abs(y - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
  ("layer", "without_bias", "biases"),
  [
    (Plain(features=64), 18_432, 64),  # 3*3 * 32 * 64
    (Plain(features=10, kernel_size=(7, 5)), 11_200, 10),  # 7*5 * 32 * 10
    # 3 * 32 * 64 + 3 * 64 * 64 = 6,144 + 12,288
    (SpatiallySeparable(features=64), 18_432, 128),
    # 5 * 32 * 16 + 5 * 16 * 16 = 2,560 + 1,280
    (SpatiallySeparable(features=16, kernel_size=5), 3_840, 32),
    # 3*3 * 32 + 32 * 128 = 288 + 4,096; biases 32 + 128
    (DepthwiseSeparable(features=128), 4_384, 160),
    # 7*5 * 32 + 32 * 10 = 1,120 + 320; biases 32 + 10
    (DepthwiseSeparable(features=10, kernel_size=(7, 5)), 1_440, 42),
    (Grouped(features=64), 4_608, 64),  # 3*3 * 32 * 64 / 4
    (Grouped(features=64, groups=32), 576, 64),  # 3*3 * 32 * 64 / 32
    (Grouped(features=64, groups=1, kernel_size=(1, 1)), 2_048, 64),  # 32 * 64
    (FilterGroups(features=128), 69_632, 128),  # 32 * 64 * (9 + 25)
    # 32 * 10 * (1 + 4 + 49)
    (FilterGroups(features=30, kernel_sizes=(1, 2, 7)), 17_280, 30),
    (DilatedBranches(features=128), 36_864, 128),  # 3*3 * 32 * 128
    # 2*2 * 32 * 9, whatever the rates
    (DilatedBranches(features=9, kernel_size=(2, 2), dilations=(1, 2, 3)), 1_152, 9),
  ],
  ids=repr,
)
def test_parameters_by_the_formula_of_the_docstring(layer, without_bias, biases):
  for use_bias, wanted in ((False, without_bias), (True, without_bias + biases)):
    layer = layer.copy(conv=functools.partial(nn.Conv, use_bias=use_bias))
    x = jax.ShapeDtypeStruct((1, 8, 8, 32), jnp.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == wanted


def test_examples_in_the_docstrings():
  results = doctest.testmod(convolutions)
  assert results.failed == 0
  examples = [
    cls.__doc__.count(">>> ")
    for cls in vars(convolutions).values()
    if isinstance(cls, type) and issubclass(cls, Convolution) and cls is not Convolution
  ]
  assert sum(number >= 4 for number in examples) >= len(EQUATIONS)
  assert results.attempted == sum(examples)


@pytest.mark.parametrize(
  ("layer", "message"),
  [
    (Grouped(features=64, groups=5), "Grouped: features=64 must be divisible by 5"),
    (
      Grouped(features=63, groups=7),
      "Grouped: input channels=32 must be divisible by groups=7",
    ),
    (FilterGroups(features=33), "FilterGroups: features=33 must be divisible by 2"),
    (
      DilatedBranches(features=32, dilations=(1, 2, 3)),
      "DilatedBranches: features=32 must be divisible by 3",
    ),
    (
      FilterGroups(features=32, padding="VALID"),
      "FilterGroups: padding='VALID' must be 'SAME'",
    ),
    (
      DilatedBranches(features=32, padding="VALID"),
      "DilatedBranches: padding='VALID' must be 'SAME'",
    ),
  ],
)
def test_what_does_not_divide_is_refused(layer, message):
  with pytest.raises(ValueError, match=message):
    layer.init(jax.random.key(0), jnp.ones((1, 8, 8, 32)))


def test_every_type_is_registered():
  types = {registry.lookup(entry) for entry in registry.CONVOLUTIONS.values()}
  ours = {
    c for c in Convolution.__subclasses__() if c.__module__.startswith("cifar_flax")
  }
  assert ours <= types


@pytest.mark.parametrize("kind", registry.CONVOLUTIONS)
def test_any_registered_type_fits_into_a_network(kind):
  """Shape and type; both kinds of operations; an image alone, or in a batch."""
  make = registry.lookup(registry.CONVOLUTIONS[kind])
  x = np.random.default_rng(0).normal(size=(3, 8, 8, 12)).astype(np.float32)
  results = []
  for operations in ("fast", "lax"):
    convolve = ops.select(operations).conv_general_dilated
    conv = functools.partial(nn.Conv, conv_general_dilated=convolve)
    layer = make(features=24, conv=conv)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    variables = random_like(shapes, seed=1)
    results.append(np.asarray(jax.jit(layer.apply)(variables, x)))
    assert results[-1].shape == (3, 8, 8, 24) and results[-1].dtype == np.float32
    alone = np.asarray(layer.apply(variables, x[1:2]))[0]
    largest = np.abs(results[-1]).max()
    assert np.abs(alone - results[-1][1]).max() <= 1e-5 * largest
  assert np.abs(results[0] - results[1]).max() <= 1e-4 * largest
  assert np.std(results[0]) > 0


# A type of one's own: the class, and one entry in the registry.


class Shuffled(Convolution):
  """Groups whose outputs are then interleaved, so that the next layer mixes them.

  y[..., o * groups + g] = (k_g * x_g)[..., o].
  Zhang et al. 2018, "ShuffleNet".
  Parameters: kh * kw * in * features / groups.

  Attributes:
    groups: number of groups; divides the input channels and `features`.
  """

  groups: int = 2

  @property
  def divisor(self):
    """What the numbers of channels must be divisible by."""
    return self.groups

  @nn.compact
  def __call__(self, x):
    """Convolves `x` [batch, height, width, channels]."""
    y = Grouped(
      features=self.features,
      groups=self.groups,
      strides=self.strides,
      padding=self.padding,
      conv=self.conv,
      name="grouped",
    )(x)
    parts = y.reshape(*y.shape[:3], self.groups, self.split(self.groups))
    return parts.swapaxes(-1, -2).reshape(y.shape)


def test_a_new_type_is_a_class_and_one_entry(monkeypatch):
  monkeypatch.setitem(registry.CONVOLUTIONS, "shuffled", f"{__name__}:Shuffled")
  config, _, _ = main.parse(
    [
      "--config=configs/quickstart.py",
      "--config.model.convolution=shuffled",
      "--config.model.dropout_rate=0",
      "--config.batch_size=4",
    ]
  )
  assert config.model.name == "uniform"
  devices = jax.devices()[:2]
  program = steps.Program(config, devices, num_classes=10, num_examples=8)
  image_shape = (8, 8, 3)
  state = steps.create_state(config, program.network, program.tx, image_shape)

  # Convolutions: 3*3*3*16 = 432, four slots of 3*3*in*out/2 = 2,304 + 4,608 + 9,216
  # + 18,432 = 34,560, last 64*10 + 10 = 650; BatchNorm over 16, 32, 32, 64 and 64
  # channels: 2 * 208 = 416 that are trained and as many averages.
  assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == 36_058
  assert sum(leaf.size for leaf in jax.tree.leaves(state.batch_stats)) == 416

  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (8, *image_shape)).astype(np.uint8)
  labels = rng.integers(0, 10, 8).astype(np.int32)
  indices = np.arange(4, dtype=np.int32).reshape(2, 1, 2)
  arrays = steps.replicate((images, labels), devices)
  after, _ = program.train_steps(
    steps.replicate(state, devices),
    *arrays,
    *(np.uint32(0), np.int32(1), np.float32([0.1])),
    indices,
  )
  assert int(after.step) == 1
  assert np.isfinite(after.metrics.means()["loss"])
  changed = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, after.params)
  slots = [name for name in changed if re.fullmatch("block._conv.", name)]
  assert len(slots) == 4
  assert all(changed[slot]["grouped"]["conv"]["kernel"] for slot in slots)


def test_a_type_nobody_registered_is_refused():
  config = config_lib.Config()
  config.model.convolution = "no_such_type"
  with pytest.raises(ValueError, match="config.model.convolution='no_such_type'"):
    config_lib.validate(config)
  with pytest.raises(KeyError):
    models.create(config.model, 10)
