"""Tests of the benchmarks: statistics, workers, tables, and equality of the peers."""

import contextlib
import dataclasses
import importlib.util
import inspect
import math
import pathlib
import re
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax.traverse_util import flatten_dict, unflatten_dict

from benchmarks import comparison, networks, statistics, tables, workers
from benchmarks.__main__ import main
from benchmarks.comparison import Comparison, Measurement, compare, compare_peers
from benchmarks.peers import fixed_batch, load_config
from benchmarks.peers.ours import Ours as PeerOfOurs
from benchmarks.statistics import median_interval
from benchmarks.tables import (
  Options,
  convolutions,
  epoch,
  evaluation_batch,
  startup,
  throughput,
)
from benchmarks.workers import Absent
from cifar_flax import models, optimizer, steps
from cifar_flax.run import provenance
from cifar_flax.tables import Table

TESTS = str(pathlib.Path(__file__).parent)


def test_six_windows_give_lowest_and_highest():
  assert median_interval([3.0, 1.0, 2.0, 6.0, 5.0, 4.0]) == (3.5, 1.0, 6.0)
  assert median_interval([1.0] * 5) is None


@pytest.mark.parametrize("n", [6, 8, 9, 12, 30])
def test_interval_is_scipys_sign_test_interval(n):
  values = np.random.default_rng(n).lognormal(size=n)
  sample = scipy.stats.quantile_test(values, p=0.5).confidence_interval(0.95)
  assert median_interval(values)[1:] == pytest.approx((sample.low, sample.high))


@pytest.mark.parametrize("n", [6, 7, 11])
def test_interval_covers_the_median_of_a_skewed_distribution(n):
  samples = np.random.default_rng(0).exponential(size=(4000, n))
  intervals = np.asarray([median_interval(sample)[1:] for sample in samples])
  covered = (intervals[:, 0] <= math.log(2)) & (math.log(2) <= intervals[:, 1])
  assert 0.94 < covered.mean() < 0.99


def test_a_median_is_shown_with_its_interval_if_there_is_one():
  assert statistics.show([3.0, 1.0, 2.0, 6.0, 5.0, 4.0], 1) == "3.5 [1.0, 6.0]"
  assert statistics.show([1.0, 2.0], 2) == "1.50"


def test_a_speedup_is_the_median_of_the_ratios_of_each_window():
  slower, ours = [1.0, 1.1, 1.2, 1.3, 1.4, 3.0], [1.0, 1.0, 1.0, 1.0, 1.0, 2.0]
  result = Comparison({"ours": ours, "peer": slower, "slow": [9.0] * 6})
  assert result.best(("slow", "peer", "absent")) == "peer"
  assert result.best(("absent",)) is None
  assert result.speedup("ours", over="peer") == ["1.25 [1.00, 1.50]", "6"]
  assert result.speedup("peer", over="ours") == ["0.80 [0.67, 1.00]", "6"]
  assert result.speedup("ours", over=None) == ["-", "0"]
  assert result.speedup("absent", over="ours") == ["-", "0"]
  assert result.cells(["slow", "absent"], lambda s: f"{s} s") == ["9.0 s", "-"]
  assert result.rates(["peer", "absent"], 2500) == ["2,000", "-"]


def test_few_windows_give_no_interval():
  result = Comparison({"ours": [1.0] * 5, "peer": [2.0] * 5})
  assert result.speedup("ours", over="peer") == ["2.00", "5"]


def test_a_table_is_the_same_as_text_and_as_markdown():
  table = Table("1. Title", ["network", "ours"], [["net6b", "12"]])
  table.note("once", row="net6b")
  table.note("once", row="net6b")
  assert table.text() == (
    "1. Title\nnetwork  ours\n-------------\nnet6b      12\n- net6b: once\n"
  )
  rows = "| network | ours |\n|---|---|\n| net6b | 12 |"
  assert table.markdown() == f"## 1. Title\n\n{rows}\n\n- net6b: once\n"


@pytest.fixture
def toys(monkeypatch):
  monkeypatch.setenv("PYTHONPATH", TESTS)
  monkeypatch.setenv("TOY", "house")
  names = ["toy_peer:Toy", "toy_peer:Missing"]
  said = []
  with workers.started(names, said.append) as started:
    assert said == [
      "toy_peer:Missing: ModuleNotFoundError: No module named 'no_such_package'"
    ]
    yield started


def test_a_worker_answers_works_and_waits(toys):
  worker = toys["toy_peer:Toy"]
  assert worker.about == "toy house"
  facts = worker.prepare("nap", {"seconds": 0.01, "multiple": 2})
  assert facts["multiple"] == 2 and facts["size"] == 7
  assert facts["seconds"] == pytest.approx(0.01, rel=0.5)
  assert 0.2 <= worker.run(20) < 0.4
  used = worker.cpu_seconds()
  assert used > 0
  time.sleep(0.3)
  assert worker.cpu_seconds() - used <= 0.01


def test_a_worker_says_why_in_one_line(toys):
  worker = toys["toy_peer:Toy"]
  with pytest.raises(Absent, match="^toy_peer:Toy: RuntimeError: no such thing$"):
    worker.prepare("fail", {})
  with pytest.raises(Absent, match="AttributeError: .* no attribute 'dance'"):
    worker.prepare("dance", {})
  with pytest.raises(Absent, match="stopped, since it did not answer within 0.2 s"):
    worker.prepare("nap", {"seconds": 60}, timeout=0.2)
  with pytest.raises(Absent, match="did not answer within 0.2 s"):
    worker.run(1)


def test_a_worker_that_dies_leaves_its_last_words(toys):
  with pytest.raises(Absent, match="toy_peer:Toy: exited with code 1: last words"):
    toys["toy_peer:Toy"].prepare("die", {})


class Clocked:
  """A worker whose time is a number: `seconds` a step, `idle` of a core when idle."""

  now = 0.0

  def __init__(self, seconds, multiple=1, idle=0.0):
    self.seconds, self.multiple, self.idle = seconds, multiple, idle
    self.prepared, self.windows = [], []

  def prepare(self, method, arguments):
    if method == "fail":
      raise Absent("why")
    self.prepared.append((method, arguments))
    return {"seconds": self.seconds, "multiple": self.multiple}

  def run(self, steps):
    Clocked.now += steps * self.seconds
    self.windows.append((Clocked.now, steps))
    return steps * self.seconds

  def cpu_seconds(self):
    return self.idle * Clocked.now


class Dying(Clocked):
  def run(self, steps):
    if len(self.windows) == 2:
      raise Absent("has died")
    return super().run(steps)


@pytest.fixture
def at_once(monkeypatch):
  monkeypatch.setattr(comparison, "SETTLE_SECONDS", 0.0)


def compared(workers, windows=6, **options):
  return compare_peers(workers, "work", {"net": "net6a"}, windows, **options)


def test_all_make_the_same_windows_in_shuffled_turns(at_once):
  workers = {"ours": Clocked(0.25, multiple=4), "peer": Clocked(0.5, multiple=5)}
  result = compared(workers, windows=9)
  assert {steps for w in workers.values() for _, steps in w.windows} == {20}
  ours, peer = ([time for time, _ in worker.windows] for worker in workers.values())
  assert len(ours) == len(peer) == 9
  assert (
    len({a < b for a, b in zip(ours, peer, strict=True)}) == 2
  )  # who begins changes
  assert all(max(ours[i], peer[i]) < min(ours[i + 1], peer[i + 1]) for i in range(8))
  assert result.seconds == {"ours": [0.25] * 9, "peer": [0.5] * 9}
  assert result.speedup("ours", over="peer") == ["2.00 [2.00, 2.00]", "9"]
  assert workers["ours"].prepared == [("work", {"net": "net6a"})]
  assert result.notes == []


@pytest.mark.parametrize(
  "multiples, steps", [((1, 1), 500), ((8, 1), 504), ((6, 4), 504), ((1000, 1), 1000)]
)
def test_the_fastest_fills_the_seconds_of_a_window(at_once, multiples, steps):
  workers = {"ours": Clocked(0.001, multiples[0]), "peer": Clocked(3.0, multiples[1])}
  compared(workers, window_seconds=0.5)
  assert {n for w in workers.values() for _, n in w.windows} == {steps}


def test_who_dies_is_absent_and_named(at_once):
  workers = {"ours": Clocked(1.0), "peer": Dying(1.0), "other": Clocked(2.0)}
  result = compared(workers)
  assert result.seconds == {"ours": [1.0] * 6, "other": [2.0] * 6}
  assert result.notes == ["has died"]
  assert result.cells(["peer"], str) == ["-"]


def test_who_cannot_be_prepared_is_absent_and_named(at_once):
  workers = {"ours": Clocked(1.0), "peer": Clocked(0.1)}
  measurements = {
    "ours": Measurement(workers["ours"], "work", {}),
    "peer": Measurement(workers["peer"], "fail", {}),
  }
  result = compare(measurements, windows=2)
  assert result.seconds == {"ours": [1.0, 1.0]} and result.notes == ["why"]
  assert not workers["peer"].windows
  assert compare({"peer": measurements["peer"]}, windows=2).seconds == {}


def test_who_does_not_keep_still_is_named(at_once):
  workers = {"ours": Clocked(1.0, idle=0.01), "peer": Clocked(1.0, idle=0.5)}
  assert compared(workers).notes == ["peer used 50% of a core while another one ran"]


SECONDS = {"ours": 0.5, "torch": 1.0, "keras": 2.0, "trainer": 0.5, "fixed batch": 0.4}
SECONDS |= {"32": 0.5, "64": 0.5, "128": 0.5, "512": 2.0}
OPTIONS = Options(("net6a",), ("ours", "torch", "keras"), "float32", "folder", 6)


@pytest.fixture
def asked(at_once, monkeypatch):
  """Replaces all workers by clocked ones; collects what they are asked to prepare."""
  prepared = []

  @contextlib.contextmanager
  def started(names, report):
    workers = {name: Clocked(SECONDS[name]) for name in names}
    yield workers
    prepared.extend(call for worker in workers.values() for call in worker.prepared)

  for module in (throughput, convolutions, epoch, evaluation_batch):
    monkeypatch.setattr(module, "started", started)
  return prepared


@pytest.mark.parametrize(
  "number, methods",
  [
    ("1", {"train", "infer"}),
    ("2", {"convolution", "block"}),
    ("3", {"epoch", "train", "evaluate", "infer"}),
    ("5", {"infer"}),
  ],
)
def test_tables_ask_for_methods_of_the_peers(number, methods, asked):
  for table in tables.make(number, OPTIONS):
    assert table.rows
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert {row[-1] for row in table.rows} == {"6"}
  assert {method for method, _ in asked} == methods
  for method, arguments in asked:
    inspect.signature(getattr(PeerOfOurs, method)).bind(None, **arguments)


def test_throughput_is_compared_with_the_best_peer(asked):
  (table,) = tables.make("1", OPTIONS)
  train = ["256", "128", "64", "torch", "2.00 [2.00, 2.00]", "6"]
  # Each step takes as long, with 64 images in ours and the fastest batch in the others.
  infer = ["128", "512", "256", "torch", "0.25 [0.25, 0.25]", "6"]
  assert table.rows == [["net6a", "train", *train], ["net6a", "infer", *infer]]
  assert "net6a infer: batch ours 64, torch 512, keras 512" in table.notes


def test_convolutions_are_compared_with_the_best_rate(asked):
  types, single = tables.make("2", OPTIONS)
  shares = [row[2] for row in single.rows]
  assert max(shares, key=lambda share: int(share[:-1])) == "100%"
  # 2 operations * 128 images * 32 features * 32 * 32 pixels * 3 * 3 * 3 = 0.226e9
  first = ["3x3 3->32, 32x32 SAME", "forward", shares[0], "500.00 (0)", "1000.00 (0)"]
  assert single.rows[0] == [*first, "2.00 [2.00, 2.00]", "6"]
  assert convolutions.CASES[0].gflop() == pytest.approx(0.226, abs=5e-4)
  row = ["plain", "15x15x64", "500.00", "1000.00", "2.00 [2.00, 2.00]", "6"]
  assert types.rows[0] == row and len(types.rows) == 6


def test_batches_of_inference_are_compared_by_image(asked):
  (table,) = tables.make("5", OPTIONS)
  assert table.rows == [
    ["net6a", "32", "64", "0.25 [0.25, 0.25]", "6"],
    ["net6a", "64", "128", "0.50 [0.50, 0.50]", "6"],
    ["net6a", "128", "256", "1.00 [1.00, 1.00]", "6"],
    ["net6a", "512", "256", "1.00 [1.00, 1.00]", "6"],
  ]


def test_the_trainer_is_compared_with_a_fixed_batch(asked):
  (table,) = tables.make("3", OPTIONS)
  ratio = ["0.80 [0.80, 0.80]", "6"]
  assert table.rows == [
    ["net6a", "train", "256", "320", *ratio],
    ["net6a", "eval", "128", "160", *ratio],
  ]


def test_the_first_start_fills_the_caches(monkeypatch):
  folders, seconds = [], iter([15.0, 3.0, 1.0, 2.0, 6.0, 5.0, 4.0])

  def start(net, options, folder):
    folders.append((net, folder))
    return next(seconds)

  monkeypatch.setattr(startup, "_start", start)
  (table,) = tables.make("4", OPTIONS)
  assert table.rows == [["net6a", "15.0", "3.5 [1.0, 6.0]", "6"]]
  assert len(folders) == 7 and len(set(folders)) == 1


def test_a_start_that_fails_says_why():
  (table,) = tables.make("4", dataclasses.replace(OPTIONS, nets=("no_such",)))
  failed = "no_such: the run ended before its first step: error: .*no_such"
  assert table.rows == [] and re.match(failed, table.notes[-1])


@pytest.mark.full
def test_a_table_of_a_tiny_run(monkeypatch, capsys, tmp_path):
  monkeypatch.setenv("XLA_FLAGS", "")  # one device
  monkeypatch.setattr(throughput, "BATCH", 8)
  file = tmp_path / "table.md"
  flags = "--tables=1 --nets=net6a --peers=ours --dtype=float32 --windows=1"
  assert main([*flags.split(), f"--output={file}"]) == 0
  text = capsys.readouterr().out
  rates = re.findall(r"^net6a +(train|infer) +([0-9,]+) ", text, re.MULTILINE)
  assert [what for what, _ in rates] == ["train", "infer"]
  assert "ours: jax " in text and "python 3." in text
  assert f"CPU: {provenance.processor()}, " in text
  assert f"| net6a | train | {rates[0][1]} | - | - | 0 |" in file.read_text()


@pytest.mark.parametrize(
  "flag, message",
  [
    ("--nets=net6", "--nets='net6': must be one of net6b, .*; did you mean 'net6"),
    ("--peers=ours,tensorflow", "--peers='tensorflow': must be one of ours, lax, "),
    ("--tables=6", "--tables='6': must be one of 1, 2, 3, 4, 5"),
    ("--dtype=float", "--dtype='float': must be one of float32, bfloat16"),
    ("--windows=0", "--windows=0: must be an integer >= 1"),
    ("--windows=many", "--windows: invalid int value: 'many'"),
  ],
)
def test_a_wrong_flag_is_answered_in_one_line(flag, message, capsys):
  assert main(flag.split()) == 2
  assert re.fullmatch(f"error: .*{message}.*\n", capsys.readouterr().err)


def random_variables(network):
  """Returns random variables, in the order in which the network makes them."""
  order = []

  def init(key, images):
    variables = network.init(key, images, train=False)
    order.extend(flatten_dict(variables))
    return variables

  images = jnp.zeros((1, 32, 32, 3))
  shapes = flatten_dict(jax.eval_shape(init, jax.random.key(0), images))
  rng, values = np.random.default_rng(0), {}
  for path in order:
    shape, positive = shapes[path].shape, path[-1] in ("scale", "var")
    spread = math.prod(shape[:-1]) ** -0.5 if path[-1] == "kernel" else 0.2
    values[path] = positive + 2 * spread * rng.uniform(-1, 1, shape)
  return values


@pytest.fixture(params=networks.LAYERS, scope="module")
def ours(request):
  """A network's layers, variables, input, outputs and gradients, in float64."""
  with jax.enable_x64(True):
    return compute_ours(request.param)


def compute_ours(net):
  config = load_config(net, dtype="float64").model
  config.ops, config.dropout_rate, config.dense_dropout_rate = "lax", 0.0, 0.0
  network = models.create(config, 10)
  values = random_variables(network)
  variables = {"batch_stats": {}} | unflatten_dict(values)
  images, labels = fixed_batch(2)
  x = images / 255

  @jax.jit
  def evaluate(variables):
    def loss_fn(params):
      every = variables | {"params": params}
      logits, new = network.apply(every, x, train=True, mutable=["batch_stats"])
      return steps.cross_entropy(logits, labels, 0.0).mean(), new

    logits = network.apply(variables, x, train=False)
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    return logits, *gradient(variables["params"])

  logits, (loss, new), grads = evaluate(variables)
  params = {path: v for path, v in values.items() if path[0] == "params"}
  stats = {path: v for path, v in values.items() if path[0] == "batch_stats"}
  new = [flatten_dict(new)[path] for path in stats]
  grads = [flatten_dict(grads)[path[1:]] for path in params]
  layers = networks.LAYERS[net](config)
  params, stats = list(params.values()), list(stats.values())
  return Ours(layers, params, stats, x, labels, logits, loss, grads, new)


class Ours(NamedTuple):
  layers: list
  params: list
  stats: list
  x: np.ndarray
  labels: np.ndarray
  logits: jax.Array
  loss: jax.Array
  grads: list
  new_stats: list  # mean, variance, mean, ... after the training step


def assert_close(actual, expected, tolerance=1e-10):
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=tolerance)


def needs(package):
  absent = importlib.util.find_spec(package) is None
  return pytest.mark.skipif(absent, reason=f"{package} is not installed: extra 'bench'")


@needs("torch")
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")  # from PyTorch
def test_pytorch_computes_the_same(ours):
  import torch

  from benchmarks.peers import pytorch

  net = pytorch.build(ours.layers, (3, 32, 32)).double()
  features = next((p.shape[1] for p in net.parameters() if p.ndim == 2), None)

  def to_torch(value):
    if value.ndim == 4:
      return value.transpose(3, 2, 0, 1)
    if value.ndim == 2 and value.shape[0] == features:  # flattened in another order
      value = value.reshape(2, 2, -1, value.shape[1]).transpose(2, 0, 1, 3)
      value = value.reshape(features, -1)
    return value.T

  def copy(tensors, values):
    for tensor, value in zip(tensors, values, strict=True):
      tensor.data.copy_(torch.from_numpy(to_torch(np.asarray(value)).copy()))

  copy(net.parameters(), ours.params)
  stats = [b for b in net.buffers() if b.is_floating_point()]
  copy(stats, ours.stats)
  x = torch.from_numpy(ours.x).permute(0, 3, 1, 2)
  assert_close(net.eval()(x).detach(), ours.logits)
  labels = torch.from_numpy(ours.labels).long()
  loss = torch.nn.functional.cross_entropy(net.train()(x), labels)
  # PyTorch's variance is the sample variance, n / (n - 1) times ours.
  for mean, expected in zip(stats[::2], ours.new_stats[::2], strict=True):
    assert_close(mean, expected)
  assert_close(loss.detach(), ours.loss)
  loss.backward()
  for parameter, grad in zip(net.parameters(), ours.grads, strict=True):
    assert_close(parameter.grad, to_torch(np.asarray(grad)))


@needs("tensorflow")
@needs("keras")
def test_keras_computes_the_same(ours):
  import tensorflow as tf

  from benchmarks.peers import keras

  keras.keras.config.set_dtype_policy("float64")
  # Keras's BatchNorm rounds to float32 inside, which takes a wider tolerance.
  model = keras.build(ours.layers, (32, 32, 3))
  stats = [v for v in model.non_trainable_variables if "moving" in v.path]
  variables = [*model.trainable_variables, *stats]
  for variable, value in zip(variables, [*ours.params, *ours.stats], strict=True):
    variable.assign(value.reshape(variable.shape))  # a depthwise kernel has more axes
  assert_close(model(ours.x, training=False), ours.logits, 1e-6)
  with tf.GradientTape() as tape:
    logits = model(ours.x, training=True)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(ours.labels, logits)
    loss = tf.reduce_mean(losses)
  assert_close(loss, ours.loss, 1e-6)
  for mean, expected in zip(stats[::2], ours.new_stats[::2], strict=True):
    assert_close(mean, expected, 1e-6)
  grads = tape.gradient(loss, model.trainable_variables)
  for grad, expected in zip(grads, ours.grads, strict=True):
    assert_close(np.reshape(grad, expected.shape), expected, 1e-6)


@needs("tensorflow")
@needs("keras")
def test_the_original_in_keras_has_the_published_rates():
  from benchmarks import keras_original

  config = load_config("net6b")
  schedule = keras_original.make_schedule(config).schedule
  rate, rates = np.float32(config.schedule.learning_rate), []
  for number in range(50):
    rate = np.float32(schedule(number, float(rate)))  # Keras keeps it in a variable
    rates.append(rate)
  wanted = optimizer.keras_staircase(0.003, 0.9, 2, 0.0005, 50)
  np.testing.assert_array_equal(rates, np.float32(wanted))
