"""Widths that make networks cost the same, beside a search through all widths."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import pytest

from cifar_flax import config as config_lib
from cifar_flax import registry
from cifar_flax.convolutions import Convolution
from cifar_flax.errors import UserError
from cifar_flax.tools import widths


def model_of(kind, width=1.0):
  model = config_lib.load("configs/conv_study.py").model
  return dataclasses.replace(model, convolution=kind, width=width)


# Multiply-adds of a slot for each pixel, and its weights, from its channels.
WEIGHTS = {
  "plain": lambda i, o: 9 * i * o,
  "dilated_branches": lambda i, o: 9 * i * o,
  "spatially_separable": lambda i, o: 3 * i * o + 3 * o * o,
  "depthwise_separable": lambda i, o: 9 * i + i * o,
  "grouped": lambda i, o: 9 * i * o // 4,
  "filter_groups": lambda i, o: 17 * i * o,
}


def network_sums(kind, channels):
  """Parameters and multiply-adds by hand, from the channels of stem and slots.

  Maps of 32x32 after the stem, 16x16 in block 1, 8x8 in block 2 and the head.
  """
  few, some, many = channels
  slots = [(few, some, 256), (some, some, 256), (some, many, 64), (many, many, 64)]
  weights = WEIGHTS[kind]
  parameters = 27 * few + sum(weights(i, o) for i, o, _ in slots) + 10 * many + 10
  parameters += 4 * (few + sum(o for _, o, _ in slots))  # BatchNorm with its averages
  multiply_adds = 1024 * 27 * few + 64 * 10 * many
  multiply_adds += sum(area * weights(i, o) for i, o, area in slots)
  return {"parameters": parameters, "multiply_adds": multiply_adds}


DIVISORS = {"grouped": 4, "filter_groups": 2, "dilated_branches": 2}


def channels_of(kind, width):
  divisor = DIVISORS.get(kind, 1)
  return [max(divisor, divisor * int(n * width / divisor + 0.5)) for n in (16, 32, 64)]


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("width", [0.3, 1.0, 1.7])
def test_counts_at_a_width_are_those_by_hand(kind, width):
  sums = widths.count(model_of(kind, width), 10)
  by_hand = network_sums(kind, channels_of(kind, width))
  assert {name: sums[name] for name in by_hand} == by_hand


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("counted", ["parameters", "multiply_adds"])
def test_no_other_width_is_nearer(kind, counted):
  target = network_sums("plain", (16, 32, 64))[counted]
  found = widths.nearest(model_of(kind), 10, counted, target)
  every = [
    network_sums(kind, channels_of(kind, k / 64))[counted] for k in range(1, 1025)
  ]
  nearest = min(every, key=lambda size: abs(size - target))
  assert getattr(found, counted) == nearest
  assert found.deviation == pytest.approx(nearest / target - 1)
  assert abs(found.deviation) < 0.02
  if kind in ("plain", "dilated_branches"):
    assert found.width == 1.0


def test_one_network_has_one_width():
  found = [
    widths.nearest(model_of("spatially_separable"), 10, "parameters", target).width
    for target in (70_000, 70_192, 70_500)
  ]
  assert found == [1.125] * 3
  own = widths.nearest(model_of("plain", 0.7), 10, "parameters", 60_000)
  same = widths.nearest(
    model_of("plain", 0.7),
    10,
    "parameters",
    widths.count(model_of("plain", 0.7), 10)["parameters"],
  )
  assert same.width == 0.7 and same.deviation == 0.0 and own.width != 0.7


class Eighths(Convolution):
  """Refuses channels that are not divisible by 8, and says so only when called."""

  @nn.compact
  def __call__(self, x):
    if x.shape[-1] % 8 or self.features % 8:
      raise ValueError("not divisible by 8")
    return self.conv(self.features, (3, 3), feature_group_count=8, name="conv")(x)


class Constant(Convolution):
  """Has no parameters, at any width."""

  @nn.compact
  def __call__(self, x):
    return jnp.zeros((*x.shape[:-1], self.features))


def test_widths_that_a_type_refuses_are_passed_over(monkeypatch):
  monkeypatch.setitem(registry.CONVOLUTIONS, "eighths", f"{__name__}:Eighths")
  found = widths.nearest(model_of("eighths"), 10, "multiply_adds", 7_561_216)
  assert found.width in (2.5, 3.0) and abs(found.deviation) < 0.25
  monkeypatch.setitem(registry.CONVOLUTIONS, "constant", f"{__name__}:Constant")
  with pytest.raises(UserError, match="'constant': no width has 100,000,000"):
    widths.nearest(model_of("constant"), 10, "multiply_adds", 100_000_000)
