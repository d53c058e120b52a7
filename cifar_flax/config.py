"""Every number of a run: its key, its meaning and its limits.

A config file is Python with a `get_config()` that returns a `Config`. A run directory's
`config.json` holds the same values and can be given in its place. Nothing here imports
JAX, so a mistake is reported at once.
"""

import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import struct
import sys
from typing import Any

from cifar_flax import hints, places, registry
from cifar_flax.errors import UserError

DTYPES = ("float32", "bfloat16", "float64")
OPTIMIZERS = ("keras_adam", "adam", "sgd")
SCHEDULES = ("constant", "staircase", "cosine", "one_cycle")
# Without an epsilon, a gradient or variance of zero would give 0 / 0.
SMALLEST_EPSILON = 1e-12
# What the keys below have no effect with; `tests/test_effects.py` checks every line.
_FIXED_CONVOLUTIONS = {"model.name": ("net6a_dense", "net6a_wide", "net6a", "net6b")}
_NO_DENSE_DROPOUT = {"model.name": ("net6a_wide", "net6a", "net6b", "uniform")}
_NO_BATCH_NORM = {"model.name": ("net6a_dense", "net6a_wide")}
_NO_ARCHIVE = {"data.dataset": ("shapes10", registry.FOLDER)}
_NOT_ADAM = {"optimizer.name": ("sgd",)}
_NOT_SGD = {"optimizer.name": ("keras_adam", "adam")}
_NO_STAIRS = {"schedule.name": ("constant", "cosine", "one_cycle")}
_NO_DECAY = {"schedule.name": ("constant",)}


def key(
  default: Any,
  meaning: str,
  *,
  low=None,
  high=None,
  below=None,
  choices=None,
  prefix=None,
  is_path=False,
  no_effect_with=None,
):
  """Declares a config key with its default, its meaning and its limits.

  A value is valid if `low <= value <= high` and `value < below`, and if it is one of
  `choices` or starts with `prefix`, as far as these are given. Numbers are compared as
  the float32 that the run computes with: 0.99999999 is not below 1. With `is_path`, or
  after the prefix, the value is a path and must not be a URL. `no_effect_with` maps
  another key to its values, or its prefix, with which this key has no effect; see
  `effects`. A value that it does not list, such as a new network, uses the key.
  """
  limits = {"low": low, "high": high, "below": below, "choices": choices}
  limits |= {"prefix": prefix, "is_path": is_path}
  metadata = {"meaning": meaning, "no_effect_with": no_effect_with or {}, **limits}
  return dataclasses.field(default=default, metadata=metadata)


class _Section:
  """Rejects attributes that are not keys, and values in the place of a section."""

  __slots__ = ()

  def __setattr__(self, name: str, value: Any) -> None:
    known = {field.name: field for field in dataclasses.fields(self)}  # type: ignore[arg-type]
    what = f"{type(self).__name__.lower()}.{name}={value!r}"
    if name not in known:
      raise UserError(f"{what}: no such key{hints.nearest(name, known)}")
    section = known[name].type
    if not known[name].metadata and not isinstance(value, section):  # type: ignore[arg-type]
      raise UserError(f"{what}: is a section; set its keys instead")
    object.__setattr__(self, name, value)


@dataclasses.dataclass(slots=True)
class Data(_Section):
  """Which images a run uses, and which of them train and evaluate."""

  dataset: str = key(
    "cifar10",
    "name of the data set",
    choices=registry.DATASETS,
    prefix=registry.FOLDER,
  )
  data_dir: str = key(
    "", "TFDS folder; '' is $TFDS_DATA_DIR or ~/tensorflow_datasets", is_path=True
  )
  archive: str = key(
    "",
    "official file or folder to prepare it from; '' downloads it",
    is_path=True,
    no_effect_with=_NO_ARCHIVE,
  )
  train_split: str = key("train", "TFDS split string of the training images")
  eval_split: str = key("test", "TFDS split string of the evaluated images")


@dataclasses.dataclass(slots=True)
class Augmentation(_Section):
  """What happens to a training image, on the device; 0 and False switch a part off."""

  zoom: float = key(0.0, "scales each axis by U[1-zoom, 1+zoom]", low=0.0, below=1.0)
  flip: bool = key(False, "mirrors left to right with probability 1/2")
  crop_padding: int = key(0, "zeros padded before a random crop", low=0, high=16)
  cutout: int = key(0, "side of the square set to zero, pixels", low=0, high=32)


@dataclasses.dataclass(slots=True)
class Model(_Section):
  """The network, and the arithmetic it uses."""

  name: str = key("net6a", "network", choices=registry.NETWORKS)
  convolution: str = key(
    "plain",
    "type in every slot of the network `uniform`",
    choices=registry.CONVOLUTIONS,
    no_effect_with=_FIXED_CONVOLUTIONS,
  )
  width: float = key(
    1.0,
    "factor on the number of channels of the network `uniform`",
    low=0.0625,
    high=16.0,
    no_effect_with=_FIXED_CONVOLUTIONS,
  )
  dtype: str = key(
    "float32",
    "type of activations; with bfloat16, parameters stay float32",
    choices=DTYPES,
  )
  ops: str = key(
    "fast", "this project's fast operations, or plain XLA", choices=("fast", "lax")
  )
  dropout_rate: float = key(0.0, "dropout rate after convolutions", low=0.0, below=1.0)
  dense_dropout_rate: float = key(
    0.0,
    "dropout rate after Dense layers",
    low=0.0,
    below=1.0,
    no_effect_with=_NO_DENSE_DROPOUT,
  )
  batch_norm_momentum: float = key(
    0.99,
    "decay of BatchNorm's moving averages, per step",
    low=0.0,
    below=1.0,
    no_effect_with=_NO_BATCH_NORM,
  )
  batch_norm_epsilon: float = key(
    1e-3,
    "what BatchNorm adds to the variance",
    low=SMALLEST_EPSILON,
    high=1.0,
    no_effect_with=_NO_BATCH_NORM,
  )


@dataclasses.dataclass(slots=True)
class Optimizer(_Section):
  """How a gradient becomes an update."""

  name: str = key(
    "keras_adam", "Adam in Keras' or Optax's form, or SGD", choices=OPTIMIZERS
  )
  b1: float = key(
    0.9,
    "Adam: decay of the mean gradient",
    low=0.0,
    below=1.0,
    no_effect_with=_NOT_ADAM,
  )
  b2: float = key(
    0.999,
    "Adam: decay of the mean square",
    low=0.0,
    below=1.0,
    no_effect_with=_NOT_ADAM,
  )
  epsilon: float = key(
    1e-7,
    "Adam: what is added to the root",
    low=SMALLEST_EPSILON,
    high=1.0,
    no_effect_with=_NOT_ADAM,
  )
  momentum: float = key(
    0.9, "SGD: momentum", low=0.0, below=1.0, no_effect_with=_NOT_SGD
  )
  nesterov: bool = key(
    True, "SGD: Nesterov's form of momentum", no_effect_with=_NOT_SGD
  )
  weight_decay: float = key(
    0.0,
    "decoupled, times the learning rate; kernels only",
    low=0.0,
    high=1.0,
  )


@dataclasses.dataclass(slots=True)
class Schedule(_Section):
  """The learning rate over a run."""

  name: str = key("constant", "shape of the schedule", choices=SCHEDULES)
  learning_rate: float = key(
    0.001, "the highest rate, reached after the warm-up", low=0.0, high=100.0
  )
  decay_rate: float = key(
    0.9, "staircase: factor per stair", low=0.0, high=1.0, no_effect_with=_NO_STAIRS
  )
  epochs_per_decay: int = key(
    2, "staircase: epochs per stair", low=1, no_effect_with=_NO_STAIRS
  )
  minimum: float = key(
    0.0,
    "staircase, cosine, one_cycle: the lowest rate",
    low=0.0,
    high=100.0,
    no_effect_with=_NO_DECAY,
  )
  warmup_epochs: float = key(
    0.0, "epochs of linear rise at the start", low=0.0, high=100_000.0
  )


@dataclasses.dataclass(slots=True)
class Checkpoint(_Section):
  """When a run is saved, and how many checkpoints are kept."""

  keep: int = key(2, "how many of the newest checkpoints are kept", low=1)
  every_steps: int = key(
    0, "steps between checkpoints within an epoch; 0 saves at epochs' ends only", low=0
  )
  min_seconds: float = key(
    10.0, "least time between two checkpoints at epochs' ends, seconds", low=0.0
  )


@dataclasses.dataclass(slots=True)
class Config(_Section):
  """A run. The defaults are what the published networks have in common."""

  name: str = key("", "names the run directory; '' is the config file's name")
  seed: int = key(
    0, "seed of initialisation, order, augmentation and dropout", low=0, high=2**31 - 1
  )
  num_epochs: int = key(100, "passes over the training images", low=1, high=100_000)
  batch_size: int = key(128, "images per step, over all devices", low=1)
  eval_batch_size: int = key(
    0, "images per forward pass in evaluation; 0 chooses by backend", low=0
  )
  eval_every: int = key(
    1, "epochs between evaluations; 0 evaluates after the last epoch only", low=0
  )
  eval_flip: bool = key(
    False, "at the end, also evaluates the mean of image and mirror image"
  )
  label_smoothing: float = key(0.0, "weight of the uniform label", low=0.0, below=1.0)
  ema_decay: float = key(
    0.0,
    "decay per step of the weights' moving average; 0 keeps none",
    low=0.0,
    below=1.0,
  )
  steps_per_dispatch: int = key(
    0, "steps per call to the device; 0 chooses by backend", low=0
  )
  data: Data = dataclasses.field(default_factory=Data)
  augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
  model: Model = dataclasses.field(default_factory=Model)
  optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
  schedule: Schedule = dataclasses.field(default_factory=Schedule)
  checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)


def fields(config=None, prefix: str = "") -> dict[str, dataclasses.Field]:
  """Returns all keys, dotted, in order: `{"seed": Field, "data.dataset": Field}`."""
  config = Config() if config is None else config
  found = {}
  for field in dataclasses.fields(config):
    value = getattr(config, field.name, None)
    if field.metadata:
      found[prefix + field.name] = field
    else:
      found |= fields(value, f"{prefix}{field.name}.")
  return found


def flatten(config: Config) -> dict[str, Any]:
  """Returns all values by dotted key."""
  return {name: _get(config, name) for name in fields()}


def help_text() -> str:
  """Returns a text with name, default, meaning and limits of every key."""
  rows = []
  for name, field in fields().items():
    rows.append(f"  {name}={field.default!r}")
    rows.append(f"      {field.metadata['meaning']} ({_allowed(field)})")
    for other, values in field.metadata["no_effect_with"].items():
      rows.append(f"      no effect with {other}={', '.join(values)}")
  return "\n".join(rows)


def _get(config: Any, name: str) -> Any:
  for part in name.split("."):
    config = getattr(config, part)
  return config


def _set(config: Any, name: str, value: Any) -> None:
  *parents, last = name.split(".")
  setattr(_get(config, ".".join(parents)) if parents else config, last, value)


def _allowed(field: dataclasses.Field) -> str:
  limits = field.metadata
  if limits["choices"]:
    more = f", {limits['prefix']}PATH" if limits["prefix"] else ""
    return "one of " + ", ".join(limits["choices"]) + more
  kind = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
  bounds = (("low", ">="), ("high", "<="), ("below", "<"))
  found = [f"{sign} {limits[k]}" for k, sign in bounds if limits[k] is not None]
  return " ".join([kind[field.type], " and ".join(found)]).strip()  # type: ignore[index]


def _refuse(name: str, value: Any, field: dataclasses.Field) -> UserError:
  choices = field.metadata["choices"]
  hint = hints.nearest(value, choices) if choices and isinstance(value, str) else ""
  return UserError(f"config.{name}={value!r}: must be {_allowed(field)}{hint}")


def _checked(name: str, value: Any, field: dataclasses.Field) -> Any:
  """Returns `value` in the key's type, or raises UserError."""
  limits = field.metadata
  if field.type is float and type(value) is int and abs(value) < 2**53:
    value = float(value)
  good, number = type(value) is field.type, value
  if good and field.type is float:
    number = _as_float32(value)
    good = math.isfinite(number)
  if good and limits["choices"]:
    more = limits["prefix"]
    named = more and value.startswith(more) and value != more
    good = value in limits["choices"] or bool(named)
  if good and limits["low"] is not None:
    good = number >= _as_float32(limits["low"])
  if good and limits["high"] is not None:
    good = number <= limits["high"]
  if good and limits["below"] is not None:
    good = number < limits["below"]
  if not good:
    raise _refuse(name, value, field)
  if limits["is_path"] or (limits["prefix"] and value.startswith(limits["prefix"])):
    places.check(value.removeprefix(limits["prefix"] or ""), f"config.{name}")
  return value


def _as_float32(value: Any) -> Any:
  """Returns the nearest float32 of a float, and an integer unchanged."""
  if type(value) is not float:
    return value
  try:
    return struct.unpack("f", struct.pack("f", value))[0]
  except OverflowError:
    return math.inf


def _parsed(name: str, text: str, field: dataclasses.Field) -> Any:
  """Returns a command line's text in the key's type, or raises UserError."""
  try:
    if field.type is bool:
      return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    return field.type(text)  # type: ignore[operator]
  except (ValueError, KeyError):
    raise _refuse(name, text, field) from None


def validate(config: Config) -> Config:
  """Checks the type and range of every value.

  Raises:
    UserError: names the key, its value and what is allowed.
  """
  for name, field in fields().items():
    _set(config, name, _checked(name, _get(config, name), field))
  if config.name and (config.name in (".", "..") or os.sep in config.name):
    raise UserError(f"config.name={config.name!r}: must be a name, not a path")
  return config


def override(config: Config, assignments: dict[str, str]) -> Config:
  """Sets dotted keys from the text of `--config.KEY=VALUE`.

  Raises:
    UserError: unknown key (with the nearest one), wrong type or value.
  """
  known = fields()
  for name, text in assignments.items():
    if name not in known:
      raise UserError(
        f"config.{name}={text!r}: no such key{hints.nearest(name, known)}"
      )
    value = _checked(name, _parsed(name, text, known[name]), known[name])
    _set(config, name, value)
  return config


def shown_data(data: Data) -> str:
  """Returns the key that says where the data are, and its value, for messages."""
  is_folder = data.dataset.startswith(registry.FOLDER)
  name = "data_dir" if data.data_dir and not is_folder else "dataset"
  return f"config.data.{name}={getattr(data, name)!r}"


def is_moved_folder(name: str, before: Any, now: Any) -> bool:
  """Returns whether a key differs only in the path of a folder of pictures.

  Data are known by their fingerprint, so the path may differ if that does not.
  """
  values = (before, now)
  return name == "data.dataset" and all(v.startswith(registry.FOLDER) for v in values)


def from_dict(values: dict[str, Any], source: str) -> Config:
  """Returns the config in a flat or nested dictionary that was read from `source`."""
  config, known = Config(), fields()
  flat: dict[str, Any] = {}

  def walk(node: dict[str, Any], prefix: str) -> None:
    for part, value in node.items():
      if isinstance(value, dict) and prefix + part not in known:
        walk(value, f"{prefix}{part}.")
      else:
        flat[prefix + part] = value

  walk(values, "")
  for name, value in flat.items():
    if name not in known:
      raise UserError(f"{source}: no such key {name!r}{hints.nearest(name, known)}")
    _set(config, name, _checked(name, value, known[name]))
  return config


def to_dict(config: Config) -> dict[str, Any]:
  """Returns nested plain values, as `config.json` holds them."""
  return dataclasses.asdict(config)


def load(path: str, flag: str = "--config") -> Config:
  """Reads a config file: Python with `get_config()`, or a run's `config.json`.

  Args:
    path: of the file.
    flag: the flag that named the file, for messages.

  Raises:
    UserError: there is no such file, it is not a config, or a value is invalid.
  """
  file = pathlib.Path(path)
  if os.path.isdir(path):
    run = os.path.join(path, "config.json")
    example = run if os.path.isfile(run) else "configs/net6a.py"
    raise UserError(f"{flag}={path!r}: is a folder; name a file such as {example}")
  if not os.path.isfile(path):  # False as well where a name is too long to be one
    other = hints.nearest_file(path)
    hint = f"; did you mean {other!r}?" if other else ""
    raise UserError(f"{flag}={path!r}: no such file{hint}")
  if file.suffix == ".json":
    config = _load_json(file)
  elif file.suffix == ".py":
    config = _load_python(file, flag)
  else:
    raise UserError(f"{flag}={path!r}: must end in .py or .json")
  config.name = config.name or file.stem
  return validate(config)


def _load_json(file: pathlib.Path) -> Config:
  try:
    values = json.loads(file.read_text())
  except (ValueError, OSError, RecursionError) as error:
    raise UserError(f"{file}: not readable as JSON: {error}") from None
  if not isinstance(values, dict):
    raise UserError(f"{file}: must hold an object of config keys")
  return from_dict(values, str(file))


def _load_python(file: pathlib.Path, flag: str) -> Config:
  spec = importlib.util.spec_from_file_location(f"_config_{file.stem}", file)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  root = str(file.resolve().parent.parent)  # so that a variant can import its base
  before = set(sys.modules)
  sys.path.insert(0, root)
  try:
    spec.loader.exec_module(module)
    config = module.get_config()
  except UserError as error:
    raise UserError(f"{flag}={str(file)!r}: {error}") from None
  except (Exception, SystemExit) as error:
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    raise UserError(f"{flag}={str(file)!r}: {what}") from None
  finally:
    sys.path.remove(root)
    for name in set(sys.modules) - before:  # another folder's bases have these names
      if name.partition(".")[0] == file.resolve().parent.name:
        del sys.modules[name]
  if not isinstance(config, Config):
    raise UserError(
      f"{flag}={str(file)!r}: get_config() must return cifar_flax.config.Config"
    )
  return config
