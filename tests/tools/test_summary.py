"""Layers, costs and receptive fields against published values and by hand."""

import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_flax import __main__ as commands
from cifar_flax import config as config_lib
from cifar_flax import convolutions, models, registry
from cifar_flax.tools import structure, summary
from cifar_flax.tools.structure import IMAGE

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = ("net6a", "net6a_dense", "net6a_wide", "net6b")


def load(name, **changed):
  values = {f"model.{key}": value for key, value in changed.items()}
  config = config_lib.load(str(ROOT / "configs" / f"{name}.py"))
  return config_lib.override(config, values).model


def fields(layers, *kinds):
  found = [layer.receptive_field.size for layer in layers if layer.kind in kinds]
  assert all(rows == columns for rows, columns in found)
  return [rows for rows, _ in found]


# By hand: each window adds (side - 1) * jump, and each pooling doubles the jump.
PLAIN = [3, 5, 7, 7, 8, 12, 16, 16, 18, 26, 34, 34, 58]


@pytest.mark.parametrize("name", ["net6a", "net6a_wide"])
def test_receptive_fields_of_plain_convolutions(name):
  assert fields(structure.layers(load(name)), "Conv", "max_pool") == PLAIN


def test_receptive_field_with_dense_layers():
  layers = structure.layers(load("net6a_dense"))
  found = [3, 5, 6, 10, 14, 16, 24, 32, 36]
  assert fields(layers, "Conv", "max_pool") == found
  assert (
    fields(layers, "Dense") == [44] * 3
  )  # 36 + (2 - 1) * 8 for 2x2 pixels of jump 8


def test_receptive_fields_of_branches_and_what_they_read():
  layers = structure.layers(load("net6b"))
  by_name = {layer.name: (i, layer) for i, layer in enumerate(layers)}
  assert by_name["block1_conv1/vertical"][1].receptive_field.size == (5, 3)
  assert by_name["block1_conv1/horizontal"][1].receptive_field.size == (5, 5)
  assert by_name["block2_conv1/branch_3x3"][1].receptive_field.size == (12, 12)
  assert by_name["block2_conv1/branch_5x5"][1].receptive_field.size == (16, 16)
  assert by_name["block3_conv1/dilation_2"][1].receptive_field.size == (34, 34)
  assert layers[-1].receptive_field.size == (58, 58)
  branches = [by_name[f"block3_conv1/dilation_{rate}"][0] for rate in (1, 2)]
  assert by_name["block3_conv1_norm"][1].receptive_field.inputs == frozenset(branches)
  (before,) = layers[branches[0]].receptive_field.inputs
  assert layers[before].kind == "max_pool"
  assert layers[0].receptive_field.inputs == {IMAGE}


def mean_pool(x, window=2):
  batch, height, width, channels = x.shape
  rows, columns = height // window, width // window
  x = x[:, : rows * window, : columns * window]
  return x.reshape(batch, rows, window, columns, window, channels).mean((2, 4))


@pytest.mark.parametrize(
  ("name", "changed"),
  [("quickstart", {"convolution": "grouped"})]
  + [
    pytest.param(*network, marks=pytest.mark.full)
    for network in (
      ("net6b", {}),
      ("net6a_dense", {}),
      ("quickstart", {"convolution": "dilated_branches"}),
      ("quickstart", {"convolution": "spatially_separable"}),
    )
  ],
)
def test_the_receptive_field_is_where_the_gradient_is_not_zero(name, changed):
  # Weights and pixels are positive: no gradients cancel and every ReLU is active.
  config = load(name, ops="lax", **changed)  # Winograd's zeros have rounding errors
  network = models.create(config, 10).clone(max_pool=mean_pool)
  image = jnp.ones((1, 32, 32, 3))
  initialise = lambda key: network.init(key, image, train=False)  # noqa: E731
  shapes = jax.eval_shape(initialise, jax.random.key(0))
  variables = jax.tree.map(lambda s: jnp.full(s.shape, 0.1, s.dtype), shapes)
  layers = [layer for layer in structure.layers(config) if layer.name != "max_pool"]

  def middles(image):
    _, state = network.apply(variables, image, train=False, capture_intermediates=True)
    outputs = []
    for layer in layers:
      tree = state["intermediates"]
      for part in layer.name.split("/"):
        tree = tree[part]
      y = tree["__call__"][0]
      if y.ndim == 4:
        outputs.append(y[0, y.shape[1] // 2, y.shape[2] // 2].sum())
    return jnp.stack(outputs)

  seen = jax.jacrev(middles)(image)[:, 0].sum(-1) > 0
  compared = 0
  for layer, pixels in zip(layers, np.asarray(seen), strict=False):
    if max(layer.receptive_field.size) <= 16:  # larger fields extend beyond the image
      reached = tuple(int(pixels.any(axis).sum()) for axis in (1, 0))
      assert reached == layer.receptive_field.size, layer.name
      compared += 1
  assert compared >= 4


def test_multiply_adds_by_hand():
  # Output pixels * output channels * window * input channels, one layer per line.
  by_hand = [
    32 * 32 * 32 * 9 * 3,
    30 * 32 * 64 * 3 * 32,
    30 * 30 * 64 * 3 * 64,
    28 * 28 * 64 * 9,
    28 * 28 * 128 * 64,
    28 * 28 * 32 * 128,
    14 * 14 * 64 * 9 * 32,
    14 * 14 * 64 * 25 * 32,
    14 * 14 * 32 * 128,
    7 * 7 * 64 * 9 * 32,
    7 * 7 * 64 * 9 * 32,
    7 * 7 * 10 * 128,
    10 * 49 * 10,
  ]
  layers = structure.layers(load("net6b"))
  assert [l.multiply_adds for l in layers if l.kind == "Conv"] == by_hand  # noqa: E741
  assert summary.totals(layers)["multiply_adds"] == sum(by_hand)


@pytest.mark.parametrize("name", CONFIGS)
def test_multiply_adds_agree_with_pytorch(name):
  torch = pytest.importorskip("torch")
  counter = pytest.importorskip("torch.utils.flop_counter")
  from benchmarks import networks
  from benchmarks.peers import pytorch

  config = load(name)
  module = pytorch.build(networks.LAYERS[name](config), (3, 32, 32))
  images = torch.zeros(2, 3, 32, 32)
  with counter.FlopCounterMode(display=False) as flops, torch.no_grad():
    module(images)
  ours = summary.totals(structure.layers(config))["multiply_adds"]
  assert flops.get_total_flops() == 2 * 2 * ours  # two images, two operations each


@pytest.mark.parametrize(
  ("name", "total"),
  [
    ("net6a", 294_112),
    ("net6a_dense", 1_172_410),
    ("net6a_wide", 649_656),
    ("net6b", 151_404),
  ],
)
def test_parameters_are_the_published_ones(name, total):
  assert summary.totals(structure.layers(load(name)))["parameters"] == total


def run(capsys, *argv):
  code = commands.main(["summary", "--config", str(ROOT / "configs/net6b.py"), *argv])
  return code, *capsys.readouterr()


def test_prints_a_table_markdown_and_json(capsys):
  code, table, error = run(capsys, "--wide")
  assert (code, error) == (0, "")
  assert "151,404    150,168     44,252,196" in table
  _, markdown, _ = run(capsys, "--format=markdown")
  heads = [
    line for line in markdown.splitlines() if line.startswith("| layer | output |")
  ]
  assert len(heads) == 1
  assert markdown.count("\n| ") == 1 + 27 + 1  # head, layers, totals
  _, text, _ = run(capsys, "--format=json")
  content = json.loads(text)
  assert content["totals"]["parameters"] == 151_404
  assert content["layers"][-1]["receptive_field"] == [58, 58]
  assert content["layers"][0]["reads"] == [-1]


def test_the_table_fits_a_terminal(capsys):
  _, text, _ = run(capsys)
  assert max(map(len, text.splitlines())) <= 80
  rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[3:] if line}
  assert rows["block1_conv1/vertical"] == [
    "30x32x64",
    "3x1",
    "6,144",
    "5,898,240",
    "5x3",
  ]
  assert rows["block1_conv2/depthwise"][1:3] == ["3x3", "g64"]
  assert rows["block3_conv1/dilation_2"][1:3] == ["3x3", "d2"]
  assert rows["max_pool"][1:3] == ["2x2", "s2"]
  assert rows["total"] == ["151,404", "44,252,196"]


def test_windows_that_are_not_square(capsys):
  layer = structure.Layer(
    "a", "Conv", (8, 8, 4), kernel=(3, 5), strides=(2, 1), dilation=(1, 3), groups=2
  )
  assert "3x5 g2 d1x3 s2x1" in summary.table([layer], "title").text()


@pytest.mark.parametrize(
  ("argv", "code", "words"),
  [
    (["--format=jsn"], 2, "--format='jsn': must be one of table, markdown, json"),
    (["--config.model.nam=x"], 2, "did you mean"),
    (["--plot=/nowhere/net.png"], 1, "/nowhere/net.png: No such file"),
    (["--plot=net.pdf"], 2, "--plot='net.pdf': a PNG is written"),
    (["--wat"], 2, "--wat"),
  ],
)
def test_a_mistake_prints_one_line(argv, code, words, capsys):
  found, _, error = run(capsys, *argv)
  assert found == code and words in error and error.count("\n") == 1


class LowRank(convolutions.Convolution):
  """A 3x3 kernel made of two factors: nothing but its own parameters."""

  rank: int = 4

  @nn.compact
  def __call__(self, x):
    init, channels = nn.initializers.normal(1.0), x.shape[-1]
    a = self.param("a", init, (9 * channels, self.rank))
    b = self.param("b", init, (self.rank, self.features))
    kernel = (a @ b).reshape(3, 3, channels, self.features)
    return self.with_kernel(x, kernel)

  def with_kernel(self, x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, self.strides, self.padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class FastLowRank(LowRank):
  """The same by this project's convolution, whose fast forms are several operations."""

  def with_kernel(self, x, kernel):
    return self.convolve(x, kernel)


class Spectral(convolutions.Convolution):
  """Hides its arithmetic in a Fourier transform."""

  @nn.compact
  def __call__(self, x):
    scale = self.param("scale", nn.initializers.ones, (1, 1, 1, self.features))
    return jnp.abs(jnp.fft.fft(x, axis=1)).sum(-1, keepdims=True) * scale


@pytest.fixture
def toy_types(monkeypatch):
  kinds = {"low_rank": LowRank, "fast_low_rank": FastLowRank, "spectral": Spectral}
  for name, kind in kinds.items():
    place = f"{__name__}:{kind.__name__}"
    monkeypatch.setitem(registry.CONVOLUTIONS, name, place)


@pytest.mark.parametrize("kind", ["low_rank", "fast_low_rank"])
def test_a_type_with_kernels_of_its_own_is_counted(kind, toy_types):
  config = load("conv_study", convolution=kind)
  layers = structure.layers(config)
  slots = [layer for layer in layers if layer.kind.endswith("LowRank")]
  sides = [(16, 16, 32), (16, 32, 32), (8, 32, 64), (8, 64, 64)]
  # a and b; their product, and with it 3x3 from `before` to `after` at each pixel.
  by_hand = [
    (
      4 * (9 * before + after),
      9 * before * after * 4 + side**2 * 9 * before * after,
    )
    for side, before, after in sides
  ]
  assert [(layer.parameters, layer.multiply_adds) for layer in slots] == by_hand
  assert [layer.receptive_field.size for layer in slots] == [
    structure_layer.receptive_field.size
    for structure_layer in structure.layers(load("conv_study"))
    if structure_layer.name.endswith("/conv")
  ]
  network = models.create(config, 10)
  shapes = jax.eval_shape(
    lambda key: network.init(key, jnp.ones((1, 32, 32, 3)), train=False),
    jax.random.key(0),
  )
  total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert summary.totals(layers)["parameters"] == total


def test_what_cannot_be_counted_is_a_lower_bound(toy_types):
  layers = structure.layers(load("conv_study", convolution="spectral"))
  text = summary.table(layers, "spectral").text()
  assert "block1_conv1: the arithmetic of fft is not counted" in text
  assert "block1_conv1: its receptive field may be smaller" in text
  row = next(line for line in text.splitlines() if line.startswith("block1_conv1 "))
  assert "at least 0" in row
  total = next(line for line in text.splitlines() if line.startswith("total"))
  assert "at least" in total
