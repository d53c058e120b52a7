"""Counts a traced program's arithmetic by the name scope that computes it.

A multiply-add is one product that is summed: in a convolution (with the border that
padding adds), in a dot product, and where a layer writes the sum itself, as in a
depthwise convolution made of shifted products. Scaling, gating and normalising are
elementwise work, which is counted apart.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator
from typing import Any

Scope = str | None  # a name scope; None is outside of all

# Results of these are the operand's values at other places.
_MOVES = {
  "broadcast_in_dim",
  "concatenate",
  "convert_element_type",
  "copy",
  "expand_dims",
  "gather",
  "name",
  "neg",
  "pad",
  "reduce_precision",
  "reshape",
  "rev",
  "slice",
  "split",
  "squeeze",
  "stack",
  "stop_gradient",
  "transpose",
}
# Arithmetic that JAX hides from a traced program.
_OPAQUE = {
  "custom_call",
  "eigh",
  "fft",
  "ffi_call",
  "io_callback",
  "pallas_call",
  "pure_callback",
  "triangular_solve",
}


@dataclasses.dataclass
class Cost:
  """The arithmetic in a name scope, for the traced batch.

  Attributes:
    multiply_adds: products that are summed.
    elementwise: other results of arithmetic, one per element.
    unknown: primitives that hide arithmetic; with any, the counts are lower bounds.
  """

  multiply_adds: int = 0
  elementwise: int = 0
  unknown: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True)
class _Value:
  """What is known of a variable, to find sums of products.

  Attributes:
    products: products that have not been summed yet: (scope, how many) each.
    is_sum: whether it is a sum written by hand, or a value that a loop accumulates.
    is_zero: whether it is the constant 0, with which accumulation starts.
  """

  products: tuple[tuple[Scope, int], ...] = ()
  is_sum: bool = False
  is_zero: bool = False


_PLAIN = _Value()


def count(program: Any, scopes: Collection[str]) -> dict[Scope, Cost]:
  """Counts what is computed in each name scope.

  Args:
    program: a jaxpr.
    scopes: names of scopes (`jax.named_scope`); work belongs to the innermost of them.

  Returns:
    The cost of each scope that computes something.
  """
  costs: dict[Scope, Cost] = {}
  _Counter(costs, frozenset(scopes)).run(program, [_PLAIN] * len(program.invars))
  return costs


class _Counter:
  """Walks through a program, and the programs that it calls."""

  def __init__(self, costs: dict[Scope, Cost], scopes: frozenset[str]):
    self._costs, self._scopes = costs, scopes

  def run(
    self, program: Any, inputs: list[_Value], scope: Scope = None, times: int = 1
  ) -> list[_Value]:
    """Counts a program that runs so many times; returns what its outputs hold."""
    known = dict(zip(program.invars, inputs, strict=True))

    def read(variable: Any) -> _Value:
      if hasattr(variable, "val"):  # a literal
        return _Value(is_zero=_is_zero(variable.val))
      return known.get(variable, _PLAIN)

    for equation in program.eqns:
      here = self._scope(equation, scope)
      values = [read(variable) for variable in equation.invars]
      inner = list(programs(equation))
      if inner:
        results = self._call(equation, inner, values, here, times)
      else:
        results = [self._operation(equation, values, here, times)]
        results *= len(equation.outvars)
      known.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in program.outvars]

  def _scope(self, equation: Any, outer: Scope) -> Scope:
    """Returns the innermost of the scopes that an equation is in."""
    names = [
      name
      for scope in equation.source_info.name_stack.stack
      for name in getattr(scope, "name", "").split("/")
      if name in self._scopes
    ]
    return names[-1] if names else outer

  def _cost(self, scope: Scope) -> Cost:
    return self._costs.setdefault(scope, Cost())

  def _call(
    self,
    equation: Any,
    inner: list[Any],
    values: list[_Value],
    scope: Scope,
    times: int,
  ) -> list[_Value]:
    """Counts what an equation's programs compute."""
    kind = equation.primitive.name
    if kind == "scan":
      for i in _carried(equation, inner[0]):  # what a loop may accumulate
        values[i] = dataclasses.replace(values[i], is_sum=True, is_zero=False)
      length = equation.params["length"]
      return self.run(inner[0], values, scope, times * length)
    if kind in ("while", "cond"):
      self._cost(scope).unknown.add(kind)
    if kind == "while":
      split = equation.params["cond_nconsts"]
      return self.run(inner[1], values[split:], scope, times)
    if kind == "cond":
      return self._largest(inner, values[1:], scope, times)
    return self.run(inner[0], values[-len(inner[0].invars) :], scope, times)

  def _largest(
    self, branches: list[Any], values: list[_Value], scope: Scope, times: int
  ) -> list[_Value]:
    """Counts the branch with the most multiply-adds."""
    found = []
    for branch in branches:
      costs: dict[Scope, Cost] = {}
      results = _Counter(costs, self._scopes).run(branch, values, scope, times)
      found.append((sum(c.multiply_adds for c in costs.values()), costs, results))
    _, costs, results = max(found, key=lambda entry: entry[0])
    for inner, cost in costs.items():
      mine = self._cost(inner)
      mine.multiply_adds += cost.multiply_adds
      mine.elementwise += cost.elementwise
      mine.unknown |= cost.unknown
    return results

  def _operation(
    self, equation: Any, values: list[_Value], scope: Scope, times: int
  ) -> _Value:
    kind = equation.primitive.name
    size = times * math.prod(getattr(equation.outvars[0].aval, "shape", ()))
    cost = self._cost(scope)
    if kind == "conv_general_dilated":
      cost.multiply_adds += size * _window(equation)
      return _PLAIN
    if kind == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      cost.multiply_adds += size * math.prod(shape[axis] for axis in contracted)
      return _PLAIN
    if kind in _OPAQUE:
      cost.unknown.add(kind)
      return _PLAIN
    if kind in _MOVES:
      return _joined(values[:2] if kind == "pad" else values)
    if kind == "mul" and _is_product(equation):
      cost.elementwise += size  # until a sum of it is seen
      return _Value(products=((scope, size),))
    if kind in ("add", "sub", "add_any") and self._is_accumulation(values):
      self._sum(values)
      if any(value.is_zero for value in values):
        return next(value for value in values if not value.is_zero)
      return _Value(is_sum=True)
    if kind == "reduce_sum" and values[0].products and not _averages_pixels(equation):
      self._sum(values)
      return _Value(is_sum=True)
    if _is_arithmetic(equation):
      cost.elementwise += size
    return _PLAIN

  def _is_accumulation(self, values: list[_Value]) -> bool:
    """Returns whether an addition sums products: two, or one and a sum or zero."""
    one, other = values
    return bool(
      (one.products and (other.products or other.is_sum or other.is_zero))
      or (other.products and (one.is_sum or one.is_zero))
    )

  def _sum(self, values: list[_Value]) -> None:
    """Turns the products into multiply-adds of the scopes that made them."""
    if any(value.is_zero for value in values):
      return  # the first term of an accumulation: its products wait for the next one
    for value in values:
      for scope, number in value.products:
        self._cost(scope).multiply_adds += number
        self._cost(scope).elementwise -= number


def programs(equation: Any) -> Iterator[Any]:
  """Yields the programs that an equation calls, as jaxprs."""
  for value in equation.params.values():
    for each in value if isinstance(value, tuple | list) else (value,):
      each = getattr(each, "jaxpr", each)
      if hasattr(each, "eqns"):
        yield each


def _carried(equation: Any, body: Any) -> range:
  """Returns which inputs of a scan it carries from one step to the next.

  They stand behind the constants and before the sequences, as in its results. A
  sequence has an axis that the body does not see. (The parameters that count them
  differ between versions of JAX.)
  """

  def same_rank(outer: Any, inner: Any) -> int:
    pairs = zip(outer, inner, strict=True)
    return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in pairs)

  carried = same_rank(equation.outvars, body.outvars)
  fixed = same_rank(equation.invars, body.invars)
  return range(fixed - carried, fixed)


def _window(equation: Any) -> int:
  """Returns the multiply-adds for one element of a convolution's result."""
  kernel = equation.invars[1].aval.shape
  _, inputs, *sides = equation.params["dimension_numbers"].rhs_spec
  return kernel[inputs] * math.prod(kernel[side] for side in sides)


def _is_product(equation: Any) -> bool:
  """Returns whether two arrays are multiplied; a square or a constant is no product."""
  one, other = equation.invars
  return one is not other and not hasattr(one, "val") and not hasattr(other, "val")


def _averages_pixels(equation: Any) -> bool:
  """Returns whether a sum is over rows and columns alone, as in an average pooling."""
  shape = equation.invars[0].aval.shape
  return len(shape) == 4 and set(equation.params["axes"]) <= {1, 2}


def _is_arithmetic(equation: Any) -> bool:
  kinds = {str(getattr(v.aval, "dtype", "")) for v in equation.outvars}
  moves = {"iota", "select_n", "dynamic_slice", "dynamic_update_slice", "argmax"}
  return equation.primitive.name not in moves and any("float" in k for k in kinds)


def _is_zero(value: Any) -> bool:
  try:
    return bool(value == 0)
  except (TypeError, ValueError):  # an array with several elements
    return False


def _joined(values: list[_Value]) -> _Value:
  """Returns what is known of a value that is made of several others."""
  return _Value(
    products=tuple(product for value in values for product in value.products),
    is_sum=any(value.is_sum for value in values),
    is_zero=bool(values) and all(value.is_zero for value in values),
  )
