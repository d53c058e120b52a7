"""The layers of the networks against what is published, counted by hand and seen."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_flax import config as config_lib
from cifar_flax import models
from cifar_flax.tools import structure, summary
from cifar_flax.tools.structure import IMAGE

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = ("net6a", "net6a_dense", "net6a_wide", "net6b")


def load(name, **changed):
  values = {f"model.{key}": value for key, value in changed.items()}
  config = config_lib.load(str(ROOT / "configs" / f"{name}.py"))
  return config_lib.override(config, values).model


def fields(layers, *kinds):
  found = [layer.reach.field for layer in layers if layer.kind in kinds]
  assert all(rows == columns for rows, columns in found)
  return [rows for rows, _ in found]


# Worked out by hand: + (side - 1) * jump for each window, jump doubled by each pool.
PLAIN = [3, 5, 7, 7, 8, 12, 16, 16, 18, 26, 34, 34, 58]


@pytest.mark.parametrize("name", ["net6a", "net6a_wide"])
def test_receptive_fields_of_plain_convolutions(name):
  assert fields(structure.layers(load(name)), "Conv", "max_pool") == PLAIN


def test_receptive_field_with_dense_layers():
  layers = structure.layers(load("net6a_dense"))
  found = [3, 5, 6, 10, 14, 16, 24, 32, 36]
  assert fields(layers, "Conv", "max_pool") == found
  assert fields(layers, "Dense") == [44] * 3  # the 2x2 pixels left, 8 apart


def test_receptive_fields_of_branches_and_what_they_read():
  layers = structure.layers(load("net6b"))
  by_name = {layer.name: (i, layer) for i, layer in enumerate(layers)}
  assert by_name["block1_conv1/vertical"][1].reach.field == (5, 3)
  assert by_name["block1_conv1/horizontal"][1].reach.field == (5, 5)
  assert by_name["block2_conv1/branch_3x3"][1].reach.field == (12, 12)
  assert by_name["block2_conv1/branch_5x5"][1].reach.field == (16, 16)
  assert by_name["block3_conv1/dilation_2"][1].reach.field == (34, 34)
  assert layers[-1].reach.field == (58, 58)
  branches = [by_name[f"block3_conv1/dilation_{rate}"][0] for rate in (1, 2)]
  assert by_name["block3_conv1_norm"][1].reach.sources == frozenset(branches)
  (before,) = layers[branches[0]].reach.sources
  assert layers[before].kind == "max_pool"
  assert layers[0].reach.sources == {IMAGE}


def mean_pool(x, window=2):
  batch, height, width, channels = x.shape
  rows, columns = height // window, width // window
  x = x[:, : rows * window, : columns * window]
  return x.reshape(batch, rows, window, columns, window, channels).mean((2, 4))


@pytest.mark.parametrize(
  ("name", "changed"),
  [("net6b", {}), ("net6a_dense", {})]
  + [
    ("quickstart", {"convolution": kind})
    for kind in ("grouped", "dilated_branches", "spatially_separable")
  ],
)
def test_a_pixel_sees_as_far_as_its_gradient_reaches(name, changed):
  # Nothing is negative, so that nothing cancels and no ReLU is closed.
  config = load(name, ops="lax", **changed)  # Winograd's zeros are rounded
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
    if max(layer.reach.field) <= 16:  # else the border cuts it off
      reached = tuple(int(pixels.any(axis).sum()) for axis in (1, 0))
      assert reached == layer.reach.field, layer.name
      compared += 1
  assert compared >= 4


def test_multiply_adds_by_hand():
  # Output pixels * output channels * window * input channels, a line a layer.
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
def test_multiply_adds_are_pytorchs(name):
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
  code = summary.main(["--config", str(ROOT / "configs/net6b.py"), *argv])
  return code, *capsys.readouterr()


def test_prints_a_table_markdown_and_json(capsys):
  code, table, error = run(capsys)
  assert (code, error) == (0, "")
  assert "151,404    150,168     44,252,196" in table
  _, markdown, _ = run(capsys, "--format=markdown")
  heads = [
    line for line in markdown.splitlines() if line.startswith("| layer | type |")
  ]
  assert len(heads) == 1
  assert markdown.count("\n| ") == 2 + 27 + 1  # head and rule, layers, totals
  _, text, _ = run(capsys, "--format=json")
  content = json.loads(text)
  assert content["totals"]["parameters"] == 151_404
  assert content["layers"][-1]["receptive_field"] == [58, 58]
  assert content["layers"][0]["reads"] == [-1]


def test_draws_the_network(tmp_path, capsys):
  code, _, _ = run(capsys, "--plot", str(tmp_path / "net.png"))
  data = (tmp_path / "net.png").read_bytes()
  assert code == 0 and data.startswith(b"\x89PNG")
  assert int.from_bytes(data[20:24]) > int.from_bytes(data[16:20])  # higher than wide


@pytest.mark.parametrize(
  ("argv", "code", "words"),
  [
    (["--format=jsn"], 2, "--format='jsn': must be one of table, markdown, json"),
    (["--config.model.nam=x"], 2, "did you mean"),
    (["--plot=/nowhere/net.png"], 1, "/nowhere/net.png: No such file"),
    (["--wat"], 2, "--wat"),
  ],
)
def test_mistakes_are_answered_in_a_line(argv, code, words, capsys):
  found, _, error = run(capsys, *argv)
  assert found == code and words in error and error.count("\n") == 1
