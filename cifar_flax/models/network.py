"""The base of the networks, with the parts that `models.create` binds from a config."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import flax.linen as nn
import jax

from cifar_flax.convolutions import Layer, MakeConv, MakeLayer
from cifar_flax.models.layers import Dropout


class MakeDense(Protocol):
  """Makes an `nn.Dense` with dtype and initialisation bound."""

  def __call__(self, features: int, *, name: str | None = None) -> Layer:
    """Returns a layer that maps [batch, in] to [batch, features]."""


class MakeNorm(Protocol):
  """Makes a `BatchNormReLU` with momentum, epsilon, dtype and axis name bound."""

  def __call__(self, *, use_running_average: bool, name: str | None = None) -> Layer:
    """Returns the layer; it uses the batch's statistics or the moving averages."""


class MakeConvolution(Protocol):
  """Makes a `convolutions.Convolution` of the type that the config names."""

  def __call__(
    self,
    *,
    features: int,
    conv: MakeConv,
    name: str | None = None,
    parent: nn.Module | None = ...,  # type: ignore[assignment]
  ) -> Layer:
    """Returns the layer, with padding "SAME" and stride 1."""


class Network(nn.Module, kw_only=True):
  """Base of the networks.

  A network names each of its layers by its role (`stem`, `block1_conv2`,
  `block1_conv2_norm`, `transition1`, `head`). Checkpoints, exports and dropout masks
  depend on these names and not on the order, so inserting a layer does not affect the
  others.

  Attributes:
    num_classes: number of logits.
    conv: makes an `nn.Conv`, with dtype, initialisation and implementation bound.
    dense: makes an `nn.Dense`, with dtype and initialisation bound.
    norm: makes a `BatchNormReLU`, with momentum, epsilon, dtype and axis name bound.
    convolution: makes a `convolutions.Convolution` of the type that the config names;
      only `uniform` uses it.
    width: factor on the number of channels; only `uniform` uses it.
    max_pool: halves height and width; an odd row or column is dropped.
    dropout_rate: rate of dropout after convolutions.
    dense_dropout_rate: rate of dropout after Dense layers.
  """

  num_classes: int
  conv: MakeConv
  dense: MakeDense
  norm: MakeNorm
  convolution: MakeConvolution
  width: float
  max_pool: Layer
  dropout_rate: float
  dense_dropout_rate: float

  def batch_norm_relu(self, train: bool) -> MakeLayer:
    """Returns a maker of `BatchNormReLU`, with the batch's statistics in training."""
    return partial(self.norm, use_running_average=not train)

  def dropout(
    self, example_keys: jax.Array | None, rate: float | None = None
  ) -> Callable[[jax.Array, str], jax.Array]:
    """Returns a function (x, name) that applies a `Dropout` of this name to x.

    Args:
      example_keys: uint32 [batch], the per-example keys; None disables dropout.
      rate: probability of a zero; `dropout_rate` by default.
    """
    rate = self.dropout_rate if rate is None else rate
    return lambda x, name: Dropout(rate, name=name)(x, example_keys)
