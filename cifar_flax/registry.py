"""What a config can name: one line per network, convolution type or data set.

The values say where each lives, as `module:attribute`, and are looked up when they are
needed, so that a config is checked against the names without importing JAX or TFDS.
Classes that `cifar_flax.register` adds are values themselves.
"""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

CONVOLUTIONS: dict[str, str | type] = {
  "plain": "cifar_flax.convolutions:Plain",
  "spatially_separable": "cifar_flax.convolutions:SpatiallySeparable",
  "depthwise_separable": "cifar_flax.convolutions:DepthwiseSeparable",
  "grouped": "cifar_flax.convolutions:Grouped",
  "filter_groups": "cifar_flax.convolutions:FilterGroups",
  "dilated_branches": "cifar_flax.convolutions:DilatedBranches",
}

NETWORKS: dict[str, str | type] = {
  "net6a_dense": "cifar_flax.models.net6a_dense:Net6ADense",
  "net6a_wide": "cifar_flax.models.net6a_wide:Net6AWide",
  "net6a": "cifar_flax.models.net6a:Net6A",
  "net6b": "cifar_flax.models.net6b:Net6B",
  "uniform": "cifar_flax.models.uniform:Uniform",
}


class Source(NamedTuple):
  """A data set.

  Attributes:
    num_classes: of its labels.
    version: in TFDS.
    prepare: `module:attribute` of a function (folder, archive) that has TFDS write it
      to `folder`, from the official file or folder `archive` if one is given.
    splits: the number of examples of each split, so that a split string can be checked
      before the data set is downloaded.
  """

  num_classes: int
  version: str
  prepare: str
  splits: Mapping[str, int]


_SOURCES = "cifar_flax.data.sources"
_CIFAR = {"train": 50_000, "test": 10_000}
_SVHN = {"train": 73_257, "test": 26_032, "extra": 531_131}
_SHAPES = {"train": 10_000, "test": 2_000}
DATASETS = {
  "cifar10": Source(10, "3.0.2", f"{_SOURCES}.cifar:prepare", _CIFAR),
  "cifar100": Source(100, "3.0.2", f"{_SOURCES}.cifar:prepare", _CIFAR),
  "svhn_cropped": Source(10, "3.1.0", f"{_SOURCES}.svhn:prepare", _SVHN),
  "shapes10": Source(10, "1.0.0", f"{_SOURCES}.shapes10:prepare", _SHAPES),
}
FOLDER = "folder:"  # before a path: pictures, in a folder for each class


def num_classes(dataset: str) -> int:
  """Returns the number of classes; 10 for a folder, which is unknown until read."""
  source = DATASETS.get(dataset)
  return source.num_classes if source else 10


def lookup(entry: str | type) -> Any:
  """Returns the object that a `module:attribute` names, or a class as it is."""
  if not isinstance(entry, str):
    return entry
  module, _, attribute = entry.partition(":")
  return getattr(importlib.import_module(module), attribute)
