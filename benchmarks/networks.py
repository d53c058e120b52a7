"""The networks once more, as plain lists of layers, for the peers to build from.

What `cifar_flax.models` says in Flax stands here without any framework, so that
PyTorch and Keras are given the same layers, and `tests/test_benchmarks.py` holds
their outputs against ours.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from cifar_flax.config import Model


class Conv(NamedTuple):
  """A convolution with stride 1; `groups` as many as input channels is depthwise."""

  features: int
  size: tuple[int, int] = (3, 3)
  padding: str = "SAME"
  bias: bool = True
  groups: int = 1
  dilation: int = 1


class Branches(NamedTuple):
  """Convolutions of one input, side by side; their outputs are concatenated."""

  convolutions: tuple[Conv, ...]


class Dense(NamedTuple):
  """Every output sees every input."""

  features: int


class BatchNorm(NamedTuple):
  """Per channel; `momentum` is the weight of the moving average's old value."""

  momentum: float
  epsilon: float


class Dropout(NamedTuple):
  """Zero with probability `rate`, else divided by 1 - rate."""

  rate: float


class ReLU(NamedTuple):
  """The larger of 0 and the input."""


class MaxPool(NamedTuple):
  """2x2; an odd row or column is dropped."""


class Flatten(NamedTuple):
  """All but the batch in one dimension."""


Layer = Conv | Branches | Dense | BatchNorm | Dropout | ReLU | MaxPool | Flatten


def net6a_dense(config: Model) -> list[Layer]:
  """The layers of `configs/net6a_dense.py`."""
  layers: list[Layer] = []
  for features in (48, 96, 192):
    layers += [Conv(features), ReLU(), Conv(features, padding="VALID"), ReLU()]
    layers += [MaxPool(), Dropout(config.dropout_rate)]
  layers.append(Flatten())
  for features in (512, 256):
    layers += [Dense(features), ReLU(), Dropout(config.dense_dropout_rate)]
  return [*layers, Dense(10)]


def net6a_wide(config: Model) -> list[Layer]:
  """The layers of `configs/net6a_wide.py`."""
  return _net6a(config, (48, 96, 192), norm=False)


def net6a(config: Model) -> list[Layer]:
  """The layers of `configs/net6a.py`."""
  return _net6a(config, (32, 64, 128), norm=True)


def _net6a(config: Model, widths: tuple[int, int, int], norm: bool) -> list[Layer]:
  narrow, middle, wide = widths
  drop = Dropout(config.dropout_rate)
  plus = [*_plus(config)] if norm else [ReLU()]
  first: list[Layer] = [Conv(narrow), ReLU(), Conv(middle), ReLU()]
  first += [Conv(wide, padding="VALID"), ReLU(), drop]
  block = [Conv(middle), *plus, Conv(wide), *plus, drop]
  between = [Conv(narrow, (1, 1)), *plus, MaxPool()]
  first += [Conv(narrow, (1, 1)), ReLU(), MaxPool()]
  head = [Conv(10, (1, 1)), *plus, Conv(10, (7, 7), "VALID"), Flatten()]
  return [*first, *block, *between, *block, *head]


def net6b(config: Model) -> list[Layer]:
  """The layers of `configs/net6b.py`."""
  plus, drop = _plus(config), Dropout(config.dropout_rate)
  between = [_conv(32, (1, 1)), *plus, MaxPool()]
  types = convolution_types(config)
  return [
    *(_conv(32), *plus),
    *types["spatially_separable"].layers,
    *(*types["depthwise_separable"].layers, drop, *between),
    *(*types["filter_groups"].layers, drop, *between),
    *(*types["dilated_branches"].layers, drop),
    *(_conv(10, (1, 1)), *plus),
    *(_conv(10, (7, 7), "VALID"), Flatten()),
  ]


class Slot(NamedTuple):
  """A convolution type where a network uses it: input, output, all of its layers."""

  height: int
  channels: int
  features: int
  padding: str
  layers: list[Layer]


def convolution_types(config: Model) -> dict[str, Slot]:
  """Each type of `registry.CONVOLUTIONS`, with the BatchNorm and ReLU around it.

  Four stand in `net6b`; `plain` in `net6a`'s second block, `grouped` in `uniform`.
  """
  plus = _plus(config)
  vertical, horizontal = _conv(64, (3, 1), "VALID"), _conv(64, (1, 3), "VALID")
  depthwise = _conv(64, padding="VALID", groups=64)
  sizes = Branches((_conv(64), _conv(64, (5, 5))))
  dilations = Branches((_conv(64), _conv(64, dilation=2)))
  return {
    "plain": Slot(15, 64, 128, "SAME", [_conv(128), *plus]),
    "spatially_separable": Slot(
      32, 32, 64, "VALID", [vertical, *plus, horizontal, *plus]
    ),
    "depthwise_separable": Slot(
      30, 64, 128, "VALID", [depthwise, _conv(128, (1, 1)), *plus]
    ),
    "grouped": Slot(16, 32, 32, "SAME", [_conv(32, groups=4), *plus]),
    "filter_groups": Slot(14, 32, 128, "SAME", [sizes, *plus]),
    "dilated_branches": Slot(7, 32, 128, "SAME", [dilations, *plus]),
  }


_conv = partial(Conv, bias=False)


def _plus(config: Model) -> Sequence[Layer]:
  norm = BatchNorm(config.batch_norm_momentum, config.batch_norm_epsilon)
  return (norm, ReLU())


LAYERS = {
  "net6b": net6b,
  "net6a": net6a,
  "net6a_wide": net6a_wide,
  "net6a_dense": net6a_dense,
}
