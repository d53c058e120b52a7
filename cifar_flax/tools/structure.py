"""Layers of a network, with their costs and receptive fields, found by tracing it.

Nothing here knows the classes of layers: parameters are those of the real tree, and
everything else is read from the traced program (see `costs` and `dependence`).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from cifar_flax import config as config_lib
from cifar_flax import models
from cifar_flax.data.records import IMAGE_SHAPE
from cifar_flax.models.layers import Dropout
from cifar_flax.ops import compiler
from cifar_flax.tools import costs, dependence

IMAGE = -1  # stands for the image among the inputs of a layer
_SCOPE = "cifar_flax call "  # and a number: the scope and the mark of a layer's call


class ReceptiveField(NamedTuple):
  """The receptive field of an array's elements; pairs are (rows, columns).

  Attributes:
    size: side lengths of the field in pixels of the image, padding included (Araujo et
      al. 2019, "Computing receptive fields of convolutional neural networks").
    jump: distance in pixels of the image between the fields of neighbouring elements.
    inputs: layers whose output the array is computed from directly; `IMAGE` for the
      image.
    exact: whether it is exact; else the field may be smaller.
  """

  size: tuple[int, ...] = (1, 1)
  jump: tuple[int, ...] = (1, 1)
  inputs: frozenset[int] = frozenset({IMAGE})
  exact: bool = True


@dataclasses.dataclass(frozen=True)
class Layer:
  """A layer of a network and its costs for one image.

  Attributes:
    name: path of the module; "(network)" for what the network computes itself.
    kind: name of its class, or `max_pool`.
    output: shape of its output.
    kernel: rows and columns of an `nn.Conv`'s kernel, else None.
    strides, dilation: rows and columns, likewise.
    groups: number of channel groups of an `nn.Conv`, else None.
    parameters: number of its own parameters, BatchNorm's moving averages included; 0
      where it is used again.
    trainable: number of its own trainable parameters.
    multiply_adds: products that it sums, including those on padding.
    elementwise: other results of arithmetic, such as scaling and gating.
    unknown: operations that hide arithmetic; with any, both counts are lower bounds.
    receptive_field: receptive field of its output, and the layers it reads.
    part_of: class of the module that contains it, such as `FilterGroups`; "" if it is
      the network.
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
  elementwise: int = 0
  unknown: tuple[str, ...] = ()
  receptive_field: ReceptiveField = ReceptiveField()
  part_of: str = ""

  @property
  def activations(self) -> int:
    """Number of elements in its output."""
    return math.prod(self.output)


def layers(config: config_lib.Model, num_classes: int = 10) -> list[Layer]:
  """Returns the layers of a network, in the order in which they are computed.

  A layer is a module that has parameters or multiply-adds of its own, a dropout, or a
  pooling. A module with submodules is one too if it has any besides theirs.

  Args:
    config: a run's `config.model`.
    num_classes: number of logits.
  """
  models.set_precision(config.dtype)
  # With ops="lax", every operation is one that `costs` and `dependence` can read.
  network = models.create(dataclasses.replace(config, ops="lax"), num_classes)
  images = jnp.zeros((1, *IMAGE_SHAPE))
  initialise = lambda key: network.init(key, images, train=False)  # noqa: E731
  variables = jax.eval_shape(initialise, jax.random.key(0))
  tracer = _Tracer(network, variables)
  # A type that calls `ops.convolution` itself is counted as the one convolution it is.
  with compiler.compiling_for("tpu"):
    program = jax.make_jaxpr(tracer.apply)(variables, images).jaxpr
  counted = costs.count(program, tracer.scopes())
  calls = [call for call in tracer.finished if _is_layer(call, counted)]
  fields = _receptive_fields(
    program, variables, {c.scope: i for i, c in enumerate(calls)}
  )
  return [
    _layer(call, counted.get(call.scope, costs.Cost()), fields[i])
    for i, call in enumerate(calls)
  ]


@dataclasses.dataclass
class _Call:
  """A call of a module, or of a pooling.

  Attributes:
    scope: the name scope of what it computes.
    module: what is called; None for a pooling.
    facts: attributes of `Layer` that need no tracing.
  """

  scope: str | None
  module: nn.Module | None
  facts: dict[str, Any]


class _Tracer:
  """Applies a network with a name scope around the call of each module.

  Attributes:
    finished: the calls, in the order in which they end; the network's own is the last.
  """

  def __init__(self, network: models.Network, variables: Any):
    self._network = network.clone(max_pool=self._max_pool)
    self._pool: Callable[..., jax.Array] = network.max_pool
    self._variables = variables
    self._active: dict[tuple[str, ...], str] = {}
    self._counted: set[tuple[str, ...]] = set()
    self._number = 0
    self.finished: list[_Call] = []

  def scopes(self) -> set[str]:
    """Returns the name scopes of all calls."""
    return {call.scope for call in self.finished if call.scope is not None}

  def apply(self, variables: Any, images: jax.Array) -> jax.Array:
    """Returns the logits of `images`."""
    with nn.intercept_methods(self._intercept):
      logits: Any = self._network.apply(variables, images, train=False)
    self._finish(None, self._network, (), logits)
    return logits

  def _intercept(self, call, args, kwargs, context):
    module, path = context.module, context.module.path
    # A subclass that calls its parent's `__call__` is one call.
    if context.method_name != "__call__" or not path or path in self._active:
      return call(*args, **kwargs)
    self._active[path] = type(module).__name__
    scope = self._new_scope()
    with jax.named_scope(scope):
      y = call(*args, **kwargs)
    del self._active[path]
    return self._finish(scope, module, path, y)

  def _max_pool(self, x: jax.Array, window: int = 2) -> jax.Array:
    scope, sides = self._new_scope(), (window, window)
    with jax.named_scope(scope):
      y = self._pool(x, window)
    facts: dict[str, Any] = {"name": "max_pool", "kind": "max_pool"}
    facts |= {"output": tuple(y.shape[1:]), "kernel": sides, "strides": sides}
    self.finished.append(_Call(scope, None, facts))
    return checkpoint_name(y, scope)

  def _new_scope(self) -> str:
    self._number += 1
    return f"{_SCOPE}{self._number}"

  def _finish(
    self, scope: str | None, module: nn.Module, path: tuple[str, ...], y: Any
  ) -> Any:
    facts: dict[str, Any] = {
      "name": "/".join(path) or "(network)",
      "kind": type(module).__name__,
      "output": tuple(jax.tree.leaves(y)[0].shape[1:]),
      "part_of": self._active.get(path[:-1], ""),
    }
    if path not in self._counted:
      self._counted.add(path)
      sizes = {
        collection: _own_size(tree, path)
        for collection, tree in self._variables.items()
      }
      facts |= {"parameters": sum(sizes.values()), "trainable": sizes["params"]}
    if isinstance(module, nn.Conv):
      facts |= {
        "kernel": _pair(module.kernel_size),
        "strides": _pair(module.strides),
        "dilation": _pair(module.kernel_dilation),
        "groups": module.feature_group_count,
      }
    self.finished.append(_Call(scope, module, facts))
    if scope is None:
      return y
    return jax.tree.map(lambda leaf: checkpoint_name(leaf, scope), y)


def _own_size(tree: Any, path: tuple[str, ...]) -> int:
  """Returns the number of elements of the arrays at a path, without those below it."""
  for name in path:
    tree = tree.get(name, {})
  own = [leaf for leaf in tree.values() if not isinstance(leaf, dict)]
  return sum(leaf.size for leaf in jax.tree.leaves(own))


def _is_layer(call: _Call, counted: dict[Any, costs.Cost]) -> bool:
  cost = counted.get(call.scope, costs.Cost())
  kept = call.module is None or isinstance(call.module, Dropout)
  own = call.facts.get("parameters") or cost.multiply_adds or cost.unknown
  return bool(kept or own)


def _receptive_fields(
  program: Any, variables: Any, numbers: dict[str | None, int]
) -> dict[int, ReceptiveField]:
  """Returns the receptive field of each layer, by its number."""
  fields: dict[int, ReceptiveField] = {}

  def describe(seen: dependence.Seen) -> ReceptiveField:
    spans = (seen.rows, seen.columns)
    size, jump = tuple(s.size for s in spans), tuple(s.jump for s in spans)
    return ReceptiveField(size, jump, seen.sources, seen.exact)

  def mark(name: str, seen: dependence.Seen) -> dependence.Seen:
    if name not in numbers:
      return seen
    fields[numbers[name]] = describe(seen)
    return dataclasses.replace(seen, sources=frozenset({numbers[name]}))

  inputs = [None] * len(jax.tree.leaves(variables))
  (logits,) = dependence.follow(program, [*inputs, dependence.IMAGE], mark)
  if None in numbers and logits is not None:
    fields[numbers[None]] = describe(logits)
  missing = set(numbers.values()) - fields.keys()  # layers that do not see the image
  return fields | {
    number: ReceptiveField((0, 0), (0, 0), frozenset()) for number in missing
  }


def _layer(call: _Call, cost: costs.Cost, field: ReceptiveField) -> Layer:
  return Layer(
    **call.facts,
    multiply_adds=cost.multiply_adds,
    elementwise=cost.elementwise,
    unknown=tuple(sorted(cost.unknown)),
    receptive_field=field,
  )


def _pair(value: Any) -> tuple[int, ...]:
  return (value or 1,) * 2 if value is None or isinstance(value, int) else tuple(value)
