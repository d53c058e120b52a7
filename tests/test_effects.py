"""Keys without effect: the table is proved by tracing; commands and resuming use it.

What a config does is compared as text: the traced initialisation, training step and
evaluation step, and the learning rates. Two configs with equal texts train the same.
"""

import functools
import itertools
import json
import pathlib
import re
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cifar_flax import __main__ as commands
from cifar_flax import config as config_lib
from cifar_flax import effects, main, models, optimizer, registry, steps, train
from cifar_flax.config import Config
from cifar_flax.data import datasets
from cifar_flax.data.sources import download, shapes10
from cifar_flax.errors import UserError
from cifar_flax.run import checkpoints, directory
from cifar_flax.tools import ablation, finished, jobs, sweep
from tests.test_config import CONFIGS, OTHER_VALUES
from tests.tools.test_reproduce import DATA

TABLE = [
  (key, other, value)
  for key, field in config_lib.fields().items()
  for other, values in field.metadata["no_effect_with"].items()
  for value in values
]
# Four epochs in which every key of every schedule matters.
BASE = {
  "num_epochs": "4",
  "batch_size": "2",
  "model.name": "uniform",
  "schedule.learning_rate": "0.2",
}
CHANGED = OTHER_VALUES | {"schedule.minimum": "0.19"}
STEPS_PER_EPOCH = 3


def make_config(**values):
  texts = BASE | {name.replace("__", "."): text for name, text in values.items()}
  return config_lib.override(Config(), texts)


def with_changes(config, keys):
  """Returns a copy of a config with another value for each key."""
  copy = config_lib.from_dict(config_lib.to_dict(config), "copy")
  config_lib.override(copy, {key: CHANGED[key] for key in keys})
  before, after = config_lib.flatten(config), config_lib.flatten(copy)
  assert all(before[key] != after[key] for key in keys)
  return copy


def traced(function, *arguments):
  """Returns a function's program as text, without addresses in memory."""
  make = jax.make_jaxpr(function, axis_env=[(steps.AXIS, 1)])
  return re.sub(r"0x[0-9a-f]+", "", str(make(*arguments)))


def learning_rates(config):
  schedule = optimizer.create_schedule(config, STEPS_PER_EPOCH)
  count = config.num_epochs * STEPS_PER_EPOCH
  return np.broadcast_to(schedule(jnp.arange(count)), count).tolist()


def training(config):
  """Returns all that a config trains, apart from its data."""
  network = models.create(config.model, 10, steps.AXIS)
  tx = optimizer.create_optimizer(config, lambda _: 0.1)
  make_state = steps._initialise(
    network, tx, (32, 32, 3), steps.parameter_dtype(config), config.ema_decay > 0
  )
  state = jax.eval_shape(make_state, np.int32(0))
  images = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.uint8)
  labels = jax.ShapeDtypeStruct((8,), jnp.int32)
  indices = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
  mask = jax.ShapeDtypeStruct((config.batch_size,), jnp.float32)
  train_step = steps.make_train_step(config, network, tx, STEPS_PER_EPOCH, config.seed)
  eval_step = steps.make_eval_step(config, network, flip=False)
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  return (
    str(make_state.trace(np.int32(0)).jaxpr),
    traced(train_step, state, images, labels, indices),
    traced(eval_step, variables, images, labels, indices, mask),
    learning_rates(config),
  )


def forward(config):
  """Returns the part of `training` that depends on the network, much faster."""
  network = models.create(config.model, 10)
  images, keys = jnp.zeros((2, 32, 32, 3)), jnp.zeros(2, jnp.uint32)
  start = functools.partial(network.init, train=False)
  variables = jax.eval_shape(start, jax.random.key(0), images)

  def apply(variables):
    return network.apply(
      variables, images, train=True, example_keys=keys, mutable=["batch_stats"]
    )

  return str(variables), traced(apply, variables)


def update(config):
  """Returns the part of `training` that depends on the optimizer."""
  tx = optimizer.create_optimizer(config, lambda _: 0.1)
  params = {"kernel": jnp.zeros((3, 1))}
  return traced(lambda g: tx.update(g, tx.init(params), params), params)


# For each key that others depend on: its values, and what depends on the section.
CONDITIONS = {
  "model.name": (registry.NETWORKS, forward),
  "optimizer.name": (config_lib.OPTIMIZERS, update),
  "schedule.name": (config_lib.SCHEDULES, learning_rates),
}
CASES = [
  (other, value) for other, (values, _) in CONDITIONS.items() for value in values
]


@pytest.mark.parametrize(("other", "value"), CASES)
def test_exactly_the_keys_in_the_table_have_no_effect(other, value):
  part_of, section = CONDITIONS[other][1], other.partition(".")[0]
  config = make_config(**{other: value})
  keys = [k for k in config_lib.fields() if k.startswith(f"{section}.") and k != other]
  unused = {key for key in keys if effects.without_effect(config).get(key) == other}
  if unused:
    assert training(with_changes(config, unused)) == training(config), unused
  before = part_of(config)
  for key in set(keys) - unused:
    assert part_of(with_changes(config, [key])) != before, (
      f"{key} has no effect with {other}={value}: add that to `no_effect_with`"
    )


def test_keys_outside_the_table_change_the_training():
  """Every key that the compiled program depends on, apart from the sections above."""
  keys = [name for name, _ in steps.program_key(Config())]
  keys = [key for key in keys if key.partition(".")[0] not in ("model", "optimizer")]
  assert {"batch_size", "ema_decay", "label_smoothing", "augmentation.zoom"} < {*keys}
  config = make_config()
  before = training(config)
  for key in keys:
    assert training(with_changes(config, [key])) != before, key


DATASETS = (*registry.DATASETS, f"{registry.FOLDER}pictures")


@pytest.mark.parametrize("name", DATASETS)
def test_an_archive_has_no_effect_exactly_where_the_table_says_so(
  name, tmp_path, monkeypatch
):
  """Loads data without an archive, then with one that does not exist."""

  def fetch(url, *_):
    raise download.DownloadError("no network")

  for label in ("a", "b"):
    for number in (1, 2):
      file = tmp_path / "pictures" / label / f"{number}.png"
      file.parent.mkdir(parents=True, exist_ok=True)
      Image.new("RGB", (32, 32), (number, 0, 0)).save(file)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(download, "fetch", fetch)
  monkeypatch.setattr(shapes10, "NUM_TRAIN", 20)
  monkeypatch.setattr(shapes10, "NUM_TEST", 10)
  archives, found = ("", "no_such_archive"), []
  for archive in archives:
    config = make_config(data__dataset=name, data__archive=archive)
    config.data.data_dir = str(tmp_path / "data")
    config.data.eval_split = "train"
    try:
      found.append(datasets.load(config.data).info)
    except UserError as error:
      found.append(str(error))
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
  used = "data.archive" not in effects.without_effect(config)
  assert (found[0] != found[1]) == used
  if not used:
    assert isinstance(found[0], datasets.Info)


def test_the_table_has_only_the_conditions_that_are_tested():
  """`effective` also relies on this: no condition depends on another one."""
  for key, other, value in TABLE:
    values = DATASETS if other == "data.dataset" else CONDITIONS[other][0]
    assert any(v.startswith(value) for v in values), (key, value)
    assert key.partition(".")[0] == other.partition(".")[0]
  assert not {other for _, other, _ in TABLE} & {key for key, _, _ in TABLE}
  assert {key for key, other, _ in TABLE if other == "data.dataset"} == {"data.archive"}


def test_a_new_network_is_taken_to_use_every_key(monkeypatch):
  monkeypatch.setitem(registry.NETWORKS, "mine", "tests.tiny:Tiny")
  unused = effects.without_effect(make_config(model__name="mine"))
  assert not [key for key in unused if key.startswith("model.")]


def test_help_shows_the_table():
  text = config_lib.help_text()
  assert "no effect with optimizer.name=keras_adam, adam\n" in text
  assert "no effect with data.dataset=shapes10, folder:" in text


QUICK, NET6B = "--config=configs/quickstart.py", "--config=configs/net6b.py"
MOMENTUM = "--config.optimizer.momentum=0.5"


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (
      ["train", NET6B, MOMENTUM],
      "config.optimizer.momentum=0.5: has no effect with "
      "config.optimizer.name='keras_adam'; remove it or choose another "
      "config.optimizer.name",
    ),
    (
      ["train", NET6B, "--config.optimizer.name=sgd", "--config.optimizer.b1=0.5"],
      "optimizer.b1=0.5: has no effect with config.optimizer.name='sgd'",
    ),
    (  # also where the value is what it would be anyway
      ["summary", NET6B, "--config.model.convolution=plain"],
      "model.convolution=plain: has no effect with config.model.name='net6b'",
    ),
    (
      ["preview", QUICK, "--config.data.archive=x"],
      "config.data.archive=x: has no effect with config.data.dataset='shapes10'",
    ),
    (
      ["eval", QUICK, "--config.data.dataset=folder:x", "--config.data.archive=x"],
      "data.archive=x: has no effect with config.data.dataset='folder:x'",
    ),
    (
      ["eval", NET6B, "--config.schedule.name=constant", "--config.schedule.minimum=0"],
      "schedule.minimum=0: has no effect with config.schedule.name='constant'",
    ),
    (
      ["reproduce", MOMENTUM],
      "optimizer.momentum=0.5: has no effect with config.optimizer.name='keras_adam'",
    ),
    (
      ["sweep", NET6B, "--vary=optimizer.name=adam,keras_adam", MOMENTUM],
      "optimizer.momentum=0.5: has no effect with config.optimizer.name='adam'",
    ),
    (
      ["sweep", NET6B, "--ablate=configs/net6a.py", MOMENTUM],
      "optimizer.momentum=0.5: has no effect with config.optimizer.name='keras_adam'",
    ),
    (
      ["sweep", NET6B, "--vary=model.convolution", "--output=out"],
      "--vary=model.convolution: has no effect with config.model.name='net6b' "
      "(out/convolution=plain/seed0 and out/convolution=spatially_separable/seed0 "
      "would be identical); remove it or choose another config.model.name",
    ),
    (
      [
        *("sweep", NET6B, "--vary=optimizer.name=sgd,adam", "--output=out"),
        "--vary=optimizer.momentum=0,0.9",
      ],
      "has no effect with config.optimizer.name='adam' "
      "(out/name=adam,momentum=0/seed0 and out/name=adam,momentum=0.9/seed0 would be",
    ),
    (
      ["sweep", NET6B, "--vary=optimizer.momentum=0.5", "--output=out"],
      "no effect with config.optimizer.name='keras_adam' (out/momentum=0.5/seed0);",
    ),
  ],
)
def test_a_typed_key_without_effect_is_refused_in_one_line(argv, message, capsys):
  assert commands.main(argv) == 2
  error = capsys.readouterr().err
  assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_typed_key_is_judged_after_all_overrides_are_set():
  config, _, _ = main.parse([MOMENTUM, NET6B, "--config.optimizer.name=sgd"])
  assert config.optimizer.momentum == 0.5


def test_runs_without_a_use_for_a_shared_override_are_not_given_it():
  """Each run's command is one that `main` accepts, and gives the planned config."""
  flags = [MOMENTUM, "--vary=optimizer.name=sgd,adam", NET6B]
  with_it, without_it = sweep.plan(flags)[0]
  assert MOMENTUM in with_it.command and MOMENTUM not in without_it.command
  for job in (with_it, without_it):
    assert main.parse(job.command[3:])[0] == job.config
  overrides = {"optimizer.name": "sgd", "optimizer.momentum": "0.5"}
  assert effects.effective(Config(), overrides) == overrides


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_no_config_of_the_house_sets_a_key_without_effect(file):
  assert effects.notes(config_lib.load(str(file))) == []


def test_a_key_without_effect_in_a_config_file_is_noted(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(train, "train_and_evaluate", lambda *_, **__: None)
  monkeypatch.setattr(train, "evaluate_checkpoint", lambda *_: "")
  config = config_lib.load("configs/net6b.py")
  config.model.dense_dropout_rate, config.schedule.name = 0.5, "constant"
  (tmp_path / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
  argv = [f"--config={tmp_path / 'config.json'}", f"--workdir={tmp_path / 'run'}"]
  assert main.main(argv) == 0
  assert [record.getMessage() for record in caplog.records] == [
    "note: config.model.dense_dropout_rate=0.5 has no effect with "
    "config.model.name='net6b'",
    "note: config.schedule.minimum=0.0005 has no effect with "
    "config.schedule.name='constant'",
  ]
  caplog.clear()
  assert main.main([*argv, "--mode=eval"]) == 0 and not caplog.records


def test_a_run_is_resumed_whatever_keys_without_effect_were(tmp_path):
  """An earlier `net6a_constant` had the staircase's minimum."""
  now = config_lib.load("configs/net6a_constant.py")
  before = config_lib.load("configs/net6a_constant.py")
  before.schedule.minimum = 0.0005
  info = types.SimpleNamespace(fingerprint="abc", class_names=["a", "b"])
  state, record = {"step": np.int32(3)}, directory.Record()
  (tmp_path / "checkpoint").write_bytes(directory.snapshot(state, before, info, record))
  content = checkpoints.read(tmp_path / "checkpoint")
  assert directory.resume(content, now, info, state)[0] == state
  (tmp_path / "config.json").write_text(json.dumps(config_lib.to_dict(before)))
  jobs.plan("configs/net6a_constant.py", {}, tmp_path)
  now.schedule.name = "cosine"  # then the minimum matters
  now.schedule.minimum = 0.1
  with pytest.raises(UserError, match="config.schedule.name='cosine'.*'constant'"):
    directory.resume(content, now, info, state)
  overrides = {"schedule.name": "staircase"}
  with pytest.raises(UserError, match="schedule.name='staircase'.*'constant'"):
    jobs.plan("configs/net6a_constant.py", overrides, tmp_path)


def test_runs_that_differ_in_keys_without_effect_are_one_row_of_a_report():
  configs = [make_config(seed="1"), make_config(schedule__minimum="0.1")]
  configs.append(make_config(schedule__name="cosine"))
  facts = {"data": DATA, "numerics": 1, "parameters": 9}
  runs = [finished.FinishedRun(pathlib.Path(), each, [], facts) for each in configs]
  assert finished.group(runs) == ([runs[:2], runs[2:]], [])


def test_ablation_ignores_differences_without_effect():
  config, base = make_config(model__name="net6b"), make_config(model__name="net6b")
  config.schedule.minimum, config.model.convolution = 0.1, "grouped"
  with pytest.raises(UserError, match="no differences"):
    ablation.changes(config, base, ())
  base.model.name, base.model.dense_dropout_rate = "net6a_dense", 0.5
  base.model.dropout_rate = 0.25
  network = {"model.name": "net6a_dense", "model.dense_dropout_rate": "0.5"}
  dropout = {"dropout_rate": {"model.dropout_rate": "0.25"}}
  assert ablation.changes(config, base, ()) == {"network": network, **dropout}
  # The other way round, the rate is a change of its own.
  assert set(ablation.changes(base, config, ())) == {
    *("network", "dense_dropout_rate", "dropout_rate")
  }


def test_an_ablation_plans_no_run_twice():
  flags = ["--config=configs/net6a_tuned.py", "--ablate=configs/net6a_constant.py"]
  planned = sweep.plan([*flags, "--config.schedule.name=constant"])[0]
  for first, second in itertools.combinations(planned, 2):
    assert set(effects.differences(first.config, second.config)) > {"name"}
