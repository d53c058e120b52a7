"""What a network is made of, found in the network itself: layers and what they see."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from cifar_flax import config as config_lib
from cifar_flax import models
from cifar_flax.models.layers import Dropout

IMAGE = -1  # among a layer's sources
_MARK = "cifar_flax layer "
_LEAVES = (nn.Conv, nn.Dense, nn.BatchNorm, Dropout)


class Reach(NamedTuple):
  """What an element of an array depends on; pairs are of rows and columns.

  Attributes:
    field: pixels of the image that it can see, border included (Araujo et al. 2019,
      "Computing receptive fields of convolutional neural networks").
    jump: pixels of the image from it to its neighbour.
    sources: layers through whose output it sees them, `IMAGE` for the image itself.
  """

  field: tuple[int, ...] = (1, 1)
  jump: tuple[int, ...] = (1, 1)
  sources: frozenset[int] = frozenset({IMAGE})

  def through(self, sides: Sequence[int], strides: Sequence[int]) -> "Reach":
    """Behind a window of `sides` elements, moved by `strides`."""
    return self._replace(
      field=tuple(
        f + (side - 1) * j
        for f, side, j in zip(self.field, sides, self.jump, strict=True)
      ),
      jump=tuple(j * stride for j, stride in zip(self.jump, strides, strict=True)),
    )


@dataclasses.dataclass(frozen=True)
class Layer:
  """A layer as it is in a network, for one image.

  Attributes:
    name: path of the module.
    kind: name of its class, or `max_pool`.
    output: shape of what it makes.
    kernel: rows and columns, None without; strides, dilation and groups likewise.
    parameters: all, BatchNorm's moving averages included.
    trainable: those among them that are.
    multiply_adds: of convolutions and Dense layers, the padded border included.
    reach: receptive field and jump of its output, and the layers it reads.
  """

  name: str
  kind: str
  output: tuple[int, ...]
  kernel: tuple[int, ...] | None = None
  strides: tuple[int, ...] | None = None
  dilation: tuple[int, ...] | None = None
  groups: int | None = None
  parameters: int = 0
  trainable: int = 0
  multiply_adds: int = 0
  reach: Reach = Reach()

  @property
  def activations(self) -> int:
    """Numbers in its output."""
    return math.prod(self.output)


def layers(
  config: config_lib.Model,
  num_classes: int = 10,
  image_shape: tuple[int, int, int] = (32, 32, 3),
) -> list[Layer]:
  """The layers of a network, in the order in which they are computed.

  The network is traced, not run: what is listed is what it does.

  Args:
    config: a run's `config.model`.
    num_classes: number of logits.
    image_shape: height, width, channels.
  """
  # XLA's own operations: each is one that `_follow` knows.
  network = models.create(dataclasses.replace(config, ops="lax"), num_classes)
  images = jnp.zeros((1, *image_shape))
  initialise = lambda key: network.init(key, images, train=False)  # noqa: E731
  variables = jax.eval_shape(initialise, jax.random.key(0))
  found: list[Layer] = []

  def mark(layer: Layer, y: jax.Array) -> jax.Array:
    found.append(layer)
    return checkpoint_name(y, f"{_MARK}{len(found) - 1}")

  def max_pool(x, window=2):
    y = network.max_pool(x, window)
    sides = (window, window)
    return mark(Layer("max_pool", "max_pool", y.shape[1:], sides, sides), y)

  inside = False

  def intercept(call, args, kwargs, context):
    nonlocal inside
    module = context.module
    outermost = isinstance(module, _LEAVES) and not inside
    if not outermost or context.method_name != "__call__":
      return call(*args, **kwargs)
    inside = True
    y = call(*args, **kwargs)
    inside = False
    return mark(_describe(module, args[0].shape, y.shape, variables), y)

  def trace(variables, images):
    with nn.intercept_methods(intercept):
      return network.clone(max_pool=max_pool).apply(variables, images, train=False)

  program = jax.make_jaxpr(trace)(variables, images).jaxpr
  nothing = [None] * len(jax.tree.leaves(variables))
  reaches: dict[int, Reach] = {}
  _follow(program, [*nothing, Reach()], reaches)
  return [
    dataclasses.replace(layer, reach=reaches[number])
    for number, layer in enumerate(found)
  ]


def _describe(module: nn.Module, x, y, variables) -> Layer:
  """All but the reach."""
  sizes = {}
  for collection, tree in variables.items():
    for name in module.path:
      tree = tree.get(name, {})
    sizes[collection] = sum(leaf.size for leaf in jax.tree.leaves(tree))
  facts: dict[str, Any] = {}
  if isinstance(module, nn.Conv):
    kernel, groups = _pair(module.kernel_size), module.feature_group_count
    facts = {
      "kernel": kernel,
      "strides": _pair(module.strides),
      "dilation": _pair(module.kernel_dilation),
      "groups": groups,
      "multiply_adds": math.prod(y[1:]) * math.prod(kernel) * x[-1] // groups,
    }
  elif isinstance(module, nn.Dense):
    facts = {"multiply_adds": math.prod(y[1:]) * x[-1]}
  return Layer(
    name="/".join(module.path),
    kind=type(module).__name__,
    output=tuple(y[1:]),
    parameters=sum(sizes.values()),
    trainable=sizes["params"],
    **facts,
  )


def _pair(value: Any) -> tuple[int, ...]:
  return (value or 1,) * 2 if value is None or isinstance(value, int) else tuple(value)


def _follow(
  program: Any, inputs: Sequence[Reach | None], found: dict[int, Reach]
) -> list[Reach | None]:
  """Carries reaches from a program's inputs to its outputs; None: not of the image.

  Args:
    program: a jaxpr.
    inputs: a reach for each of its inputs.
    found: takes the reach of every marked layer.
  """
  known: dict[Any, Reach | None] = dict(zip(program.invars, inputs, strict=True))

  def read(variable: Any) -> Reach | None:
    return None if hasattr(variable, "val") else known.get(variable)  # val: a literal

  for equation in program.eqns:
    reaches = [read(variable) for variable in equation.invars]
    inner = next(_programs(equation.params), None)
    if inner is not None:
      results = _follow(inner, reaches[-len(inner.invars) :], found)
    else:
      result = _join(reaches)
      if result is not None:
        result = _behind(equation, result)
      name = equation.params.get("name", "")
      if result and equation.primitive.name == "name" and name.startswith(_MARK):
        number = int(name.removeprefix(_MARK))
        found[number] = result
        result = result._replace(sources=frozenset({number}))
      results = [result] * len(equation.outvars)
    known.update(zip(equation.outvars, results, strict=True))
  return [read(variable) for variable in program.outvars]


def _programs(parameters: dict[str, Any]) -> Iterator[Any]:
  """The programs that an equation calls."""
  for value in parameters.values():
    value = getattr(value, "jaxpr", value)
    if hasattr(value, "eqns"):
      yield value


def _join(reaches: Sequence[Reach | None]) -> Reach | None:
  """Of what is computed from all of them."""
  seen = [reach for reach in reaches if reach is not None]
  if not seen:
    return None
  return Reach(
    field=tuple(map(max, zip(*(r.field for r in seen), strict=True))),
    jump=tuple(map(max, zip(*(r.jump for r in seen), strict=True))),
    sources=frozenset().union(*(r.sources for r in seen)),
  )


def _behind(equation: Any, reach: Reach) -> Reach:
  """The reach of an operation's result, from that of its operands."""
  parameters, kind = equation.params, equation.primitive.name
  shape, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
  if kind == "conv_general_dilated":
    dimensions = parameters["dimension_numbers"]
    kernel = equation.invars[1].aval.shape
    sides = [kernel[axis] for axis in dimensions.rhs_spec[2:]]
    sides = [
      (side - 1) * rate + 1
      for side, rate in zip(sides, parameters["rhs_dilation"], strict=True)
    ]
    return reach.through(sides, parameters["window_strides"])
  if kind.startswith("reduce_window"):
    sides, strides = parameters["window_dimensions"], parameters["window_strides"]
    return reach.through(sides[1:3], strides[1:3])
  flattened = kind == "reshape" and len(shape) == 4 and len(result) == 2
  averaged = kind.startswith("reduce_") and {1, 2} <= set(parameters.get("axes", ()))
  if flattened or (averaged and len(shape) == 4):
    return reach.through(shape[1:3], (1, 1))  # all pixels at once
  return reach
