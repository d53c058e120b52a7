"""Layers of a network and their receptive fields, found by tracing the network."""

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

IMAGE = -1  # stands for the image among the inputs of a layer
_MARK = "cifar_flax layer "
_LEAVES = (nn.Conv, nn.Dense, nn.BatchNorm, Dropout)


class ReceptiveField(NamedTuple):
  """The receptive field of an array's elements; pairs are (rows, columns).

  Attributes:
    size: side lengths of the field in pixels of the image, padding included (Araujo et
      al. 2019, "Computing receptive fields of convolutional neural networks").
    jump: distance in pixels of the image between the fields of neighbouring elements.
    inputs: layers whose output the array is computed from directly; `IMAGE` for the
      image.
  """

  size: tuple[int, ...] = (1, 1)
  jump: tuple[int, ...] = (1, 1)
  inputs: frozenset[int] = frozenset({IMAGE})

  def after_window(
    self, window: Sequence[int], strides: Sequence[int]
  ) -> "ReceptiveField":
    """Returns the field after a sliding window (a convolution or pooling)."""
    return self._replace(
      size=tuple(
        size + (side - 1) * jump
        for size, side, jump in zip(self.size, window, self.jump, strict=True)
      ),
      jump=tuple(jump * s for jump, s in zip(self.jump, strides, strict=True)),
    )


@dataclasses.dataclass(frozen=True)
class Layer:
  """A layer of a network and its costs for one image.

  Attributes:
    name: path of the module.
    kind: name of its class, or `max_pool`.
    output: shape of its output.
    kernel: rows and columns of its kernel; None if it has none.
    strides, dilation: rows and columns; None if it has none.
    groups: number of channel groups; None if it is not a convolution.
    parameters: number of parameters, BatchNorm's moving averages included.
    trainable: number of trainable parameters.
    multiply_adds: count for convolutions and Dense layers, including those on padding;
      0 for other layers.
    receptive_field: receptive field of its output, and the layers it reads.
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
  receptive_field: ReceptiveField = ReceptiveField()

  @property
  def activations(self) -> int:
    """Number of elements in its output."""
    return math.prod(self.output)


def layers(
  config: config_lib.Model,
  num_classes: int = 10,
  image_shape: tuple[int, int, int] = (32, 32, 3),
) -> list[Layer]:
  """Returns the layers of a network, in the order in which they are computed.

  The network is traced, not run, so the list is what it really computes.

  Args:
    config: a run's `config.model`.
    num_classes: number of logits.
    image_shape: height, width, channels.
  """
  # With ops="lax", every operation is one that `_propagate` can interpret.
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
  fields: dict[int, ReceptiveField] = {}
  _propagate(program, [*nothing, ReceptiveField()], fields)
  return [
    dataclasses.replace(layer, receptive_field=fields[number])
    for number, layer in enumerate(found)
  ]


def _describe(module: nn.Module, x, y, variables) -> Layer:
  """Returns a layer without its receptive field."""
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


def _propagate(
  program: Any,
  inputs: Sequence[ReceptiveField | None],
  found: dict[int, ReceptiveField],
) -> list[ReceptiveField | None]:
  """Propagates receptive fields from a program's inputs to its outputs.

  A value that does not depend on the image has None.

  Args:
    program: a jaxpr.
    inputs: the receptive field of each of its inputs.
    found: is filled with the receptive field of every marked layer.
  """
  known: dict[Any, ReceptiveField | None] = dict(
    zip(program.invars, inputs, strict=True)
  )

  def read(variable: Any) -> ReceptiveField | None:
    is_literal = hasattr(variable, "val")
    return None if is_literal else known.get(variable)

  for equation in program.eqns:
    operands = [read(variable) for variable in equation.invars]
    inner = next(_called_programs(equation.params), None)
    if inner is not None:
      results = _propagate(inner, operands[-len(inner.invars) :], found)
    else:
      result = _union(operands)
      if result is not None:
        result = _after_operation(equation, result)
      name = equation.params.get("name", "")
      if result and equation.primitive.name == "name" and name.startswith(_MARK):
        number = int(name.removeprefix(_MARK))
        found[number] = result
        result = result._replace(inputs=frozenset({number}))
      results = [result] * len(equation.outvars)
    known.update(zip(equation.outvars, results, strict=True))
  return [read(variable) for variable in program.outvars]


def _called_programs(parameters: dict[str, Any]) -> Iterator[Any]:
  """Yields the programs (jaxprs) that an equation calls."""
  for value in parameters.values():
    value = getattr(value, "jaxpr", value)
    if hasattr(value, "eqns"):
      yield value


def _union(operands: Sequence[ReceptiveField | None]) -> ReceptiveField | None:
  """Returns the smallest receptive field that contains those of all operands."""
  fields = [field for field in operands if field is not None]
  if not fields:
    return None
  return ReceptiveField(
    size=tuple(map(max, zip(*(field.size for field in fields), strict=True))),
    jump=tuple(map(max, zip(*(field.jump for field in fields), strict=True))),
    inputs=frozenset().union(*(field.inputs for field in fields)),
  )


def _after_operation(equation: Any, operands: ReceptiveField) -> ReceptiveField:
  """Returns the receptive field of an operation's result from its operands' one."""
  parameters, kind = equation.params, equation.primitive.name
  shape, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
  if kind == "conv_general_dilated":
    dimensions = parameters["dimension_numbers"]
    kernel = equation.invars[1].aval.shape
    sides = [kernel[axis] for axis in dimensions.rhs_spec[2:]]
    window = [
      (side - 1) * rate + 1
      for side, rate in zip(sides, parameters["rhs_dilation"], strict=True)
    ]
    return operands.after_window(window, parameters["window_strides"])
  if kind.startswith("reduce_window"):
    window, strides = parameters["window_dimensions"], parameters["window_strides"]
    return operands.after_window(window[1:3], strides[1:3])
  flattened = kind == "reshape" and len(shape) == 4 and len(result) == 2
  averaged = kind.startswith("reduce_") and {1, 2} <= set(parameters.get("axes", ()))
  if flattened or (averaged and len(shape) == 4):
    return operands.after_window(shape[1:3], (1, 1))  # the result reads all pixels
  return operands
