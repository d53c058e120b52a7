"""A run, whole: on any number of devices, cut anywhere, stopped and resumed."""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import shutil
import signal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

from cifar_flax import config as config_lib
from cifar_flax import registry, steps, train, trainer
from cifar_flax.data import datasets
from cifar_flax.errors import Diverged, Stopped, UserError
from cifar_flax.run import checkpoints, lock, observers, provenance
from cifar_flax.tools import trained as trained_lib


def random_split(n, seed):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 10, n).astype(np.int32)
  images = rng.integers(0, 256, (n, 32, 32, 3))
  images[..., 0] = 25 * labels[:, None, None]  # something to learn
  return datasets.Split(images.astype(np.uint8), labels)


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch):
  classes = tuple("0123456789")
  info = datasets.Info("cifar10", "3.0.2", 0, "fingerprint", classes)
  dataset = datasets.Dataset(random_split(72, 0), random_split(50, 1), info)
  monkeypatch.setattr(datasets, "load", lambda config: dataset)
  monkeypatch.setitem(registry.NETWORKS, "tiny", "tiny:Tiny")
  return dataset


def make_config(**assignments):
  """Everything random is on: augmentation, dropout, order; BatchNorm as well."""
  values = {
    "model.name": "tiny",
    "model.dropout_rate": 0.2,
    "augmentation.zoom": 0.15,
    "augmentation.flip": True,
    "augmentation.crop_padding": 2,
    "augmentation.cutout": 8,
    "batch_size": 16,
    "eval_batch_size": 20,
    "num_epochs": 2,
    "checkpoint.min_seconds": 0.0,
    "schedule.learning_rate": 0.003,
  } | {name.replace("__", "."): value for name, value in assignments.items()}
  texts = {name: str(value) for name, value in values.items()}
  return config_lib.validate(config_lib.override(config_lib.Config(), texts))


def trained(config, num_devices, epochs):
  run = trainer.Trainer(config, jax.devices()[:num_devices])
  run.restore(None)
  for epoch in range(epochs):
    list(run.train_epoch())
    run.history.append({"epoch": epoch + 1})
  return run


def tensors(run):
  """Every array of the state by its path, on the host."""
  tree = jax.device_get(run.state)
  return {
    jax.tree_util.keystr(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def assert_equal_bits(one, other):
  assert one.keys() == other.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_any_number_of_devices_makes_the_same_run():
  config = make_config(model__dtype="float64", ema_decay=0.9)
  with jax.enable_x64(True):
    runs = {n: trained(config, n, epochs=13) for n in (1, 2, 4, 8)}
    expected = tensors(runs[1])
    assert expected[".step"] == 52
    for num_devices, run in runs.items():
      for name, tensor in tensors(run).items():
        scale = max(1.0, np.abs(expected[name]).max())
        difference = np.abs(tensor - expected[name]).max()
        tolerance = 1e-5 if ".metrics" in name else 1e-9  # sums in float32
        assert difference <= tolerance * scale, (num_devices, name, difference)


def test_float32_gradients_agree_over_devices():
  # With SGD at rate 1 and no momentum, a step moves the parameters by the gradient.
  plain = {"optimizer__name": "sgd", "optimizer__momentum": 0.0}
  config = make_config(schedule__learning_rate=1.0, batch_size=72, **plain)
  start = tensors(trained(config, 1, epochs=0))
  ends = [tensors(trained(config, n, epochs=1)) for n in (1, 8)]
  names = [name for name in start if name.startswith(".params")]
  gradients = [{name: start[name] - end[name] for name in names} for end in ends]
  largest = max(np.abs(gradient).max() for gradient in gradients[0].values())
  for name in names:
    difference = np.abs(gradients[0][name] - gradients[1][name]).max()
    assert difference <= 1e-5 * largest, name


def test_cutting_an_epoch_differently_changes_no_bit():
  runs = [tensors(trained(make_config(steps_per_dispatch=n), 2, 2)) for n in (0, 1, 3)]
  assert_equal_bits(runs[0], runs[1])
  assert_equal_bits(runs[0], runs[2])


def test_a_dispatch_is_one_step_at_first_and_again_to_see_how_long_it_takes():
  run = trained(make_config(steps_per_dispatch=2, batch_size=9), 1, epochs=0)
  made = [[], []]
  for epoch, progress in enumerate(made):
    progress += [p.step for p in run.train_epoch()]
    run.history.append({"epoch": epoch + 1})
  assert made == [[1, 2, 4, 6, 8], [2, 4, 6, 8]]


def test_a_dispatch_takes_about_two_seconds_and_at_least_a_step():
  length = trainer.CallLength(most=100)
  assert length.steps() == 1
  length.record(1, 30.0)  # compilation
  assert length.steps() == 1
  for num_steps, seconds, expected in ((1, 0.1, 20), (20, 1.0, 40), (40, 1e3, 1)):
    length.record(num_steps, seconds)
    assert length.steps() == expected
  length.record(1, 0.0)
  assert length.steps() == 100


def test_the_first_state_is_what_the_network_makes_of_the_seed():
  config = make_config(seed=2**31 - 1, ema_decay=0.9)
  network = steps.models.create(config.model, 10, steps.AXIS)
  tx = optax.sgd(0.1, momentum=0.9)
  state = steps.create_state(config, network, tx, (32, 32, 3))
  init = jax.jit(lambda key, x: network.init(key, x, train=False))
  variables = init(jax.random.key(2**31 - 1), jnp.zeros((1, 32, 32, 3)))
  found = {"params": state.params, "batch_stats": state.batch_stats}
  jax.tree.map(np.testing.assert_array_equal, found, variables)
  jax.tree.map(np.testing.assert_array_equal, state.ema, variables)
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(state.opt_state))
  leaves = jax.tree.leaves(state)
  assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
  assert len({leaf.ctypes.data for leaf in leaves}) == len(leaves)  # for donation


def test_the_seed_decides_everything():
  runs = [tensors(trained(make_config(seed=s), 1, 1)) for s in (0, 0, 1)]
  assert_equal_bits(runs[0], runs[1])
  kernels = [name for name in runs[0] if name.startswith(".params")]
  kernels = [name for name in kernels if "kernel" in name]
  assert all((runs[0][name] != runs[2][name]).any() for name in kernels)


def test_state_stays_replicated_and_the_step_is_traced_once(monkeypatch):
  calls = []
  original = steps.augmentation.augment
  monkeypatch.setattr(
    steps.augmentation,
    "augment",
    lambda *args: calls.append(1) or original(*args),
  )
  run = trained(make_config(), 8, epochs=3)
  assert len(calls) == 1
  for leaf in jax.tree.leaves(run.state):
    assert leaf.sharding.is_fully_replicated and len(leaf.sharding.device_set) == 8


def test_runs_that_share_a_program_compile_once_and_are_as_by_themselves(monkeypatch):
  calls = []
  original = steps.augmentation.augment
  count = lambda *args: calls.append(1) or original(*args)  # noqa: E731
  monkeypatch.setattr(steps.augmentation, "augment", count)
  changes = (
    {"seed": 0},
    {"seed": 2**31 - 1},
    {"schedule__learning_rate": 0.01},
    {"schedule__name": "one_cycle", "schedule__warmup_epochs": 1.0, "num_epochs": 7},
    {"eval_every": 2, "checkpoint__keep": 3, "name": "another"},
  )
  shared = [tensors(trained(make_config(**change), 2, 2)) for change in changes]
  assert len(calls) == 1
  for change, together in zip(changes, shared, strict=True):
    steps.program_of.cache_clear()
    assert_equal_bits(together, tensors(trained(make_config(**change), 2, 2)))
  assert len(calls) == 1 + len(changes)
  assert all(
    (shared[0][name] != shared[2][name]).any() for name in shared[0] if "kernel" in name
  )
  trained(make_config(label_smoothing=0.1), 2, 1)  # another program
  assert len(calls) == 2 + len(changes)


def test_the_seed_of_a_step_is_an_argument_that_changes_its_keys():
  """One state and the same images; only the seed in the call differs."""
  run = trained(make_config(), 1, epochs=0)
  keys = []
  for seed in (0, 3):
    state = jax.tree.map(np.array, run.state)
    indices = np.arange(16, dtype=np.int32).reshape(1, 1, 16)
    rates = np.float32([0.01])
    made, _ = run.program.train_steps(
      steps.replicate(state, run.devices),
      *run._train,
      *(np.uint32(seed), np.int32(1), rates, indices),
    )
    keys.append(jax.device_get(made.params))
  differ = jax.tree.map(lambda a, b: bool((a != b).any()), *keys)
  assert any(jax.tree.leaves(differ))


class ConstantLogits(nn.Module):
  """Logits that depend on nothing but one parameter."""

  @nn.compact
  def __call__(self, images, *, train, example_keys=None):
    del train, example_keys
    logits = self.param("logits", lambda _: jnp.log(jnp.arange(1.0, 11.0)))
    return jnp.broadcast_to(logits, (images.shape[0], 10))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_metrics_are_numpys(monkeypatch, tiny_data, smoothing):
  monkeypatch.setattr(steps.models, "create", lambda *args: ConstantLogits())
  config = make_config(
    batch_size=24,
    schedule__learning_rate=0.0,
    label_smoothing=smoothing,
    num_epochs=1,
  )
  run = trainer.Trainer(config, jax.devices()[:2])
  run.restore(None)
  *_, metrics = run.train_epoch()
  log_p = np.log(np.arange(1, 11) / 55)  # softmax of log 1..10

  def loss(labels, smoothing):
    return -np.mean((1 - smoothing) * log_p[labels] + smoothing * log_p.mean())

  labels = tiny_data.train.labels
  assert metrics.loss == pytest.approx(loss(labels, smoothing), rel=1e-5)
  assert metrics.accuracy == pytest.approx(np.mean(labels == 9), rel=1e-6)
  result, labels = run.evaluation(), tiny_data.eval.labels
  assert result.loss == pytest.approx(loss(labels, 0.0), rel=1e-5)
  assert result.accuracy == pytest.approx(np.mean(labels == 9), rel=1e-6)


def test_evaluation_counts_every_image_once():
  run = trained(make_config(batch_size=8), 1, epochs=9)
  data = run.dataset.eval
  variables = {"params": run.state.params, "batch_stats": run.state.batch_stats}
  logits = run.program.network.apply(
    jax.device_get(variables), data.images.astype(np.float32) / 255, train=False
  )
  correct = int(np.sum(np.argmax(logits, -1) == data.labels))
  assert 5 < correct < 50  # neither nothing nor everything: a miscount would show
  content = serialization.msgpack_restore(run.snapshot().partition(b"\n")[2])
  for batch_size, num_devices in ((1, 1), (7, 2), (20, 4), (33, 8), (512, 1), (0, 2)):
    config = make_config(batch_size=8, eval_batch_size=batch_size)
    other = trainer.Trainer(config, jax.devices()[:num_devices])
    other.restore(content)
    assert other.evaluation().accuracy * 50 == pytest.approx(correct, abs=1e-4)


def test_with_mirror_images_probabilities_are_the_mean_of_both():
  run = trained(make_config(batch_size=8), 2, epochs=9)
  data = run.dataset.eval
  variables = jax.device_get(
    {"params": run.state.params, "batch_stats": run.state.batch_stats}
  )
  probabilities = []
  for images in (data.images, data.images[:, :, ::-1]):
    pixels = images.astype(np.float32) / 255
    logits = np.float64(run.program.network.apply(variables, pixels, train=False))
    probabilities.append(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
  mean = (probabilities[0] + probabilities[1]) / 2
  result = run.evaluation(flip=True)
  assert result.accuracy == pytest.approx(np.mean(mean.argmax(-1) == data.labels))
  loss = -np.log(mean[np.arange(50), data.labels]).mean()
  assert result.loss == pytest.approx(loss, rel=1e-5)
  assert abs(result.loss - run.evaluation().loss) > 1e-4


def test_evaluation_every_few_epochs_changes_nothing_else(tmp_path):
  always, seldom = tmp_path / "1", tmp_path / "3"
  train.train_and_evaluate(make_config(num_epochs=5), always)
  config = make_config(num_epochs=5, eval_every=3, eval_flip=True)
  summary = train.train_and_evaluate(config, seldom)
  rows, fewer = (
    [json.loads(s) for s in (w / "metrics.jsonl").read_text().splitlines()]
    for w in (always, seldom)
  )
  assert [row["epoch"] for row in fewer if row["eval_loss"] is not None] == [3, 5]
  for row, other in zip(rows, fewer, strict=True):
    assert row["train_loss"] == other["train_loss"]
    assert other["eval_accuracy"] in (row["eval_accuracy"], None)
  assert summary["best_epoch"] in (3, 5)
  assert (seldom / "curves.png").exists()
  flipped = f"with mirror images {summary['flip_eval_accuracy']:.2%}"
  assert flipped in train.evaluate_checkpoint(config, seldom, "last")


def test_a_run_cut_short_is_evaluated_at_its_new_end(tmp_path):
  long = make_config(num_epochs=6, eval_every=4)
  whole = train.train_and_evaluate(make_config(num_epochs=3), tmp_path / "short", [])

  class Stop(observers.Observer):
    def epoch(self, row):
      if row["epoch"] == 3:
        raise Stopped(signal.SIGINT)

  with pytest.raises(Stopped):
    train.train_and_evaluate(long, tmp_path / "long", [Stop()])
  cut = make_config(num_epochs=3, eval_every=4)
  summary = train.train_and_evaluate(cut, tmp_path / "long", [])
  assert summary["final_eval_accuracy"] == whole["final_eval_accuracy"]
  assert summary["best_epoch"] == 3


def test_a_finished_run_is_evaluated_with_mirror_images_when_asked(tmp_path):
  config = make_config(num_epochs=1)
  first = train.train_and_evaluate(config, tmp_path)
  assert first["flip_eval_accuracy"] is None
  config.eval_flip = True
  second = train.train_and_evaluate(config, tmp_path)
  assert second == first | {"flip_eval_accuracy": second["flip_eval_accuracy"]}
  assert 0 <= second["flip_eval_accuracy"] <= 1
  assert json.loads((tmp_path / "summary.json").read_text()) == second


def test_moving_average_of_the_weights_by_hand():
  decay = 0.75
  config = make_config(ema_decay=decay, batch_size=24, num_epochs=1)
  config.steps_per_dispatch = 1
  run = trained(config, 1, epochs=0)
  seen = []
  for _ in run.train_epoch():
    seen.append(tensors(run))
  averages = [name for name in seen[0] if name.startswith(".ema")]
  assert len(averages) == len([n for n in seen[0] if n[1:7] in ("params", "batch_")])
  for t, now in enumerate(seen, start=1):
    # Of the values after the updates 1 ... t; the first ones before them count nothing.
    weights = decay ** np.arange(t - 1, -1, -1.0)
    for name in averages:
      source = name.replace(".ema['params']", ".params")
      source = source.replace(".ema['batch_stats']", ".batch_stats")
      values = np.stack([np.float64(before[source]) for before in seen[:t]])
      expected = np.tensordot(weights, values, 1) / weights.sum()
      np.testing.assert_allclose(now[name], expected, rtol=1e-5, atol=1e-7)
  assert len(seen) == 3


@pytest.mark.parametrize("decay", [0.5, 0.999, 0.99999])
@pytest.mark.parametrize("step", [1, 2, 1000, 10**6])
def test_the_newest_value_weighs_as_in_adams_correction(step, decay):
  expected = (1 - decay) / (1 - decay**step)
  assert steps.ema_weight(np.int32(step), decay) == pytest.approx(expected, rel=1e-5)


def test_it_learns(tmp_path):
  config = make_config(num_epochs=25, schedule__learning_rate=0.01)
  config.augmentation = config_lib.Augmentation()
  summary = train.train_and_evaluate(config, tmp_path, watchers=[])
  assert summary["max_train_accuracy"] > 0.5  # of ten classes


def test_a_resumed_run_is_the_unbroken_run(tmp_path):
  config = make_config(num_epochs=4, ema_decay=0.9)
  train.train_and_evaluate(config, tmp_path / "unbroken", watchers=[])
  for epochs in (1, 3, 4):
    part = dataclasses.replace(config, num_epochs=epochs)
    train.train_and_evaluate(part, tmp_path / "stopped", watchers=[])
  contents = [
    checkpoints.restore(tmp_path / name / "checkpoints", "last")
    for name in ("unbroken", "stopped")
  ]
  states = [serialization.to_bytes(content["state"]) for content in contents]
  assert states[0] == states[1]
  histories = [json.loads(content["run"])["history"] for content in contents]
  clocks = ("seconds", "images_per_second")
  for row in histories[0] + histories[1]:
    assert all(row.pop(clock) > 0 for clock in clocks)
  assert histories[0] == histories[1] and len(histories[0]) == 4


class StopAt:
  """A `signals.Watch` that has received SIGTERM after some dispatches."""

  def __init__(self, dispatches):
    self.left = dispatches

  def defer(self):
    self.left -= 1

  @property
  def signal(self):
    return 15 * (self.left <= 0)


def last(workdir):
  return checkpoints.restore(workdir / "checkpoints", "last")


def test_a_run_stopped_at_any_dispatch_is_the_unbroken_run(tmp_path):
  # A dispatch a step: four of training, three of evaluation, and the last one again.
  config = make_config(ema_decay=0.9, steps_per_dispatch=1, num_epochs=2)
  train.train_and_evaluate(config, tmp_path / "unbroken", watchers=[])
  expected, found = last(tmp_path / "unbroken"), []
  for dispatches in (1, 3, 4, 6, 7, 2, 9):
    workdir = tmp_path / f"stopped{dispatches}"
    for left in (dispatches, 2, 10**6):
      try:
        train.train_and_evaluate(config, workdir, [], stop=StopAt(left))
      except Stopped as stopped:
        assert stopped.signal == 15
        found.append(int(last(workdir)["state"]["step"]))
    content = last(workdir)
    assert serialization.to_bytes(content["state"]) == serialization.to_bytes(
      expected["state"]
    )
    histories = [json.loads(run["run"])["history"] for run in (content, expected)]
    for row in sum(histories, []):
      del row["seconds"], row["images_per_second"]
    assert histories[0] == histories[1]
  assert {1, 2, 3, 4} <= set(found)


def test_every_so_many_steps_there_is_a_checkpoint(tmp_path):
  config = make_config(checkpoint__every_steps=3, checkpoint__keep=100)
  train.train_and_evaluate(config, tmp_path, watchers=[])
  found = checkpoints.saved(tmp_path / "checkpoints")
  assert [int(path.stem[5:]) for path in found[::-1]] == [3, 4, 6, 8]
  expected = tensors(trained(make_config(), 8, 2))
  state = serialization.from_state_dict(
    trained(make_config(), 8, 0).state, checkpoints.read(found[0])["state"]
  )
  for name, tensor in tensors(type("Run", (), {"state": state})).items():
    np.testing.assert_array_equal(tensor, expected[name], err_msg=name)


def test_a_run_that_diverges_is_stopped_and_not_saved(tmp_path):
  # A step multiplies the weights by 1 - 10: beyond float32 after forty or so.
  extreme = {"optimizer__name": "sgd", "optimizer__weight_decay": 1.0}
  config = make_config(schedule__learning_rate=10.0, num_epochs=20, **extreme)
  config.steps_per_dispatch = 1
  run = trained(config, 8, epochs=0)
  with pytest.raises(Diverged, match="not finite .*learning rate 10"):
    while True:
      assert all(np.isfinite(tensor).all() for tensor in tensors(run).values())
      list(run.train_epoch())
      run.history.append({})
  with pytest.raises(Diverged):
    train.train_and_evaluate(config, tmp_path, watchers=[])
  assert_all_saved_is_finite(tmp_path)


def assert_all_saved_is_finite(workdir):
  saved = checkpoints.saved(workdir / "checkpoints")
  assert saved
  for path in (*saved, *(workdir / "checkpoints").glob("best.ckpt")):
    leaves = jax.tree.leaves(checkpoints.read(path)["state"])
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def first_kernel(params):
  return params["stem"]["kernel"]


def planted(tree, leaf, value):
  """`tree` with `value` as the first number of `leaf`."""
  return jax.tree.map(
    lambda x: x.at[(0,) * x.ndim].set(value) if x is leaf else x, tree
  )


# What goes wrong in an update, and what is said of it. A weight of 1e38 is finite, the
# loss that comes of it is not.
PLANTS = {
  "loss": (
    lambda s: s.replace(params=planted(s.params, first_kernel(s.params), 1e38)),
    None,
    "the loss of step {k} is not finite",
  ),
  "parameter": (
    None,
    lambda s: s.replace(params=planted(s.params, first_kernel(s.params), jnp.nan)),
    "the loss of step {after} is not finite",
  ),
  "batch_stats": (
    None,
    lambda s: s.replace(
      batch_stats=planted(s.batch_stats, s.batch_stats["stem_norm"]["mean"], jnp.nan)
    ),
    "a moving average is not finite after steps 3-5 ",
  ),
  "ema": (
    None,
    lambda s: s.replace(ema=planted(s.ema, first_kernel(s.ema["params"]), jnp.inf)),
    "a moving average is not finite after steps 3-5 ",
  ),
}


@pytest.mark.parametrize("where", PLANTS)
@pytest.mark.parametrize("k", [3, 4, 5])  # the first, a middle, the last step of a call
def test_what_is_not_finite_is_found_named_and_never_saved(
  where, k, monkeypatch, tmp_path
):
  before, after, message = PLANTS[where]
  make = steps.make_train_step

  def make_train_step(*args):
    step = make(*args)

    def spoilt(state, *data):
      at_k = lambda change: jax.tree.map(  # noqa: E731
        lambda new, old: jnp.where(at == k, new, old), change(state), state
      )
      at = state.step + 1
      state = at_k(before) if before else state
      state, finite = step(state, *data)
      return (at_k(after) if after else state), finite

    return spoilt

  monkeypatch.setattr(steps, "make_train_step", make_train_step)
  # Calls of 1, 1, 3, ... steps: the first compiles, the second is timed.
  config = make_config(batch_size=8, steps_per_dispatch=3, ema_decay=0.9)
  monkeypatch.setattr(
    trainer.CallLength, "steps", lambda self: 3 if self._calls > 1 else 1
  )
  if where == "parameter" and k == 5:
    message = "a parameter is not finite after step 5 "
  stop = StopAt(2)  # saved after the second call
  with pytest.raises(Stopped):
    train.train_and_evaluate(config, tmp_path, [], stop=stop)
  monkeypatch.setattr(trainer.CallLength, "steps", lambda self: 3)
  with pytest.raises(Diverged, match=message.format(k=k, after=k + 1)):
    train.train_and_evaluate(config, tmp_path, [])
  (path,) = checkpoints.saved(tmp_path / "checkpoints")
  assert path.stem == "step_000000002"
  assert_all_saved_is_finite(tmp_path)


def test_a_full_disk_is_named_and_costs_no_checkpoint(tmp_path, monkeypatch):
  config = make_config(num_epochs=1)
  train.train_and_evaluate(config, tmp_path, watchers=[])
  before = {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}

  def refuse(descriptor):
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

  monkeypatch.setattr(os, "fsync", refuse)
  with pytest.raises(OSError, match="quota") as found:
    train.train_and_evaluate(make_config(num_epochs=2), tmp_path, watchers=[])
  assert found.value.filename.startswith(str(tmp_path / "checkpoints"))
  after = {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
  assert after == before


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
  folder = tmp_path / "checkpoints"
  folder.mkdir()
  (folder / ".step_000000004.ckpt.tmp").write_bytes(b"half")
  train.train_and_evaluate(make_config(num_epochs=1), tmp_path, watchers=[])
  assert {path.name for path in folder.iterdir()} == {
    "best.ckpt",
    "step_000000004.ckpt",
  }


def test_a_second_writer_is_refused(tmp_path):
  with (
    lock.hold(tmp_path),
    pytest.raises(UserError, match=f"process {os.getpid()} on .* is writing here"),
  ):
    train.train_and_evaluate(make_config(), tmp_path, watchers=[])


def test_a_finished_run_leaves_its_directory_and_a_second_call_changes_nothing(
  tmp_path,
):
  config = make_config(checkpoint__keep=1)
  first = train.train_and_evaluate(config, tmp_path)
  names = {path.name for path in tmp_path.iterdir()}
  assert {"config.json", "metrics.jsonl", "summary.json", "curves.png"} <= names
  files = {path.name for path in (tmp_path / "checkpoints").iterdir()}
  assert files == {"best.ckpt", "step_000000008.ckpt"}
  rows = (tmp_path / "metrics.jsonl").read_text()
  assert [json.loads(row)["epoch"] for row in rows.splitlines()] == [1, 2]
  assert json.loads((tmp_path / "summary.json").read_text()) == first
  assert train.train_and_evaluate(config, tmp_path) == first
  assert (tmp_path / "metrics.jsonl").read_text() == rows


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, caplog):
  config = make_config(num_epochs=3)
  train.train_and_evaluate(config, tmp_path, watchers=[])
  newest, before = checkpoints.saved(tmp_path / "checkpoints")
  whole = checkpoints.read(newest)
  data = bytearray(newest.read_bytes())
  data[len(data) // 2] ^= 1
  newest.write_bytes(data)
  with caplog.at_level(logging.WARNING):
    train.train_and_evaluate(config, tmp_path, watchers=[])
  assert "checksum does not match" in caplog.text
  again = checkpoints.read(newest)
  assert serialization.to_bytes(again["state"]) == serialization.to_bytes(
    whole["state"]
  )
  for path in (newest, before):
    path.write_bytes(b"")
  with pytest.raises(UserError, match="all 2 checkpoints are damaged"):
    train.train_and_evaluate(config, tmp_path, watchers=[])


def test_another_run_in_the_same_directory_is_refused(tmp_path, tiny_data, monkeypatch):
  train.train_and_evaluate(make_config(), tmp_path, watchers=[])
  for name, value in (
    ("seed", 5),
    ("optimizer__b1", 0.5),
    ("model__dtype", "bfloat16"),
  ):
    changed = make_config(**{name: value})
    with pytest.raises(UserError, match=name.replace("__", ".")):
      train.train_and_evaluate(changed, tmp_path, watchers=[])
  with pytest.raises(UserError, match="has finished 2 epochs"):
    train.train_and_evaluate(make_config(num_epochs=1), tmp_path, watchers=[])
  harmless = make_config(num_epochs=3, steps_per_dispatch=2, eval_batch_size=9)
  assert train.train_and_evaluate(harmless, tmp_path, watchers=[])["num_epochs"] == 3
  info = dataclasses.replace(tiny_data.info, fingerprint="another")
  other = dataclasses.replace(tiny_data, info=info)
  monkeypatch.setattr(datasets, "load", lambda config: other)
  with pytest.raises(UserError, match="contains other data"):
    train.train_and_evaluate(make_config(num_epochs=4), tmp_path, watchers=[])


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    (lambda c: c["state"].pop("opt_state"), "opt_state"),
    (lambda c: c["state"]["params"].popitem(), "params"),
    (
      lambda c: c["state"].update(step=np.zeros(2, np.int32)),
      r"step is int32\[2\], not",
    ),
    (
      lambda c: c["state"].update(step=np.float32(0)),
      r"step is float32\[\], not int32",
    ),
    (lambda c: c["state"].update(step="0"), "step is "),
    (lambda c: c.update(state=3), ""),
    (lambda c: c.update(run="()"), "Expecting value"),
    (lambda c: c.update(run="[]"), ""),
    (lambda c: c.update(run=5), ""),
    (lambda c: c.update(run='{"config": {}}'), "numerics"),
    (lambda c: c.update(run='{"config": 5}'), ""),
    (lambda c: c.update(run=10**5 * "[" + 10**5 * "]"), ""),
    (lambda c: c.update(run=c["run"].replace('"epoch": 1', '"epoch": 2')), "epochs"),
  ],
)
def test_a_checkpoint_of_another_version_is_refused(change, reason, tmp_path):
  config = make_config(num_epochs=1)
  train.train_and_evaluate(config, tmp_path, watchers=[])
  (path,) = checkpoints.saved(tmp_path / "checkpoints")
  content = checkpoints.read(path)
  change(content)
  path.write_bytes(checkpoints.encode(content))
  with pytest.raises(UserError, match=f"by another version of this project .*{reason}"):
    train.train_and_evaluate(config, tmp_path, watchers=[])


def test_a_checkpoint_that_other_code_computed_is_refused(tmp_path, monkeypatch):
  config = make_config(num_epochs=1)
  train.train_and_evaluate(config, tmp_path)
  monkeypatch.setattr(provenance, "NUMERICS", 999)
  with pytest.raises(UserError, match="numerics 1, but this code has 999.*commit "):
    train.train_and_evaluate(config, tmp_path, watchers=[])
  with pytest.raises(UserError, match="numerics 1, but this code has 999"):
    trained_lib.Trained(tmp_path)


def test_a_summary_says_what_made_the_run(tmp_path):
  config = make_config(num_epochs=2, steps_per_dispatch=1)
  for left in (2, 1, 10**6):
    with contextlib.suppress(Stopped):
      summary = train.train_and_evaluate(config, tmp_path, [], stop=StopAt(left))
  assert summary["interruptions"] == 2
  assert [part["first_step"] for part in summary["earlier_parts"]] == [0, 2]
  for part in (summary, *summary["earlier_parts"]):
    assert part["numerics"] == provenance.NUMERICS and part["device_count"] == 8
    assert "pytest" in part["command"] or "-c" in part["command"]
    assert {"commit", "modified", "device", "versions"} <= part.keys()
  # What has finished its epochs and gets more was not interrupted.
  longer = train.train_and_evaluate(
    dataclasses.replace(config, num_epochs=3), tmp_path, []
  )
  assert longer["interruptions"] == 2 and len(longer["earlier_parts"]) == 3


def test_a_resumed_epoch_counts_the_seconds_of_all_its_parts(tmp_path, monkeypatch):
  now = [100.0]
  monkeypatch.setattr(trainer.time, "monotonic", lambda: now[0])

  class Clock(StopAt):
    """Each dispatch takes 2 s."""

    def defer(self):
      now[0] += 2
      super().defer()

  config = make_config(num_epochs=1, steps_per_dispatch=1, batch_size=24)
  with pytest.raises(Stopped):
    train.train_and_evaluate(config, tmp_path, [], stop=Clock(2))
  now[0] += 1000  # between the parts
  with pytest.raises(Stopped):  # in evaluation: dispatches of training, then of that
    train.train_and_evaluate(config, tmp_path, [], stop=Clock(2))
  now[0] += 1000
  summary = train.train_and_evaluate(config, tmp_path, [], stop=Clock(10**6))
  (row,) = history_of(tmp_path)
  # Training took 3 dispatches of 2 s; evaluation one until stopped, and 3 again.
  assert row["seconds"] == summary["seconds"] == 14
  assert row["images_per_second"] == 72 / 6


def history_of(workdir):
  return json.loads(last(workdir)["run"])["history"]


def test_evaluation_at_the_end_alone(tmp_path):
  summary = train.train_and_evaluate(make_config(num_epochs=3, eval_every=0), tmp_path)
  rows = history_of(tmp_path)
  assert [row["eval_loss"] is None for row in rows] == [True, True, False]
  assert summary["best_epoch"] == 3


def test_evaluating_a_checkpoint_repeats_the_runs_own_figure(tmp_path):
  config = make_config(num_epochs=3)
  summary = train.train_and_evaluate(config, tmp_path, watchers=[])
  last = train.evaluate_checkpoint(config, tmp_path, "last")
  best = train.evaluate_checkpoint(config, tmp_path, "best")
  assert f"epoch 3: accuracy {summary['final_eval_accuracy']:.2%}" in last
  epoch, accuracy = summary["best_epoch"], summary["best_eval_accuracy"]
  assert f"epoch {epoch}: accuracy {accuracy:.2%}" in best
  assert best.endswith("; best, chosen on test") and "chosen" not in last
  train.train_and_evaluate(config, tmp_path / "watched")
  best = train.evaluate_checkpoint(config, tmp_path / "watched", "best")
  assert best.endswith("; best of 3 epochs, chosen on test")
  with pytest.raises(UserError, match="no checkpoint here"):
    train.evaluate_checkpoint(config, tmp_path / "elsewhere", "last")


def test_a_checkpoint_is_evaluated_on_other_data_with_the_same_classes(
  tmp_path, tiny_data, monkeypatch
):
  config = make_config()
  train.train_and_evaluate(config, tmp_path)
  assert "other data" not in train.evaluate_checkpoint(config, tmp_path, "last")

  def now(**info):
    info = dataclasses.replace(tiny_data.info, fingerprint="abcdef" * 10, **info)
    images = 255 - tiny_data.eval.images
    split = dataclasses.replace(tiny_data.eval, images=images)
    other = dataclasses.replace(tiny_data, info=info, eval=split)
    monkeypatch.setattr(datasets, "load", lambda config: other)

  now()
  line = train.evaluate_checkpoint(config, tmp_path, "last")
  was = tiny_data.info.fingerprint[:12]
  words = f"these are other data (abcdefabcdef) than it was trained on ({was})"
  assert line.endswith(words)
  trained = trained_lib.Trained(tmp_path, "last")
  logits = trained.logits(255 - tiny_data.eval.images)
  accuracy = (logits.argmax(-1) == tiny_data.eval.labels).mean()
  assert f": accuracy {accuracy:.2%}" in line
  now(class_names=tiny_data.info.class_names[::-1])
  with pytest.raises(UserError, match="has other classes than this run was trained on"):
    train.evaluate_checkpoint(config, tmp_path, "last")


def test_a_batch_the_devices_cannot_share_is_refused_before_the_data(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(datasets, "load", lambda config: pytest.fail("data were loaded"))
  with pytest.raises(UserError, match=r"batch_size=12: must be divisible by the 8"):
    train.train_and_evaluate(make_config(batch_size=12), tmp_path)


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
  with pytest.raises(UserError, match="must be at most the 72 images"):
    train.train_and_evaluate(make_config(batch_size=80), tmp_path)


def test_a_run_that_lost_its_checkpoints_is_not_begun_again(tmp_path):
  train.train_and_evaluate(make_config(num_epochs=1), tmp_path)
  shutil.rmtree(tmp_path / "checkpoints")
  with pytest.raises(UserError, match="finished epochs but no checkpoints"):
    train.train_and_evaluate(make_config(num_epochs=1), tmp_path)
  assert (tmp_path / "metrics.jsonl").read_text()


def test_a_checkpoint_is_evaluated_on_devices_that_could_not_train_it(tmp_path):
  config = make_config(num_epochs=1, batch_size=16)
  train.train_and_evaluate(config, tmp_path, watchers=[])
  run = trainer.Trainer(config, jax.devices()[:3])
  run.restore(checkpoints.restore(tmp_path / "checkpoints", "last"))
  summary = checkpoints.restore(tmp_path / "checkpoints", "last")["run"]
  expected = json.loads(summary)["history"][-1]["eval_accuracy"]
  assert run.evaluation().accuracy == pytest.approx(expected)


def test_a_float64_run_is_one_for_every_command_and_leaves_the_next_run_float32(
  tmp_path,
):
  config = make_config(model__dtype="float64", num_epochs=1)
  train.train_and_evaluate(config, tmp_path / "wide")
  state = checkpoints.restore_newest(tmp_path / "wide" / "checkpoints")["state"]
  kinds = {leaf.dtype.name for leaf in jax.tree.leaves(state["params"])}
  assert kinds == {"float64"}
  images = random_split(4, 2).images
  jax.config.update("jax_enable_x64", False)
  wide = trained_lib.Trained(tmp_path / "wide", "last")
  reference = wide.network.apply(wide.variables, images / np.float64(255), train=False)
  assert reference.dtype == np.float64
  np.testing.assert_allclose(wide.logits(images), reference, rtol=1e-6)
  jax.config.update("jax_enable_x64", False)
  line = train.evaluate_checkpoint(config, tmp_path / "wide", "last")
  assert "accuracy" in line
  run = trained(make_config(), 1, 1)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(run.state.params)} == {"float32"}
