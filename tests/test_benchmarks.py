"""The benchmarks: what they compute, how they keep time, that peers do the same."""

import contextlib
import importlib.util
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

from benchmarks import comparison, networks, statistics, workers
from benchmarks.__main__ import main
from benchmarks.comparison import Budget, Comparison, Job, compare
from benchmarks.peers import fixed_batch, load_config
from benchmarks.statistics import Bound, median_interval
from benchmarks.tables import Options, throughput
from benchmarks.workers import Absent
from cifar_flax import models, steps
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


def test_a_bound_is_reached_when_the_interval_reaches_it():
  assert Bound(1.0, 1.5).verdict(statistics.Interval(0.98, 0.95, 1.02)) == (
    "reach >= 1 reached, aim >= 1.5 missed"
  )
  at_most = Bound(1.05, at_most=True)
  assert (
    at_most.verdict(statistics.Interval(1.08, 1.04, 1.1)) == "reach <= 1.05 reached"
  )
  assert at_most.verdict(statistics.Interval(1.08, 1.06, 1.1)) == "reach <= 1.05 missed"
  assert at_most.verdict(None) == "reach <= 1.05 open"


def test_a_comparison_takes_ratios_window_by_window():
  result = Comparison({"ours": [1.0, 2.0], "peer": [3.0, 2.0, 9.0], "slow": [9.0]})
  assert result.best(("peer", "slow", "absent")) == "peer"
  assert result.verdict("peer", "ours", Bound(1.0)) == [
    "2.00 [-]",
    "2",
    "reach >= 1 open",
  ]
  assert result.verdict("absent", "ours") == ["-", "0"]
  assert result.cells(["ours", "absent"], lambda s: f"{s} s") == ["1.5 s*", "-"]
  assert result.rates(["peer"], 6) == ["2*"]
  six = Comparison({"ours": [1.0] * 6, "peer": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]})
  cells = ["1.25 [1.00, 1.50]", "6", "reach >= 1 reached"]
  assert six.verdict("peer", "ours", Bound(1.0)) == cells


def test_a_table_is_the_same_as_text_and_as_markdown():
  table = Table("1. Title", ["network", "ours"], [["net6b", "12"]])
  table.note("once", row="net6b")
  table.note("once", row="net6b")
  assert table.text() == (
    "1. Title\nnetwork  ours\n-------------\nnet6b      12\n- net6b: once\n"
  )
  rows = "| network | ours |\n| ------- | ---- |\n| net6b | 12 |"
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
  facts = worker.prepare(10, "nap", seconds=0.01, multiple=2)
  assert facts["multiple"] == 2 and facts["size"] == 7
  assert facts["seconds"] == pytest.approx(0.01, rel=0.5)
  assert 0.2 <= worker.run(20) < 0.4
  assert worker.peak_bytes() > 1e6
  used = worker.cpu_seconds()
  assert used > 0
  time.sleep(0.3)
  assert worker.cpu_seconds() - used <= 0.01


def test_a_worker_says_why_in_one_line(toys):
  worker = toys["toy_peer:Toy"]
  with pytest.raises(Absent, match="^toy_peer:Toy: RuntimeError: no such thing$"):
    worker.prepare(10, "fail")
  with pytest.raises(Absent, match="AttributeError: .* no attribute 'dance'"):
    worker.prepare(10, "dance")
  with pytest.raises(Absent, match="no answer in 0 s"):
    worker.prepare(0.2, "nap", seconds=60)
  with pytest.raises(Absent, match="no answer in 0 s"):
    worker.run(1)


def test_a_worker_that_dies_leaves_its_last_words(toys):
  with pytest.raises(Absent, match="ended by itself: exit code 1: last words"):
    toys["toy_peer:Toy"].prepare(10, "die")


class Clocked:
  """A worker whose time is a number: `seconds` a step, `idle` of a core when idle."""

  now = 0.0

  def __init__(self, seconds, multiple=1, idle=0.0):
    self.seconds, self.multiple, self.idle = seconds, multiple, idle
    self.asked, self.order = [], []

  def prepare(self, timeout, what, **arguments):
    Clocked.now += 1.0
    if what == "fail":
      raise Absent("why")
    return {"seconds": self.seconds, "multiple": self.multiple}

  def run(self, steps):
    Clocked.now += steps * self.seconds
    self.asked.append((Clocked.now, steps))
    return steps * self.seconds

  def cpu_seconds(self):
    return self.idle * Clocked.now


def compared(monkeypatch, workers, seconds, share=1.0, **options):
  monkeypatch.setattr(comparison, "SETTLE_SECONDS", 0.0)
  jobs = {name: Job(worker, "work", {}) for name, worker in workers.items()}
  budget = Budget(seconds, lambda: Clocked.now)
  return compare(jobs, budget, share, **options)


def test_jobs_take_turns_as_long_as_the_share_lasts(monkeypatch):
  workers = {"ours": Clocked(0.25, multiple=4), "peer": Clocked(0.5, multiple=5)}
  result = compared(monkeypatch, workers, 1000, share=0.15)
  # 20 steps are the least that both can, 5 s and 10 s; 148 s are left to do them.
  assert [len(windows) for windows in result.seconds.values()] == [9, 9]
  assert {steps for w in workers.values() for _, steps in w.asked} == {20}
  turns = [[time for time, _ in worker.asked] for worker in workers.values()]
  firsts = [a < b for a, b in zip(*turns, strict=True)]
  assert True in firsts and False in firsts  # who begins changes
  ours, peer = turns
  assert all(max(ours[i], peer[i]) < min(ours[i + 1], peer[i + 1]) for i in range(8))
  assert result.verdict("peer", "ours")[0] == "2.00 [2.00, 2.00]"
  assert result.notes == []


def test_short_steps_fill_the_seconds_of_a_window(monkeypatch):
  worker = Clocked(0.001)
  compared(monkeypatch, {"ours": worker}, 1000, window_seconds=0.5)
  assert {steps for _, steps in worker.asked} == {500} and len(worker.asked) == 12


def test_the_slow_are_let_go_where_time_is_short(monkeypatch):
  workers = {"ours": Clocked(3.0), "peer": Clocked(1.0), "near": Clocked(1.4)}
  workers |= {"slow": Clocked(2.0), "hopeless": Clocked(40.0)}
  result = compared(monkeypatch, workers, 10_000, share=0.03)
  assert {name: len(windows) for name, windows in result.seconds.items()} == {
    "ours": 6,
    "peer": 6,
    "near": 6,
    "slow": 1,
  }
  shown = result.cells(["near", "slow", "hopeless", "absent"], str)
  assert shown == ["1.4", "2.0*", "~40.0", "-"]


def test_no_interval_where_the_budget_ends(monkeypatch):
  workers = {"ours": Clocked(1.0), "peer": Clocked(1.0)}
  result = compared(monkeypatch, workers, 121.0)  # 2 s and 6 windows of 20 s: 122 s
  assert [len(windows) for windows in result.seconds.values()] == [1, 1]
  left = "stopped after 1 windows: the rest takes 100 s, 99 s are left"
  assert result.notes == [left]
  assert result.verdict("peer", "ours", Bound(1.0))[2] == "reach >= 1 open"


def test_who_dies_keeps_what_was_measured(monkeypatch):
  class Dying(Clocked):
    def run(self, steps):
      if len(self.asked) == 2:
        raise Absent("has died")
      return super().run(steps)

  result = compared(monkeypatch, {"ours": Clocked(1.0), "peer": Dying(1.0)}, 200)
  assert len(result.seconds["peer"]) == 2 and len(result.seconds["ours"]) >= 6
  assert result.notes == ["has died"]
  assert result.cells(["peer"], str) == ["1.0*"]


def test_nothing_is_prepared_without_time(monkeypatch):
  worker = Clocked(1.0)
  result = compared(monkeypatch, {"ours": worker}, 0.0)
  assert result.notes == ["left out for want of time"]
  assert not result.facts and not worker.asked


def test_who_fails_or_does_not_keep_still_is_named(monkeypatch):
  workers = {"ours": Clocked(1.0), "peer": Clocked(1.0, idle=0.5), "other": Clocked(1)}
  monkeypatch.setattr(comparison, "SETTLE_SECONDS", 0.0)
  jobs = {name: Job(worker, "work", {}) for name, worker in workers.items()}
  jobs["other"] = jobs["other"]._replace(what="fail")
  result = compare(jobs, Budget(1000, lambda: Clocked.now))
  assert list(result.seconds) == ["ours", "peer"] or list(result.seconds) == [
    "peer",
    "ours",
  ]
  assert result.notes == ["why", "peer used 50% of a core while others ran"]


def test_rows_without_time_are_named():
  now = iter([0, 1, 2, 95, 96]).__next__
  table = Table("", [])
  rows = comparison.affordable(["a", "b", "c", "d"], Budget(100, now), table, 10)
  assert list(rows) == [("a", 1 / 4), ("b", 1 / 3)]
  assert table.notes == ["left out for want of time: c; d"]


def test_two_tables_of_a_tiny_run(monkeypatch, capsys, tmp_path):
  monkeypatch.setenv("XLA_FLAGS", "")  # one device
  monkeypatch.setattr(throughput, "BATCH", 8)
  monkeypatch.setattr(comparison, "MAX_WINDOWS", 1)
  file = tmp_path / "table.md"
  flags = "--tables=1,6 --nets=net6a --peers=ours --dtype=float32 --batches=4"
  assert main([*flags.split(), f"--output={file}"]) == 0
  text = capsys.readouterr().out
  rates = re.findall(r"^net6a +(train|infer) +([0-9,]+)\* ", text, re.MULTILINE)
  assert [what for what, _ in rates] == ["train", "infer"]
  assert "ours: jax " in text and "CPU: " in text and "python 3." in text
  assert f"| net6a | train | {rates[0][1]}* | - | - | 0 | reach" in file.read_text()
  sizes = re.findall(r"^net6a +([0-9]+) +([0-9,]+)\* +- ", text, re.MULTILINE)
  assert [size for size, _ in sizes] == ["4"]


def test_inference_has_a_quarter_of_the_time_of_each_network(monkeypatch):
  """Of two networks, training takes all that it may: 3/8, 1/8, 3/8, 1/8."""
  now, parts = [0.0], []

  def spend(workers, what, task, budget, share):
    parts.append((task["net"], what, budget.left() * share))
    now[0] += parts[-1][2]
    return Comparison()

  monkeypatch.setattr(throughput, "compare_peers", spend)
  monkeypatch.setattr(throughput, "started", lambda *_: contextlib.nullcontext({}))
  options = Options(("net6a", "net6b"), ("ours",), "float32", "")
  throughput.make(options, Budget(800, lambda: now[0]))
  assert parts == [
    ("net6a", "train", pytest.approx(300)),
    ("net6a", "infer", pytest.approx(100)),
    ("net6b", "train", pytest.approx(300)),
    ("net6b", "infer", pytest.approx(100)),
  ]


@pytest.mark.parametrize(
  "flag, message",
  [
    ("--nets=net6", "--nets='net6': must be of net6b, .*; did you mean 'net6"),
    ("--peers=ours,tensorflow", "--peers='tensorflow': must be of ours, lax, "),
    ("--tables=8", "--tables='8': must be of 1, 2, 3, "),
    ("--batches=64,0", "--batches='0': must be integers >= 1"),
    ("--tables=1 --batches=8", "--batches='8': is for table 6"),
    ("--batches=big", "--batches='big': must be integers >= 1"),
    ("--minutes=0", "--minutes=0.0: must be > 0"),
    ("--minutes=long", "--minutes: invalid float value: 'long'"),
  ],
)
def test_a_wrong_flag_is_answered_in_one_line(flag, message, capsys):
  assert main(flag.split()) == 2
  assert re.fullmatch(f"error: .*{message}.*\n", capsys.readouterr().err)


def random_variables(network):
  """Every number another, in the order in which the network makes them."""
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
  """A network's layers, variables, input, and what it makes of them, in float64."""
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
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")  # PyTorch's word
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
  # Its variance is the sample's, n / (n - 1) times ours.
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
  # Its BatchNorm rounds to float32 on the way: hence the wider tolerance.
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
