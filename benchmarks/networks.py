"""The networks as plain lists of layers, from which PyTorch and Keras build theirs.

`cifar_flax.models` defines the same networks in Flax; `tests/test_benchmarks.py` checks
that outputs, losses and gradients of the peers equal those of the Flax networks.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from cifar_flax.config import Model


class Conv(NamedTuple):
  """A convolution with stride 1; depthwise if there is a group per input channel."""

  features: int
  size: tuple[int, int] = (3, 3)
  padding: str = "SAME"
  bias: bool = True
  groups: int = 1
  dilation: int = 1


class Branches(NamedTuple):
  """Parallel convolutions of one input; their outputs are concatenated."""

  convolutions: tuple[Conv, ...]


class Dense(NamedTuple):
  """A fully connected layer."""

  features: int


class BatchNorm(NamedTuple):
  """Batch normalisation; `momentum` is the weight of a moving average's old value."""

  momentum: float
  epsilon: float


class Dropout(NamedTuple):
  """Dropout: zero with probability `rate`, else divided by 1 - rate."""

  rate: float


class ReLU(NamedTuple):
  """The activation max(0, x)."""


class MaxPool(NamedTuple):
  """Maximum of 2x2 windows; an odd row or column is dropped."""


class Flatten(NamedTuple):
  """Flattens all dimensions but the batch into one."""


Layer = Conv | Branches | Dense | BatchNorm | Dropout | ReLU | MaxPool | Flatten


def net6a_dense(config: Model) -> list[Layer]:
  """Returns the layers of `configs/net6a_dense.py`."""
  layers: list[Layer] = []
  for features in (48, 96, 192):
    layers += [Conv(features), ReLU(), Conv(features, padding="VALID"), ReLU()]
    layers += [MaxPool(), Dropout(config.dropout_rate)]
  layers.append(Flatten())
  for features in (512, 256):
    layers += [Dense(features), ReLU(), Dropout(config.dense_dropout_rate)]
  return [*layers, Dense(10)]


def net6a_wide(config: Model) -> list[Layer]:
  """Returns the layers of `configs/net6a_wide.py`."""
  return _net6a(config, (48, 96, 192), norm=False)


def net6a(config: Model) -> list[Layer]:
  """Returns the layers of `configs/net6a.py`."""
  return _net6a(config, (32, 64, 128), norm=True)


def _net6a(config: Model, widths: tuple[int, int, int], norm: bool) -> list[Layer]:
  narrow, middle, wide = widths
  drop = Dropout(config.dropout_rate)
  norm_relu = _norm_relu(config) if norm else (ReLU(),)
  first: list[Layer] = [Conv(narrow), ReLU(), Conv(middle), ReLU()]
  first += [Conv(wide, padding="VALID"), ReLU(), drop]
  block = [Conv(middle), *norm_relu, Conv(wide), *norm_relu, drop]
  between = [Conv(narrow, (1, 1)), *norm_relu, MaxPool()]
  first += [Conv(narrow, (1, 1)), ReLU(), MaxPool()]
  head = [Conv(10, (1, 1)), *norm_relu, Conv(10, (7, 7), "VALID"), Flatten()]
  return [*first, *block, *between, *block, *head]


def net6b(config: Model) -> list[Layer]:
  """Returns the layers of `configs/net6b.py`."""
  norm_relu, drop = _norm_relu(config), Dropout(config.dropout_rate)
  between = [_conv(32, (1, 1)), *norm_relu, MaxPool()]
  types = convolution_types(config)
  return [
    *(_conv(32), *norm_relu),
    *types["spatially_separable"].layers,
    *(*types["depthwise_separable"].layers, drop, *between),
    *(*types["filter_groups"].layers, drop, *between),
    *(*types["dilated_branches"].layers, drop),
    *(_conv(10, (1, 1)), *norm_relu),
    *(_conv(10, (7, 7), "VALID"), Flatten()),
  ]


class Slot(NamedTuple):
  """The place of a convolution type in a network: its input, output and layers."""

  height: int
  channels: int
  features: int
  padding: str
  layers: list[Layer]


def convolution_types(config: Model) -> dict[str, Slot]:
  """Returns the types that are measured, each with its BatchNorm and ReLU.

  Four of them are in `net6b`; `plain` is in block 2 of `net6a`, `grouped` in `uniform`.
  """
  norm_relu = _norm_relu(config)
  vertical, horizontal = _conv(64, (3, 1), "VALID"), _conv(64, (1, 3), "VALID")
  depthwise = _conv(64, padding="VALID", groups=64)
  sizes = Branches((_conv(64), _conv(64, (5, 5))))
  dilations = Branches((_conv(64), _conv(64, dilation=2)))
  return {
    "plain": Slot(15, 64, 128, "SAME", [_conv(128), *norm_relu]),
    "spatially_separable": Slot(
      32, 32, 64, "VALID", [vertical, *norm_relu, horizontal, *norm_relu]
    ),
    "depthwise_separable": Slot(
      30, 64, 128, "VALID", [depthwise, _conv(128, (1, 1)), *norm_relu]
    ),
    "grouped": Slot(16, 32, 32, "SAME", [_conv(32, groups=4), *norm_relu]),
    "filter_groups": Slot(14, 32, 128, "SAME", [sizes, *norm_relu]),
    "dilated_branches": Slot(7, 32, 128, "SAME", [dilations, *norm_relu]),
  }


_conv = partial(Conv, bias=False)


def _norm_relu(config: Model) -> Sequence[Layer]:
  norm = BatchNorm(config.batch_norm_momentum, config.batch_norm_epsilon)
  return (norm, ReLU())


LAYERS = {
  "net6b": net6b,
  "net6a": net6a,
  "net6a_wide": net6a_wide,
  "net6a_dense": net6a_dense,
}
