"""What a config can name, and where it lives: one line a network or convolution type.

The values are `module:attribute`, looked up when a network is built, so that a
config is checked against the names without importing JAX.
"""

import importlib
from typing import Any

CONVOLUTIONS = {
  "plain": "cifar_flax.convolutions:Plain",
  "spatially_separable": "cifar_flax.convolutions:SpatiallySeparable",
  "depthwise_separable": "cifar_flax.convolutions:DepthwiseSeparable",
  "grouped": "cifar_flax.convolutions:Grouped",
  "filter_groups": "cifar_flax.convolutions:FilterGroups",
  "dilated_branches": "cifar_flax.convolutions:DilatedBranches",
}

NETWORKS = {
  "net6a_dense": "cifar_flax.models.net6a_dense:Net6ADense",
  "net6a_wide": "cifar_flax.models.net6a_wide:Net6AWide",
  "net6a": "cifar_flax.models.net6a:Net6A",
  "net6b": "cifar_flax.models.net6b:Net6B",
  "uniform": "cifar_flax.models.uniform:Uniform",
}


def lookup(entry: str) -> Any:
  """The object that a registry's `module:attribute` names."""
  module, _, attribute = entry.partition(":")
  return getattr(importlib.import_module(module), attribute)
