"""What can be done from Python; everything here is in `cifar_flax` itself.

Importing it is fast: JAX is imported when a function is called.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cifar_flax import config as config_lib
from cifar_flax import hints, places, registry
from cifar_flax.config import Config
from cifar_flax.errors import UserError

if TYPE_CHECKING:
  from cifar_flax.tools.structure import Layer
  from cifar_flax.tools.trained import Trained

Path = str | os.PathLike[str]
RESULTS = pathlib.Path(__file__).resolve().parent.parent / "results"


def load(run: Path, checkpoint: str = "best") -> "Trained":
  """Loads a trained network.

  Args:
    run: a run directory, or the name of a network in `results/` of this repository.
    checkpoint: "best" or "last".

  Raises:
    UserError: there is no such run, or its checkpoint is missing or damaged.
  """
  from cifar_flax.tools.trained import Trained

  path = pathlib.Path(places.expanded(os.fspath(run), "run"))
  if not path.is_dir() and (RESULTS / path).is_dir():
    path = RESULTS / path
  if not path.is_dir():
    names = [each.name for each in sorted(RESULTS.glob("*/")) if each.is_dir()]
    hint = hints.nearest(str(run), names)
    raise UserError(f"{str(run)!r}: no such run directory{hint}")
  return Trained(path, checkpoint)


def fit(config: Config | Path, workdir: Path, quiet: bool = False) -> "Trained":
  """Trains a config, or resumes its run, and returns the network after the last epoch.

  Args:
    config: a `Config`, or the path of a config file.
    workdir: the run directory; made if absent.
    quiet: prints no progress; the run's files are written all the same.

  Raises:
    UserError: data, config and run directory do not fit together.
    Diverged: the run diverged; its checkpoints hold finite numbers only.
  """
  from cifar_flax import train
  from cifar_flax.run import accelerators, observers

  path = pathlib.Path(places.expanded(os.fspath(workdir), "workdir"))
  watchers = observers.create_files() if quiet else None
  accelerators.check()
  train.train_and_evaluate(_config(config), path, watchers)
  return load(path, "last")


@dataclasses.dataclass(frozen=True)
class Costs:
  """What a network costs for one image; print and notebooks show it as a table.

  Attributes:
    name: of the network.
    parameters: number of parameters, BatchNorm's moving averages included.
    trainable: number of parameters that are trained.
    multiply_adds: products that are summed, those on padding included.
    elementwise: other results of arithmetic.
    activations: elements in the outputs of all layers.
    layers: the same for each layer, with output shapes and receptive fields.
  """

  name: str
  parameters: int
  trainable: int
  multiply_adds: int
  elementwise: int
  activations: int
  layers: "list[Layer]" = dataclasses.field(repr=False)

  def __str__(self) -> str:
    """Returns the table that `python -m cifar_flax summary` prints."""
    from cifar_flax.tools import summary

    return summary.table(self.layers, self.name).text()

  def _repr_html_(self) -> str:
    from cifar_flax.tools import summary

    return summary.table(self.layers, self.name).html()


def costs(config: Config | Path, num_classes: int | None = None) -> Costs:
  """Counts what the network of a config costs, without training or data.

  Args:
    config: a `Config`, or the path of a config file.
    num_classes: number of classes; by default, that of the config's data set.
  """
  from cifar_flax.tools import structure, summary

  config = _config(config)
  if num_classes is None:
    num_classes = registry.num_classes(config.data.dataset)
  layers = structure.layers(config.model, num_classes)
  return Costs(config.model.name, layers=layers, **summary.totals(layers))


def runs(folder: Path) -> list[dict[str, Any]]:
  """Returns a row for each finished epoch of all runs in a folder, or of one run.

  A row has the run's directory, relative to `folder`, its seed, the config keys in
  which the runs differ, and the metrics of `metrics.jsonl`, so that
  `pandas.DataFrame(cifar_flax.runs("runs"))` is a tidy table. Neither data nor
  checkpoints are read.

  Raises:
    UserError: there is no run in the folder, or a file in it is damaged.
  """
  from cifar_flax.run import directory, files

  top = pathlib.Path(places.expanded(os.fspath(folder), "folder"))
  found = sorted(file.parent for file in top.glob("**/config.json"))
  if not found:
    raise UserError(f"{str(folder)!r}: no run here (no config.json)")
  configs = [config_lib.load(str(path / "config.json")) for path in found]
  values = [config_lib.flatten(config) for config in configs]
  ignored = {"seed", *directory.FREE_KEYS}
  differ = [
    key
    for key in values[0]
    if key not in ignored and any(each[key] != values[0][key] for each in values)
  ]
  rows = []
  for path, of_run in zip(found, values, strict=True):
    first = {"run": str(path.relative_to(top)), "seed": of_run["seed"]}
    first |= {key: of_run[key] for key in differ}
    metrics = path / "metrics.jsonl"
    epochs = files.read_json_lines(metrics) if metrics.exists() else []
    rows += [{**first, **row} for row in epochs]
  return rows


def register(name: str) -> Callable[[type], type]:
  """Makes a class decorator that registers a type of convolution or a network.

  @cf.register("shuffled")
  class Shuffled(Convolution): ...

  From then on, `config.model.convolution`, or `config.model.name` for a network, can be
  this name in this process. Registering a name again replaces its class. Commands know
  only the names in `registry.py`.

  Raises:
    UserError: the name is one of this project's own, or the class is neither a
      `Convolution` nor a `Network`.
  """

  def decorate(cls: type) -> type:
    from cifar_flax import convolutions, steps
    from cifar_flax.models import network

    for base, names in (
      (convolutions.Convolution, registry.CONVOLUTIONS),
      (network.Network, registry.NETWORKS),
    ):
      if not issubclass(cls, base):
        continue
      if isinstance(names.get(name), str):
        raise UserError(f"register({name!r}): the project has this name; take another")
      names[name] = cls
      steps.program_of.cache_clear()  # a program may contain the class before
      return cls
    raise UserError(
      f"register({name!r}): {cls.__name__} must be a subclass of Convolution or Network"
    )

  return decorate


def _config(config: Config | Path) -> Config:
  if isinstance(config, Config):
    return config_lib.validate(config)
  return config_lib.load(os.fspath(config))
