"""The published networks: counted by hand, drawn layer by layer, rebuilt in NumPy."""

import dataclasses
import itertools
import pathlib
import re
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from cifar_flax import config as config_lib
from cifar_flax import models, optimizer, published, registry, steps, train
from cifar_flax.config import Config
from cifar_flax.data import batches
from cifar_flax.data.sources import shapes10
from cifar_flax.errors import UserError
from cifar_flax.trainer import Trainer

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = {file.stem: file for file in (ROOT / "configs").glob("*.py")}
PUBLISHED = ["net6a_dense", "net6a_wide", "net6a", "net6b"]


def create(name, num_classes=10, **values):
  texts = {f"model.{key}": str(value) for key, value in values.items()}
  config = config_lib.override(Config(), {"model.name": name, **texts})
  return models.create(config.model, num_classes)


def image_batch(n=2, dtype=np.float32):
  return np.random.default_rng(0).random((n, 32, 32, 3)).astype(dtype)


def variable_shapes(network):
  init = lambda key: network.init(key, image_batch(), train=False)  # noqa: E731
  return jax.eval_shape(init, jax.random.key(0))


def random_variables(network, seed=0):
  """Unequal everywhere, biases and moving averages included; of a sensible size."""
  rng = np.random.default_rng(seed)

  def draw(path, shape):
    name, values = path[-1].key, rng.normal(size=shape.shape)
    if name == "kernel":
      values *= np.sqrt(2 / np.prod(shape.shape[:-1]))
    elif name in ("scale", "var"):
      values = 1 + 0.3 * np.abs(values)
    else:
      values *= 0.1
    return values.astype(shape.dtype)

  return jax.tree_util.tree_map_with_path(draw, variable_shapes(network))


def size(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


# Counted by hand. Each entry: parameters that are trained; moving averages.
BY_HAND = {
  "net6a_dense": [
    (1_344, 0),  # 3*3*3*48 + 48
    (20_784, 0),  # 3*3*48*48 + 48
    (41_568, 0),  # 3*3*48*96 + 96
    (83_040, 0),  # 3*3*96*96 + 96
    (166_080, 0),  # 3*3*96*192 + 192
    (331_968, 0),  # 3*3*192*192 + 192
    (393_728, 0),  # 2*2*192 * 512 + 512
    (131_328, 0),  # 512*256 + 256
    (2_570, 0),  # 256*10 + 10
  ],
  "net6a_wide": [
    (1_344, 0),  # 3*3*3*48 + 48
    (41_568, 0),  # 3*3*48*96 + 96
    (166_080, 0),  # 3*3*96*192 + 192
    (9_264, 0),  # 192*48 + 48
    (41_568, 0),  # 3*3*48*96 + 96
    (166_080, 0),  # 3*3*96*192 + 192
    (9_264, 0),  # 192*48 + 48
    (41_568, 0),  # 3*3*48*96 + 96
    (166_080, 0),  # 3*3*96*192 + 192
    (1_930, 0),  # 192*10 + 10
    (4_910, 0),  # 7*7*10*10 + 10
  ],
  "net6a": [
    (896, 0),  # 3*3*3*32 + 32
    (18_496, 0),  # 3*3*32*64 + 64
    (73_856, 0),  # 3*3*64*128 + 128
    (4_128, 0),  # 128*32 + 32
    (18_496 + 128, 128),  # 3*3*32*64 + 64, BatchNorm 2*64 and 2*64
    (73_856 + 256, 256),  # 3*3*64*128 + 128, BatchNorm 2*128 and 2*128
    (4_128 + 64, 64),  # 128*32 + 32, BatchNorm 2*32 and 2*32
    (18_496 + 128, 128),  # 3*3*32*64 + 64, BatchNorm
    (73_856 + 256, 256),  # 3*3*64*128 + 128, BatchNorm
    (1_290 + 20, 20),  # 128*10 + 10, BatchNorm 2*10 and 2*10
    (4_910, 0),  # 7*7*10*10 + 10
  ],
  "net6b": [
    (864 + 64, 64),  # 3*3*3*32, BatchNorm 2*32 and 2*32
    (6_144 + 128, 128),  # 3*1*32*64, BatchNorm
    (12_288 + 128, 128),  # 1*3*64*64, BatchNorm
    (576 + 8_192 + 256, 256),  # 3*3*64 depthwise, 64*128 pointwise, BatchNorm
    (4_096 + 64, 64),  # 128*32, BatchNorm
    (18_432 + 51_200 + 256, 256),  # 3*3*32*64 and 5*5*32*64, BatchNorm over both
    (4_096 + 64, 64),  # 128*32, BatchNorm
    (18_432 + 18_432 + 256, 256),  # 3*3*32*64 twice, BatchNorm over both
    (1_280 + 20, 20),  # 128*10, BatchNorm
    (4_900, 0),  # 7*7*10*10
  ],
}
# Total and trainable, as Keras printed them for the published networks.
PRINTED = {
  "net6a_dense": (1_172_410, 1_172_410),
  "net6a_wide": (649_656, 649_656),
  "net6a": (294_112, 293_260),
  "net6b": (151_404, 150_168),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
  shapes = variable_shapes(create(name))
  trainable, averages = size(shapes["params"]), size(shapes.get("batch_stats", {}))
  assert (trainable + averages, trainable) == PRINTED[name]
  assert trainable == sum(trained for trained, _ in BY_HAND[name])
  assert averages == sum(moving for _, moving in BY_HAND[name])


# The drawings: "c32 3x3" a convolution, "b" with bias, "/g" in g groups, "*d" dilated;
# "bn" BatchNorm, "drop" and its rate, "d512" Dense; behind it the side of its output.
DRAWINGS = {
  "net6a_dense": """
    c48 3x3 b 32, c48 3x3 b 30, drop 0.25 15,
    c96 3x3 b 15, c96 3x3 b 13, drop 0.25 6,
    c192 3x3 b 6, c192 3x3 b 4, drop 0.25 2,
    d512, drop 0.5, d256, drop 0.5, d10""",
  "net6a_wide": """
    c48 3x3 b 32, c96 3x3 b 32, c192 3x3 b 30, drop 0.25 30, c48 1x1 b 30,
    c96 3x3 b 15, c192 3x3 b 15, drop 0.25 15, c48 1x1 b 15,
    c96 3x3 b 7, c192 3x3 b 7, drop 0.25 7, c10 1x1 b 7, c10 7x7 b 1""",
  "net6a": """
    c32 3x3 b 32, c64 3x3 b 32, c128 3x3 b 30, drop 0.1 30, c32 1x1 b 30,
    c64 3x3 b 15, bn 15, c128 3x3 b 15, bn 15, drop 0.1 15, c32 1x1 b 15, bn 15,
    c64 3x3 b 7, bn 7, c128 3x3 b 7, bn 7, drop 0.1 7, c10 1x1 b 7, bn 7,
    c10 7x7 b 1""",
  "net6b": """
    c32 3x3 32, bn 32, c64 3x1 30x32, bn 30x32, c64 1x3 30, bn 30,
    c64 3x3/64 28, c128 1x1 28, bn 28, drop 0.05 28, c32 1x1 28, bn 28,
    c64 3x3 14, c64 5x5 14, bn 14, drop 0.05 14, c32 1x1 14, bn 14,
    c64 3x3 7, c64 3x3*2 7, bn 7, drop 0.05 7, c10 1x1 7, bn 7, c10 7x7 1""",
}


def describe(module, y):
  side = "x".join(str(n) for n in dict.fromkeys(y.shape[1:3])) if y.ndim == 4 else ""
  if isinstance(module, nn.Conv):
    groups, dilation = module.feature_group_count, module.kernel_dilation
    words = [f"c{module.features}", "x".join(map(str, module.kernel_size))]
    words[-1] += f"/{groups}" if groups > 1 else ""
    words[-1] += f"*{dilation[0]}" if dilation not in (1, (1, 1)) else ""
    words += ["b"] if module.use_bias else []
  elif isinstance(module, nn.BatchNorm):
    words = ["bn"]
  elif isinstance(module, nn.Dense):
    words = [f"d{module.features}"]
  else:
    words = ["drop", str(module.rate)]
  return " ".join([*words, side]).strip()


@pytest.mark.parametrize("name", PUBLISHED)
def test_layers_come_in_the_order_of_the_drawing(name):
  config = config_lib.load(str(CONFIGS[name]))
  network = models.create(config.model, 10)
  found, depth = [], 0

  def record(next_function, args, kwargs, context):
    nonlocal depth
    drawn = (nn.Conv, nn.Dense, nn.BatchNorm, models.layers.Dropout)
    one = context.method_name == "__call__" and isinstance(context.module, drawn)
    depth += one
    y = next_function(*args, **kwargs)
    depth -= one
    if one and depth == 0:  # BatchNormReLU calls what it inherits
      found.append(describe(context.module, y))
    return y

  with nn.intercept_methods(record):
    variable_shapes(network)
  assert found == [" ".join(layer.split()) for layer in DRAWINGS[name].split(",")]


class Rebuilt:
  """A network in NumPy, from the drawings and a flax tree of variables."""

  def __init__(self, variables, train):
    self.params, self.stats = variables["params"], variables.get("batch_stats", {})
    self.train = train
    self.moved = {}

  def conv(self, x, *path, padding="SAME", **options):
    p = self.params
    for name in path:
      p = p[name]
    return reference.convolve(x, p["kernel"], padding=padding, **options) + p.get(
      "bias", 0
    )

  def norm_relu(self, x, *path):
    p, stats = self.params, self.stats
    for name in path:
      p, stats = p[name], stats[name]
    mean, var = np.float64(stats["mean"]), np.float64(stats["var"])
    if self.train:
      batch = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
      self.moved[path] = (0.99 * mean + 0.01 * batch[0], 0.99 * var + 0.01 * batch[1])
      mean, var = batch
    return relu(reference.batch_norm(x, mean, var, p["scale"], p["bias"]))

  def plain(self, x, name, norm, **options):
    x = self.conv(x, name, **options)
    return self.norm_relu(x, f"{name}_norm") if norm else relu(x)

  def dense(self, x, name):
    p = self.params[name]
    return x @ np.float64(p["kernel"]) + p["bias"]

  def net6a_dense(self, x):
    for block in (1, 2, 3):
      x = relu(self.conv(x, f"block{block}_conv1"))
      x = relu(self.conv(x, f"block{block}_conv2", padding="VALID"))
      x = reference.max_pool(x)
    x = x.reshape(len(x), -1)
    x = relu(self.dense(relu(self.dense(x, "dense1")), "dense2"))
    return self.dense(x, "head")

  def net6a_wide(self, x, norm=False):
    x = self.plain(x, "stem", False)
    x = self.plain(x, "block1_conv1", False)
    x = self.plain(x, "block1_conv2", False, padding="VALID")
    x = reference.max_pool(self.plain(x, "transition1", False))
    x = self.plain(x, "block2_conv1", norm)
    x = self.plain(x, "block2_conv2", norm)
    x = reference.max_pool(self.plain(x, "transition2", norm))
    x = self.plain(x, "block3_conv1", norm)
    x = self.plain(x, "block3_conv2", norm)
    x = self.plain(x, "class_maps", norm)
    return self.conv(x, "head", padding="VALID")[:, 0, 0]

  def net6a(self, x):
    return self.net6a_wide(x, norm=True)

  def net6b(self, x):
    x = self.plain(x, "stem", True)
    x = self.conv(x, "block1_conv1", "vertical", padding="VALID")
    x = self.norm_relu(x, "block1_conv1", "between")
    x = self.conv(x, "block1_conv1", "horizontal", padding="VALID")
    x = self.norm_relu(x, "block1_conv1_norm")
    x = self.conv(x, "block1_conv2", "depthwise", padding="VALID", groups=64)
    x = self.conv(x, "block1_conv2", "pointwise")
    x = self.norm_relu(x, "block1_conv2_norm")
    x = reference.max_pool(self.plain(x, "transition1", True))
    sizes = ("branch_3x3", "branch_5x5")
    branches = [self.conv(x, "block2_conv1", name) for name in sizes]
    x = self.norm_relu(np.concatenate(branches, axis=-1), "block2_conv1_norm")
    x = reference.max_pool(self.plain(x, "transition2", True))
    branches = [
      self.conv(x, "block3_conv1", f"dilation_{d}", dilation=(d, d)) for d in (1, 2)
    ]
    x = self.norm_relu(np.concatenate(branches, axis=-1), "block3_conv1_norm")
    x = self.plain(x, "class_maps", True)
    return self.conv(x, "head", padding="VALID")[:, 0, 0]


def relu(x):
  return np.maximum(x, 0)


@pytest.mark.parametrize(
  ("name", "train_mode"),
  # Without BatchNorm, training differs by dropout alone.
  [*((name, False) for name in PUBLISHED), ("net6a", True), ("net6b", True)],
)
def test_networks_are_the_ones_rebuilt_in_numpy(name, train_mode):
  network = create(name)
  variables, x = random_variables(network), image_batch()

  @jax.jit
  def apply(variables, x):
    return network.apply(variables, x, train=train_mode, mutable=["batch_stats"])

  logits, updated = apply(variables, x)
  rebuilt = Rebuilt(variables, train_mode)
  wanted = getattr(rebuilt, name)(np.float64(x))
  assert logits.shape == (2, 10)
  assert np.abs(wanted[0] - wanted[1]).max() > 1e-3  # the images do make a difference
  assert np.abs(logits - wanted).max() <= 1e-4 * np.abs(wanted).max()
  for path, (mean, var) in rebuilt.moved.items():
    moved = updated["batch_stats"]
    for part in path:
      moved = moved[part]
    np.testing.assert_allclose(moved["mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moved["var"], var, rtol=1e-4, atol=1e-5)
  assert len(rebuilt.moved) == (DRAWINGS[name].count("bn") if train_mode else 0)


@pytest.mark.parametrize("name", registry.NETWORKS)
def test_every_layer_is_named_by_its_role(name):
  network = create(name, dropout_rate=0.1, dense_dropout_rate=0.1)
  keys, names = np.arange(2, dtype=np.uint32), set()

  def record(next_function, args, kwargs, context):
    names.update(context.module.path)
    return next_function(*args, **kwargs)

  with nn.intercept_methods(record):
    jax.eval_shape(
      lambda key: network.init(key, image_batch(), train=True, example_keys=keys),
      jax.random.key(0),
    )
  assert "head" in names and any(name.endswith("_dropout") for name in names)
  automatic = [name for name in names if re.fullmatch(r"[A-Z].*_[0-9]+", name)]
  assert automatic == []  # such as Conv_0, which an insertion would make Conv_1


class WithAnotherLayer(models.Network):
  """A stem, in front of it another layer of each kind if asked for."""

  longer: bool = False

  @nn.compact
  def __call__(self, images, *, train, example_keys=None):
    norm_relu, dropout = self.batch_norm_relu(train), self.dropout(example_keys)
    x = images
    if self.longer:
      x = dropout(self.conv(3, (1, 1), name="added")(x), "added_dropout")
      x = jnp.ones_like(norm_relu(name="added_norm")(x)) * images
    return dropout(
      norm_relu(name="stem_norm")(self.conv(8, (3, 3), name="stem")(x)), "stem_dropout"
    )


def test_inserting_a_layer_changes_no_others_name_start_or_mask():
  fields = dataclasses.fields(models.Network)
  given = {f.name: getattr(create("net6b", dropout_rate=0.5), f.name) for f in fields}
  del given["parent"], given["name"]
  results = []
  for longer in (False, True):
    network = WithAnotherLayer(**given, longer=longer)
    init = lambda key: network.init(key, image_batch(), train=False)  # noqa: B023, E731
    variables = jax.jit(init)(jax.random.key(0))
    keys = np.arange(2, dtype=np.uint32)
    y, _ = network.apply(
      variables, image_batch(), train=True, example_keys=keys, mutable=["batch_stats"]
    )
    results.append((variables["params"], y))
  (before, y), (after, y_after) = results
  assert after.keys() - before.keys() == {"added", "added_norm"}
  for name in before:
    jax.tree.map(np.testing.assert_array_equal, before[name], after[name])
  np.testing.assert_array_equal(y, y_after)
  assert 0.2 < (np.asarray(y) == 0).mean() < 0.9


@pytest.mark.parametrize("name", registry.NETWORKS)
def test_kernels_start_as_glorot_uniform_and_biases_as_zero(name):
  network = create(name)
  init = jax.jit(lambda key: network.init(key, jnp.ones((1, 32, 32, 3)), train=False))
  params = init(jax.random.key(3, impl="rbg"))["params"]  # threefry compiles for 10 s
  kernels = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    kind = path[-1].key
    if kind == "kernel":
      kernels += 1
      *window, inputs, outputs = leaf.shape
      limit = np.sqrt(6 / (np.prod(window) * (inputs + outputs)))
      assert 0.95 * limit < np.abs(leaf).max() <= limit, path
      # The standard deviation of U[-limit, limit] is limit / sqrt(3).
      assert np.std(leaf) == pytest.approx(limit / np.sqrt(3), rel=0.15), path
    else:
      assert (leaf == (1 if kind == "scale" else 0)).all(), path
  assert kernels >= 6


@pytest.mark.parametrize("name", registry.NETWORKS)
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(name):
  network = create(name, dtype="bfloat16")
  shapes = variable_shapes(network)
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}

  def apply(variables):
    x = image_batch(dtype=jnp.bfloat16)
    return network.apply(variables, x, train=True, mutable=["batch_stats"])

  logits, updated = jax.eval_shape(apply, shapes)
  assert logits.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(updated)} <= {jnp.dtype("float32")}


def test_bfloat16_is_near_float32():
  variables, x = random_variables(create("uniform")), image_batch(8)

  def evaluate(dtype):
    network = create("uniform", dtype=dtype)
    return jax.jit(lambda v: network.apply(v, x, train=False))(variables)

  results = [evaluate(dtype) for dtype in ("float32", "bfloat16")]
  difference = np.abs(np.float32(results[0]) - np.float32(results[1])).max()
  assert 0 < difference < 0.05 * np.abs(results[0]).max()


@pytest.mark.parametrize("name", registry.NETWORKS)
def test_any_number_of_classes(name):
  network = create(name, num_classes=100)
  apply = lambda v: network.apply(v, image_batch(3), train=False)  # noqa: E731
  assert jax.eval_shape(apply, variable_shapes(network)).shape == (3, 100)


def test_statistics_move_in_training_and_stay_put_in_evaluation():
  network = create("uniform", dropout_rate=0.5)
  variables, x = random_variables(network), image_batch(4)

  @jax.jit
  def both(variables, keys):
    mutable = ["batch_stats"]
    trained = network.apply(
      variables, x, train=True, example_keys=keys, mutable=mutable
    )
    return trained, network.apply(variables, x, train=False, mutable=mutable)

  results = [both(variables, np.arange(4, dtype=np.uint32) + i) for i in (0, 9)]
  (one, moved), (evaluated, kept) = results[0]
  (other, _), (again, _) = results[1]
  assert (one != other).any()  # dropout draws anew
  np.testing.assert_array_equal(evaluated, again)  # evaluation draws nothing
  before = variables["batch_stats"]
  for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(kept), strict=True):
    np.testing.assert_array_equal(a, b)
  changes = jax.tree.map(lambda a, b: (a != b).all(), before, moved["batch_stats"])
  assert all(jax.tree.leaves(changes))


def logits_and_gradients(name, operations, variables, x, labels, dtype):
  network = create(name, ops=operations, dtype=dtype)

  @jax.jit
  def run(params):
    def loss(params):
      logits, _ = network.apply(
        {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
      )
      return steps.cross_entropy(logits, labels, 0.0).mean(), logits

    (_, logits), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return logits, gradients

  return run(variables["params"])


def check_operations_agree(name, dtype, tolerance):
  variables = random_variables(create(name))
  variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
  x, labels = image_batch(4, dtype), np.array([1, 7, 3, 0])
  (fast, fast_gradients), (lax, lax_gradients) = (
    logits_and_gradients(name, operations, variables, x, labels, dtype)
    for operations in ("fast", "lax")
  )
  assert fast.dtype == lax.dtype == np.dtype(dtype)
  assert np.abs(fast - lax).max() <= tolerance * np.abs(lax).max()
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(lax_gradients))
  differences = jax.tree.map(
    lambda a, b: np.abs(a - b).max() / largest, fast_gradients, lax_gradients
  )
  assert max(jax.tree.leaves(differences)) <= tolerance, differences


@pytest.mark.parametrize(
  "name",
  # `net6a_wide` has the shapes of `net6a`, and no BatchNorm.
  ["net6a_dense", "net6a", "net6b", pytest.param("net6a_wide", marks=pytest.mark.full)],
)
def test_fast_operations_and_xlas_are_one_function(name):
  with jax.enable_x64(True):
    check_operations_agree(name, "float64", 1e-11)


def test_fast_operations_agree_in_float32():
  check_operations_agree("net6b", "float32", 1e-4)


# Configs whose parameters were counted by hand: total and trainable.
COUNTED = {
  "net6a_dense": PRINTED["net6a_dense"],
  "net6a_wide": PRINTED["net6a_wide"],
  "net6a": PRINTED["net6a"],
  "net6a_constant": PRINTED["net6a"],
  "net6b": PRINTED["net6b"],
  # Convolutions 3*3*3*16 = 432, then 3*3*in + in*out: 16->32 656, 32->32 1,312,
  # 32->64 2,336, 64->64 4,672; 64*10 + 10 = 650; BatchNorm over 208 channels, 416.
  "quickstart": (10_890, 10_474),
  # 3*3*in*out: 432 + 4,608 + 9,216 + 18,432 + 36,864, and the same 650 and 416.
  "conv_study": (71_034, 70_618),
  # 64*100 + 100 in the place of the 650.
  "cifar100": (76_884, 76_468),
}
COUNTED |= {name: COUNTED[base] for name, base in published.TUNED.items()}


def test_every_counted_config_exists():
  assert COUNTED.keys() <= CONFIGS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_what_the_trainer_makes_of_a_config(name):
  config = config_lib.load(str(CONFIGS[name]))
  devices = jax.devices()[:2]
  num_classes = 100 if config.data.dataset == "cifar100" else 10
  program = steps.Program(config, devices, num_classes, num_examples=50_000)
  assert program.steps_per_epoch == 50_000 // config.batch_size
  schedule = optimizer.create_schedule(config, program.steps_per_epoch)
  for step in (0, config.num_epochs * program.steps_per_epoch - 1):
    assert 0 < schedule(step) <= config.schedule.learning_rate

  def state_of(key):  # as `steps.create_state`, which goes on to host memory
    variables = program.network.init(key, jnp.ones((1, 32, 32, 3)), train=False)
    return steps.TrainState(
      step=jnp.zeros([], jnp.int32),
      params=variables["params"],
      batch_stats=variables.get("batch_stats", {}),
      opt_state=program.tx.init(variables["params"]),
      ema={},
      metrics=steps.Metrics.empty(),
    )

  state = jax.eval_shape(state_of, jax.random.key(0))
  trainable = size(state.params)
  counts = (trainable + size(state.batch_stats), trainable)
  assert counts == COUNTED.get(name, counts)

  images = jax.ShapeDtypeStruct((50_000, 32, 32, 3), jnp.uint8)
  labels = jax.ShapeDtypeStruct((50_000,), jnp.int32)
  number = jax.ShapeDtypeStruct((), jnp.int32)
  indices = jax.ShapeDtypeStruct((2, 4, config.batch_size // 2), jnp.int32)
  seed = jax.ShapeDtypeStruct((), jnp.uint32)
  rates = jax.ShapeDtypeStruct((4,), steps.parameter_dtype(config))
  after, _ = jax.eval_shape(
    program.train_steps, state, images, labels, seed, number, rates, indices
  )
  for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
    assert (before.shape, before.dtype) == (now.shape, now.dtype)

  variables = {"params": state.params, "batch_stats": state.batch_stats}
  chosen, mask = batches.eval_indices(10_000, config.eval_batch_size or 64, 2)
  sums = jax.eval_shape(
    program.eval_steps, state.metrics, variables, images, labels, number, chosen, mask
  )
  assert jax.tree.structure(sums) == jax.tree.structure(state.metrics)


# Which keys are read, and by whom.


@pytest.fixture
def keys_read(monkeypatch):
  """Fills with the keys that anything but the config's own module reads."""
  found = set()
  sections = {Config: ""}
  for field in dataclasses.fields(Config):
    if not field.metadata:  # a section, not a key
      sections[field.type] = f"{field.name}."
  for cls, prefix in sections.items():

    def read(self, name, prefix=prefix):
      reader = sys._getframe(1).f_globals["__name__"]
      if reader.startswith("cifar_flax.") and reader != config_lib.__name__:
        found.add(prefix + name)
      return object.__getattribute__(self, name)

    monkeypatch.setattr(cls, "__getattribute__", read, raising=False)
  return found


def small_config(tmp_path, **values):
  base = {
    "name": "keys",
    "num_epochs": 1,
    "batch_size": 4,
    "data.dataset": "shapes10",
    "data.data_dir": tmp_path,
    "model.name": "tiny",
    "augmentation.zoom": 0.1,
    "augmentation.flip": True,
    "augmentation.crop_padding": 1,
    "augmentation.cutout": 2,
  }
  values = {name.replace("__", "."): value for name, value in values.items()}
  texts = {name: str(value) for name, value in (base | values).items()}
  return config_lib.validate(config_lib.override(Config(), texts))


class Tiny(models.Network):
  """Uses all that a network is given, and compiles at once."""

  @nn.compact
  def __call__(self, images, *, train, example_keys=None):
    norm_relu, dropout = self.batch_norm_relu(train), self.dropout(example_keys)
    x = images[:, ::8, ::8]
    x = self.convolution(features=4, conv=self.conv, name="slot")(x)
    x = dropout(norm_relu(name="slot_norm")(x), "slot_dropout")
    x = self.max_pool(x).reshape(x.shape[0], -1)
    return self.dense(self.num_classes, name="head")(x)


def test_every_key_is_read_by_somebody(keys_read, tmp_path, monkeypatch):
  monkeypatch.setitem(registry.NETWORKS, "tiny", f"{__name__}:Tiny")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(shapes10, "NUM_TRAIN", 20)
  monkeypatch.setattr(shapes10, "NUM_TEST", 10)
  monkeypatch.setattr(train.jax, "devices", lambda *args: [jax.local_devices()[0]])

  # One whole run, then what the other names build: a key may serve one of them only.
  train.train_and_evaluate(small_config(tmp_path), tmp_path / "run")
  archive = tmp_path / "no_such_archive.tar.gz"
  elsewhere = {"data__dataset": "cifar10", "data__archive": archive}
  with pytest.raises(UserError, match="no_such_archive"):
    Trainer(small_config(tmp_path / "elsewhere", **elsewhere))
  for name, schedule in itertools.zip_longest(
    config_lib.OPTIMIZERS, config_lib.SCHEDULES, fillvalue="sgd"
  ):
    config = small_config(tmp_path, optimizer__name=name, schedule__name=schedule)
    optimizer.create_optimizer(config, optimizer.create_schedule(config, 5))

  assert set(config_lib.fields()) - keys_read == set()
