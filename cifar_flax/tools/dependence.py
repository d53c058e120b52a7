"""Finds which pixels of the image each value of a traced program depends on.

Every value records which of its axes runs along the image's rows and which along its
columns, and which pixels an element sees: element i sees the pixels from
`jump * i + low` to `jump * i + high` (Araujo et al. 2019, "Computing
receptive fields of convolutional neural networks"). Values that are combined see what
any of them sees, so skips and branches are followed like everything else.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from cifar_flax.tools.costs import programs

# Operations whose result has the operand's shape, and elements of other places in it.
_MIXING = {
  "cumlogsumexp",
  "cummax",
  "cummin",
  "cumprod",
  "cumsum",
  "dynamic_slice",
  "dynamic_update_slice",
  "fft",
  "gather",
  "rev",
  "sort",
  "top_k",
}


@dataclasses.dataclass(frozen=True)
class Span:
  """The rows, or the columns, of the image that the elements of a value see.

  Attributes:
    axis: along which the elements move over the image; None if all see the same.
    low: first pixel that element 0 sees; it may lie outside of the image.
    high: its last pixel.
    jump: pixels from an element to its neighbour.
  """

  axis: int | None
  low: int
  high: int
  jump: int = 1

  @property
  def size(self) -> int:
    """Number of pixels that an element sees."""
    return self.high - self.low + 1

  def window(
    self, side: int, stride: int = 1, rate: int = 1, before: int = 0
  ) -> "Span":
    """Returns the span behind a window of `side` elements that moves by `stride`.

    Args:
      side: elements in the window.
      stride: elements from one window to the next.
      rate: elements from one of the window to the next.
      before: elements that padding adds in front.
    """
    return dataclasses.replace(
      self,
      low=self.low - before * self.jump,
      high=self.high + ((side - 1) * rate - before) * self.jump,
      jump=self.jump * stride,
    )

  def everything(self, length: int) -> "Span":
    """Returns the span of `length` elements along the axis together."""
    if self.axis is None:
      return self
    return Span(None, self.low, self.high + self.jump * (length - 1), self.jump)


@dataclasses.dataclass(frozen=True)
class Seen:
  """What the elements of a value depend on.

  Attributes:
    rows, columns: of the image.
    sources: numbers of the layers through whose results the image is seen, -1 for the
      image itself.
    exact: whether every operation on the way was understood; otherwise an operation
      counts as if each element saw all elements of its operands.
  """

  rows: Span
  columns: Span
  sources: frozenset[int] = frozenset({-1})
  exact: bool = True

  def spans(self, change: Callable[[Span], Span]) -> "Seen":
    """Returns a copy with both spans changed."""
    return dataclasses.replace(
      self, rows=change(self.rows), columns=change(self.columns)
    )


IMAGE = Seen(Span(1, 0, 0), Span(2, 0, 0))  # [batch, rows, columns, channels]


def follow(
  program: Any,
  inputs: Sequence[Seen | None],
  mark: Callable[[str, Seen], Seen],
) -> list[Seen | None]:
  """Propagates what is seen from a program's inputs to its outputs.

  Args:
    program: a jaxpr.
    inputs: for each input what its elements see; None if nothing of the image.
    mark: called with the name and what is seen at each `checkpoint_name`; returns what
      is seen behind it.

  Returns:
    As `inputs`, for each output.
  """
  known: dict[Any, Seen | None] = dict(zip(program.invars, inputs, strict=True))

  def read(variable: Any) -> Seen | None:
    return None if hasattr(variable, "val") else known.get(variable)

  for equation in program.eqns:
    values = [read(variable) for variable in equation.invars]
    called = list(programs(equation))
    if called:
      results = _call(equation, called, values, mark)
    else:
      results = [_result(equation, values, variable) for variable in equation.outvars]
      if equation.primitive.name == "name" and results[0] is not None:
        results = [mark(equation.params["name"], results[0])]
    known.update(zip(equation.outvars, results, strict=True))
  return [read(variable) for variable in program.outvars]


def _call(
  equation: Any,
  called: list[Any],
  values: list[Seen | None],
  mark: Callable[[str, Seen], Seen],
) -> list[Seen | None]:
  kind = equation.primitive.name
  if kind == "cond":
    results = [follow(branch, values[1:], mark) for branch in called]
    return [_union(group) for group in zip(*results, strict=True)]
  if kind in ("scan", "while"):  # each step may see all that the loop is given
    whole = [
      _whole(v, variable) for v, variable in zip(values, equation.invars, strict=True)
    ]
    seen = _union(whole)
    if seen is not None:
      seen = dataclasses.replace(seen, exact=False)
    return [seen] * len(equation.outvars)
  return follow(called[0], values[-len(called[0].invars) :], mark)


def _union(values: Sequence[Seen | None]) -> Seen | None:
  """Returns what a value sees that is computed element by element from all of these."""
  seen = [value for value in values if value is not None]
  if not seen:
    return None
  return Seen(
    _join([value.rows for value in seen]),
    _join([value.columns for value in seen]),
    frozenset().union(*(value.sources for value in seen)),
    all(value.exact for value in seen),
  )


def _join(spans: Sequence[Span]) -> Span:
  moving = [span for span in spans if span.axis is not None]
  axis = moving[0].axis if moving else None
  jump = max(span.jump for span in (moving or spans))
  return Span(axis, min(s.low for s in spans), max(s.high for s in spans), jump)


def _whole(value: Seen | None, variable: Any) -> Seen | None:
  """Returns what all elements of a value see together."""
  if value is None:
    return None
  shape = variable.aval.shape
  return value.spans(lambda s: s if s.axis is None else s.everything(shape[s.axis]))


def _moved(span: Span, axes: dict[int, int]) -> Span:
  """Returns the span with its axis renumbered by `axes`."""
  return span if span.axis is None else dataclasses.replace(span, axis=axes[span.axis])


def _result(equation: Any, values: list[Seen | None], result: Any) -> Seen | None:
  """Returns what the result of an operation sees."""
  if all(value is None for value in values):
    return None
  kind = equation.primitive.name
  rule = _RULES.get(kind)
  if rule is not None:
    return rule(equation, values)
  if kind in _MIXING or kind.startswith("scatter"):
    return _not_understood(equation, values)
  shape, seen = getattr(result.aval, "shape", ()), []
  for value, variable in zip(values, equation.invars, strict=True):
    if value is None:
      continue
    operand = variable.aval.shape
    fits = len(operand) == len(shape)
    if not fits or any(a not in (1, b) for a, b in zip(operand, shape, strict=True)):
      return _not_understood(equation, values)
    seen.append(value.spans(functools.partial(_repeated, before=operand, after=shape)))
  return _union(seen)  # element by element


def _repeated(span: Span, before: Sequence[int], after: Sequence[int]) -> Span:
  """Returns the span after broadcasting, which may repeat an axis of one element."""
  if span.axis is None or before[span.axis] == after[span.axis]:
    return span
  return span.everything(before[span.axis])


def _not_understood(equation: Any, values: list[Seen | None]) -> Seen | None:
  pairs = zip(values, equation.invars, strict=True)
  seen = _union([_whole(value, variable) for value, variable in pairs])
  return None if seen is None else dataclasses.replace(seen, exact=False)


def _convolution(equation: Any, values: list[Seen | None]) -> Seen | None:
  """Follows a convolution; a kernel made of the image counts as not understood."""
  seen, kernel = values
  if seen is None or kernel is not None:
    return _not_understood(equation, values)
  parameters = equation.params
  numbers = parameters["dimension_numbers"]
  sides = [equation.invars[1].aval.shape[axis] for axis in numbers.rhs_spec[2:]]
  spatial = list(numbers.lhs_spec[2:])
  shape = equation.invars[0].aval.shape

  def through(span: Span) -> Span:
    if span.axis is None:
      return span
    if span.axis not in spatial:  # summed over, as channels are
      return span.everything(shape[span.axis])
    i = spatial.index(span.axis)
    if parameters["lhs_dilation"][i] != 1:
      return dataclasses.replace(span.everything(shape[span.axis]))
    behind = span.window(
      sides[i],
      parameters["window_strides"][i],
      parameters["rhs_dilation"][i],
      parameters["padding"][i][0],
    )
    return dataclasses.replace(behind, axis=numbers.out_spec[2:][i])

  return seen.spans(through)


def _pooling(equation: Any, values: list[Seen | None]) -> Seen | None:
  parameters, seen = equation.params, values[0]
  assert seen is not None

  def through(span: Span) -> Span:
    if span.axis is None:
      return span
    return span.window(
      parameters["window_dimensions"][span.axis],
      parameters["window_strides"][span.axis],
      parameters["window_dilation"][span.axis],
      parameters["padding"][span.axis][0],
    )

  return seen.spans(through)


def _reduction(equation: Any, values: list[Seen | None]) -> Seen | None:
  """Follows a sum, maximum or the like over axes, which the result does not have."""
  seen, axes = values[0], tuple(equation.params["axes"])
  assert seen is not None
  shape = equation.invars[0].aval.shape
  left = [axis for axis in range(len(shape)) if axis not in axes]
  places = {axis: place for place, axis in enumerate(left)}

  def through(span: Span) -> Span:
    if span.axis in axes:
      return span.everything(shape[span.axis])
    return _moved(span, places)

  return seen.spans(through)


def _product(equation: Any, values: list[Seen | None]) -> Seen | None:
  """Follows a dot product: it sums over contracted axes and keeps the others."""
  (contract, batch) = equation.params["dimension_numbers"]
  seen = []
  free_before = 0
  for side, value in enumerate(values):
    shape = equation.invars[side].aval.shape
    contracted, batched = contract[side], batch[side]
    free = [a for a in range(len(shape)) if a not in contracted and a not in batched]
    first = len(batched) + free_before
    places = {axis: place for place, axis in enumerate(batched)}
    places |= {axis: first + i for i, axis in enumerate(free)}
    free_before = len(free)
    if value is None:
      continue

    def through(span: Span, shape=shape, contracted=contracted, places=places) -> Span:
      if span.axis in contracted:
        return span.everything(shape[span.axis])
      return _moved(span, places)

    seen.append(value.spans(through))
  return _union(seen)


def _reshape(equation: Any, values: list[Seen | None]) -> Seen | None:
  """Follows a reshape: an axis is kept if its length and what precedes it are."""
  seen = values[0]
  assert seen is not None
  before = equation.invars[0].aval.shape
  after = equation.outvars[0].aval.shape

  def through(span: Span) -> Span:
    if span.axis is None:
      return span
    length, leading = before[span.axis], math.prod(before[: span.axis])
    for axis, size in enumerate(after):
      if size == length and math.prod(after[:axis]) == leading:
        return dataclasses.replace(span, axis=axis)
    return span.everything(length)

  return seen.spans(through)


def _transpose(equation: Any, values: list[Seen | None]) -> Seen | None:
  assert values[0] is not None
  places = {axis: i for i, axis in enumerate(equation.params["permutation"])}
  return values[0].spans(lambda span: _moved(span, places))


def _broadcast(equation: Any, values: list[Seen | None]) -> Seen | None:
  assert values[0] is not None
  places = dict(enumerate(equation.params["broadcast_dimensions"]))
  before = equation.invars[0].aval.shape
  after = equation.outvars[0].aval.shape

  def through(span: Span) -> Span:
    if span.axis is not None and before[span.axis] != after[places[span.axis]]:
      return span.everything(before[span.axis])  # one element, repeated
    return _moved(span, places)

  return values[0].spans(through)


def _squeeze(equation: Any, values: list[Seen | None]) -> Seen | None:
  assert values[0] is not None
  shape, gone = equation.invars[0].aval.shape, equation.params["dimensions"]
  left = [axis for axis in range(len(shape)) if axis not in gone]
  places = {axis: i for i, axis in enumerate(left)}
  return values[0].spans(
    lambda span: span.everything(1) if span.axis in gone else _moved(span, places)
  )


def _slice(equation: Any, values: list[Seen | None]) -> Seen | None:
  assert values[0] is not None
  starts = equation.params["start_indices"]
  strides = equation.params["strides"] or (1,) * len(starts)

  def through(span: Span) -> Span:
    if span.axis is None:
      return span
    first = span.jump * starts[span.axis]
    return Span(
      span.axis, span.low + first, span.high + first, span.jump * strides[span.axis]
    )

  return values[0].spans(through)


def _pad(equation: Any, values: list[Seen | None]) -> Seen | None:
  seen, value = values
  config = equation.params["padding_config"]
  if seen is None or value is not None:
    return _not_understood(equation, values)
  shape = equation.invars[0].aval.shape

  def through(span: Span) -> Span:
    if span.axis is None:
      return span
    low, _, inner = map(int, config[span.axis])
    if inner:
      return span.everything(shape[span.axis])
    return dataclasses.replace(
      span, low=span.low - low * span.jump, high=span.high - low * span.jump
    )

  return seen.spans(through)


def _concatenation(equation: Any, values: list[Seen | None]) -> Seen | None:
  """Follows a concatenation; along rows or columns, each part has its own place."""
  axis, offset, seen = equation.params["dimension"], 0, []
  for value, variable in zip(values, equation.invars, strict=True):
    if value is not None:

      def through(span: Span, offset=offset) -> Span:
        if span.axis != axis:
          return span
        shift = offset * span.jump
        return dataclasses.replace(span, low=span.low - shift, high=span.high - shift)

      seen.append(value.spans(through))
    offset += variable.aval.shape[axis]
  return _union(seen)


def _stack(equation: Any, values: list[Seen | None]) -> Seen | None:
  """Follows a stack of values along a new axis."""
  new = equation.params["axis"] % len(equation.outvars[0].aval.shape)
  length = len(equation.outvars[0].aval.shape)
  places = dict(enumerate(axis for axis in range(length) if axis != new))
  seen = [v.spans(lambda span: _moved(span, places)) for v in values if v is not None]
  return _union(seen)


def _selection(equation: Any, values: list[Seen | None]) -> Seen | None:
  return _union(values)


_RULES: dict[str, Callable[[Any, list[Seen | None]], Seen | None]] = {
  "conv_general_dilated": _convolution,
  "dot_general": _product,
  "reshape": _reshape,
  "transpose": _transpose,
  "broadcast_in_dim": _broadcast,
  "squeeze": _squeeze,
  "slice": _slice,
  "pad": _pad,
  "stack": _stack,
  "concatenate": _concatenation,
  "select_n": _selection,
  **dict.fromkeys(
    ("reduce_window_max", "reduce_window_sum", "reduce_window_min"), _pooling
  ),
  **dict.fromkeys(
    ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin"),
    _reduction,
  ),
}
