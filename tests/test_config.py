"""Config files, `config.json` and overrides: the same values by every way in."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

from cifar_flax import __main__, hints
from cifar_flax import config as config_lib
from cifar_flax.config import Config
from cifar_flax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))

# A value that is not the default, for every key, in the text of a command line.
OTHER_VALUES = {
  "name": "my_run",
  "seed": "7",
  "num_epochs": "3",
  "batch_size": "64",
  "eval_batch_size": "100",
  "eval_every": "3",
  "eval_flip": "true",
  "label_smoothing": "0.1",
  "ema_decay": "0.999",
  "steps_per_dispatch": "5",
  "data.dataset": "shapes10",
  "data.data_dir": "/data",
  "data.archive": "cifar.tar.gz",
  "data.train_split": "train[:45000]",
  "data.eval_split": "train[45000:]",
  "augmentation.zoom": "0.15",
  "augmentation.flip": "true",
  "augmentation.crop_padding": "4",
  "augmentation.cutout": "8",
  "model.name": "uniform",
  "model.convolution": "grouped",
  "model.width": "0.5",
  "model.dtype": "bfloat16",
  "model.ops": "lax",
  "model.dropout_rate": "0.25",
  "model.dense_dropout_rate": "0.5",
  "model.batch_norm_momentum": "0.9",
  "model.batch_norm_epsilon": "1e-5",
  "optimizer.name": "sgd",
  "optimizer.b1": "0.8",
  "optimizer.b2": "0.99",
  "optimizer.epsilon": "1e-8",
  "optimizer.momentum": "0.95",
  "optimizer.nesterov": "false",
  "optimizer.weight_decay": "5e-4",
  "schedule.name": "cosine",
  "schedule.learning_rate": "0.1",
  "schedule.decay_rate": "0.5",
  "schedule.epochs_per_decay": "10",
  "schedule.minimum": "1e-5",
  "schedule.warmup_epochs": "2",
  "checkpoint.keep": "3",
  "checkpoint.every_steps": 7,
  "checkpoint.min_seconds": "60",
}


def get(config, name):
  for part in name.split("."):
    config = getattr(config, part)
  return config


def other_config():
  return config_lib.override(Config(), OTHER_VALUES)


def test_every_key_has_a_type_a_meaning_and_a_default_that_is_allowed():
  assert list(config_lib.fields()) == list(OTHER_VALUES)
  for name, field in config_lib.fields().items():
    assert field.type in (int, float, bool, str), name
    assert len(field.metadata["meaning"]) > 5, name
    assert type(field.default) is field.type, name
  assert config_lib.validate(Config()) == Config()


def test_text_becomes_the_type_of_its_key():
  config = other_config()
  for name, text in OTHER_VALUES.items():
    value = get(config, name)
    assert value != get(Config(), name), name
    if type(value) in (int, float):
      assert value == float(text), name
    else:
      assert str(value).lower() == text.lower(), name
  assert config.schedule.warmup_epochs == 2.0
  assert type(config.schedule.warmup_epochs) is float
  assert config.optimizer.nesterov is False


@pytest.mark.parametrize(
  ("text", "value"), [("true", True), ("True", True), ("1", True), ("0", False)]
)
def test_forms_of_true_and_false(text, value):
  config = config_lib.override(Config(), {"augmentation.flip": text})
  assert config.augmentation.flip is value


def test_the_public_names_that_others_count_on():
  names = "seed num_epochs batch_size data.dataset data.data_dir data.train_split"
  names += " data.eval_split model.name model.dtype schedule.name optimizer.name"
  assert set(names.split()) <= set(config_lib.fields())


def test_a_config_survives_being_written_and_read(tmp_path):
  config = other_config()
  file = tmp_path / "config.json"
  file.write_text(json.dumps(config_lib.to_dict(config)))
  assert config_lib.load(str(file)) == config
  assert config_lib.from_dict(config_lib.to_dict(config), "test") == config
  # The flat form too: what a summary or a sweep writes.
  assert config_lib.from_dict(config_lib.flatten(config), "test") == config


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_files_of_the_house_survive_it_too(file, tmp_path):
  config = config_lib.load(str(file))
  assert config.name == file.stem
  copy = tmp_path / "copy.json"
  copy.write_text(json.dumps(config_lib.to_dict(config)))
  assert config_lib.load(str(copy)) == config


def test_every_committed_config_names_its_command():
  """A config that somebody is trying out, and has not committed, need not."""
  listed = subprocess.run(
    ["git", "-C", str(ROOT), "ls-files", "configs/*.py"], capture_output=True, text=True
  )
  files = [ROOT / name for name in listed.stdout.split()]
  if not files:
    pytest.skip("not a git repository")
  for file in files:
    command = f"make train CONFIG=configs/{file.name}"
    text = file.read_text()
    assert command in text or "make quickstart" in text, file.name


def test_loading_twice_shares_nothing():
  first, second = (config_lib.load(str(CONFIGS[0])) for _ in range(2))
  first.model.name = "net6b"
  assert second.model.name != "net6b"


def test_a_variant_imports_its_base_from_any_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  base = config_lib.load(str(ROOT / "configs" / "net6a.py"))
  variant = config_lib.load(str(ROOT / "configs" / "net6a_constant.py"))
  before, after = config_lib.flatten(base), config_lib.flatten(variant)
  differing = {name for name in before if before[name] != after[name]}
  unused = {"schedule.epochs_per_decay", "schedule.minimum"}  # left at their defaults
  assert differing == {"name", "schedule.name", *unused}


def test_the_configs_are_the_published_runs():
  # From the two notebooks: epochs, learning rate, dropout, flip and zoom.
  published = {
    "net6a_dense": (100, "constant", 0.001, 0.25, False, 0.0),
    "net6a_wide": (100, "constant", 0.001, 0.25, False, 0.0),
    "net6a": (100, "staircase", 0.003, 0.1, True, 0.15),
    "net6a_constant": (100, "constant", 0.003, 0.1, True, 0.15),
    "net6b": (50, "staircase", 0.003, 0.05, True, 0.15),
  }
  for name, facts in published.items():
    config = config_lib.load(str(ROOT / "configs" / f"{name}.py"))
    assert facts == (
      config.num_epochs,
      config.schedule.name,
      config.schedule.learning_rate,
      config.model.dropout_rate,
      config.augmentation.flip,
      config.augmentation.zoom,
    )
    assert (config.batch_size, config.model.dtype) == (128, "float32")
    assert config.optimizer == config_lib.Optimizer(
      name="keras_adam", b1=0.9, b2=0.999, epsilon=1e-7, weight_decay=0.0
    )
    assert config.model.batch_norm_momentum == 0.99
    assert config.model.batch_norm_epsilon == 1e-3
    assert (config.data.dataset, config.data.train_split) == ("cifar10", "train")
    assert config.data.eval_split == "test"
    # What the originals did not have.
    assert config.ema_decay == config.label_smoothing == 0
    assert config.augmentation.cutout == config.augmentation.crop_padding == 0
  stairs = {"net6a": 3, "net6b": 2}
  for name, epochs in stairs.items():
    schedule = config_lib.load(str(ROOT / "configs" / f"{name}.py")).schedule
    assert (schedule.epochs_per_decay, schedule.decay_rate) == (epochs, 0.9)
    assert schedule.minimum == 0.0005
  dense = config_lib.load(str(ROOT / "configs" / "net6a_dense.py"))
  assert dense.model.dense_dropout_rate == 0.5


def test_a_program_can_set_a_config_but_not_mistype_it():
  config = Config()
  config.model.name = "net6b"
  with pytest.raises(UserError, match="config.num_epoch=3: .* mean 'num_epochs'"):
    config.num_epoch = 3  # type: ignore[attr-defined]
  with pytest.raises(UserError, match="model.dropout=0.1: .* mean 'dropout_rate'"):
    config.model.dropout = 0.1  # type: ignore[attr-defined]
  with pytest.raises(UserError, match="config.model='net6b': is a section"):
    config.model = "net6b"  # type: ignore[assignment]
  replaced = dataclasses.replace(config, seed=3)
  assert (replaced.seed, replaced.model.name) == (3, "net6b")


@pytest.mark.parametrize(
  ("name", "best"),
  [
    ("num_epoch", "num_epochs"),
    ("learning_rate", "schedule.learning_rate"),
    ("zoom", "augmentation.zoom"),
    ("model", "model.name"),
    ("model.nam", "model.name"),
    ("optimiser.name", "optimizer.name"),
    ("data.datadir", "data.data_dir"),
    ("batchsize", "batch_size"),
    ("lr", "schedule.learning_rate"),
    ("LR", "schedule.learning_rate"),
    ("optimizer.lr", "schedule.learning_rate"),
    ("optimizer.learning_rate", "schedule.learning_rate"),
    ("learning-rate", "schedule.learning_rate"),
    ("epochs", "num_epochs"),
    ("momentum", "optimizer.momentum"),
    ("dropout", "model.dropout_rate"),
    ("model.dropout", "model.dropout_rate"),
    ("wd", "optimizer.weight_decay"),
    ("weight-decay", "optimizer.weight_decay"),
    ("warmup", "schedule.warmup_epochs"),
    ("batch", "batch_size"),
    ("eps", "optimizer.epsilon"),
    ("dataset", "data.dataset"),
    ("scheduler", "schedule.name"),
  ],
)
def test_the_nearest_key(name, best):
  assert hints.nearest(name, config_lib.fields()) == f"; did you mean {best!r}?"


def test_nothing_near_is_no_hint():
  assert hints.nearest("xyzzy", config_lib.fields()) == ""


def test_every_synonym_is_of_a_key_and_none_is_listed_twice():
  words = [word for words in hints.SYNONYMS for word in words.split()]
  assert len(set(words)) == len(words)
  assert not set(words) & set(config_lib.fields())
  for words, key in hints.SYNONYMS.items():
    for word in words.split():
      hint = hints.nearest(word, config_lib.fields())
      assert hint == f"; did you mean {key!r}?", word


@pytest.mark.parametrize("command", ["train", "preview", "summary"])
@pytest.mark.parametrize(
  ("argument", "best"),
  [
    ("--lr=0.1", "--config.schedule.learning_rate=0.1"),
    ("-lr", "--config.schedule.learning_rate=VALUE"),
    ("--learning-rate=0.1", "--config.schedule.learning_rate=0.1"),
    ("--seed=1", "--config.seed=1"),
    ("--epochs=3", "--config.num_epochs=3"),
    ("--num-epochs=3", "--config.num_epochs=3"),
    ("--num_epoch=3", "--config.num_epochs=3"),
    ("--batch-size=8", "--config.batch_size=8"),
    ("--batch_size=8", "--config.batch_size=8"),
    ("--Batch_Size=8", "--config.batch_size=8"),
    ("--name=x", "--config.name=x"),
    ("--data=/data", "--config.data.data_dir=/data"),
    ("--dataset=svhn", "--config.data.dataset=svhn"),
    ("--data.dataset=svhn", "--config.data.dataset=svhn"),
    ("--dropout", "--config.model.dropout_rate=VALUE"),
    ("--cfg=x.py", "--config"),
    ("--confg=x.py", "--config"),
    ("configs/net6b", "--config=configs/net6b.py"),
    ("net6b.py", "--config=configs/net6b.py"),
  ],
)
def test_the_usual_flags_lead_to_the_key(command, argument, best, capsys):
  assert __main__.main([command, argument]) == 2
  error = capsys.readouterr().err
  assert f"{argument}: no such flag; did you mean {best!r}? (--help" in error


@pytest.mark.parametrize(
  ("line", "hint"),
  [
    ("train --output=x", "did you mean '--workdir'?"),
    ("train --output_dir=x", "did you mean '--workdir'?"),
    ("preview --out=x", "did you mean '--output'?"),
    ("report --out=x", "did you mean '--output'?"),
    ("sweep --seed=1", "did you mean '--seeds'?"),
    ("sweep --at-once=1", "did you mean '--at_once'?"),
    ("export --ckpt=best", "did you mean '--checkpoint'?"),
    ("train --gpus=2", "all devices are used; CUDA_VISIBLE_DEVICES"),
    ("train --resume", "rerun the same command to resume a run"),
    ("predict --lr=1", "no such flag (--help lists all)"),
    ("train --xyzzy=1", "no such flag (--help lists all)"),
    ("train --config.lr", "--config.lr=VALUE; did you mean 'schedule.learning_rate'?"),
    ("train --config.seed", "--config.seed=VALUE\n"),
    (
      "train --config=configs/net6b.py --config.lr=1",
      "config.lr='1': no such key; did you mean 'schedule.learning_rate'?",
    ),
    ("train --config=net6b", "no such file; did you mean 'configs/net6b.py'?"),
    ("train --config configs/net6b", "no such file; did you mean 'configs/net6b.py'?"),
    ("train --config=config/net6b.py", "did you mean 'configs/net6b.py'?"),
    ("train --config=configs/netb6.py", "did you mean 'configs/net6b.py'?"),
    ("train --config=xyzzy", "no such file\n"),
  ],
)
def test_other_hints_of_the_command_line(line, hint, capsys):
  assert __main__.main(line.split()) == 2
  assert hint in capsys.readouterr().err


def test_a_run_directory_in_the_place_of_a_config_is_recognised(tmp_path):
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(UserError, match=r"is a folder; name a file such as .*\.json"):
    config_lib.load(str(tmp_path))


@pytest.mark.parametrize("below", [1 - 2.0**-26, 0.99999999])
def test_a_number_that_float32_rounds_to_its_limit_is_refused(below):
  limited = [k for k, f in config_lib.fields().items() if f.metadata["below"] == 1]
  assert {"model.dropout_rate", "ema_decay", "optimizer.b2"} <= set(limited)
  for name in limited:
    with pytest.raises(UserError, match=f"config.{name}=.* and < 1.0"):
      config_lib.override(Config(), {name: str(below)})
    config_lib.override(Config(), {name: str(1 - 2.0**-24)})


@pytest.mark.parametrize("name", ["optimizer.epsilon", "model.batch_norm_epsilon"])
@pytest.mark.parametrize("text", ["0", "1e-46", "1e-40"])
def test_an_epsilon_that_cannot_prevent_a_division_by_zero_is_refused(name, text):
  with pytest.raises(UserError, match=f"config.{name}=.*must be a number >= 1e-12"):
    config_lib.override(Config(), {name: text})
  config_lib.override(Config(), {name: "1e-12"})


def test_help_names_every_key_with_its_default_and_limits():
  text = config_lib.help_text()
  for name, field in config_lib.fields().items():
    assert f"  {name}={field.default!r}\n" in text
    assert field.metadata["meaning"] in text
  assert "one of keras_adam, adam, sgd" in text
  assert "a number >= 0.0 and < 1.0" in text


def test_configs_are_checked_without_jax():
  program = (
    "import sys; from cifar_flax import config;"
    "[config.load(path) for path in sys.argv[1:]];"
    "assert not {'jax', 'flax', 'numpy'} & set(sys.modules)"
  )
  files = [str(file) for file in CONFIGS]
  done = subprocess.run([sys.executable, "-c", program, *files], cwd=ROOT)
  assert done.returncode == 0
