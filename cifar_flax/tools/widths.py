"""Finds the widths at which different convolution types cost the same, by counting."""

import bisect
import dataclasses
import functools
from collections.abc import Callable

from cifar_flax.config import Model
from cifar_flax.errors import UserError
from cifar_flax.tools import structure, summary

# Widths are multiples of 1 / STEPS, which give `uniform` every number of channels in
# its widest slots, 64 at width 1.
STEPS = 64
LARGEST = 16.0


@dataclasses.dataclass(frozen=True)
class Width:
  """A width of a network with a convolution type, and what the network costs.

  Attributes:
    width: `model.width`.
    parameters, multiply_adds: of the network.
    deviation: of the count that was to be equal from its target, as a fraction of the
      target.
  """

  width: float
  parameters: int
  multiply_adds: int
  deviation: float = 0.0


def count(model: Model, num_classes: int) -> dict[str, int]:
  """Returns the sums of `summary.totals` for a network."""
  return summary.totals(structure.layers(model, num_classes))


def same_width(model: Model, num_classes: int) -> Width:
  """Returns the network's own width."""
  totals = count(model, num_classes)
  return Width(model.width, totals["parameters"], totals["multiply_adds"])


def nearest(model: Model, num_classes: int, counted: str, target: int) -> Width:
  """Returns the width whose count is nearest to the target.

  Widths at which the type refuses its number of channels, because they are not
  divisible by its groups, are passed over. The number of steps is found by bisection,
  since a wider network has a larger count. If the network's own width is as near as any
  other, it is returned.

  Args:
    model: the network and its type; its width does not matter unless it fits.
    num_classes: number of logits.
    counted: a sum of `summary.totals`.
    target: what the sum is to be.

  Raises:
    UserError: even the largest width has a smaller count.
  """

  @functools.cache
  def totals(steps: int) -> dict[str, int] | None:
    width = dataclasses.replace(model, width=steps / STEPS)
    try:
      return count(width, num_classes)
    except ValueError:  # the type cannot divide these channels
      return None

  most = int(LARGEST * STEPS)
  found = _bisected(lambda steps: totals(steps), counted, target, most)
  own = round(model.width * STEPS)
  candidates = [steps for steps in (own, *found) if totals(steps) is not None]
  if not candidates or found == (most, most):
    raise UserError(
      f"model.convolution={model.convolution!r}: no width has {target:,} {counted}"
    )
  best = min(candidates, key=lambda steps: abs(totals(steps)[counted] - target))
  sums = totals(best)
  assert sums is not None
  while best > 1 and totals(best) != totals(own) and totals(best - 1) == sums:
    best -= 1  # the same network has the same width, whatever it was found for
  return Width(
    best / STEPS,
    sums["parameters"],
    sums["multiply_adds"],
    sums[counted] / target - 1,
  )


def _bisected(
  totals: Callable[[int], dict[str, int] | None], counted: str, target: int, most: int
) -> tuple[int, int]:
  """Returns the widest network below the target and the narrowest that reaches it."""

  def at_or_below(steps: int) -> int:
    while steps > 0 and totals(steps) is None:
      steps -= 1
    return steps

  def size(steps: int) -> int:
    sums = totals(at_or_below(steps)) if at_or_below(steps) else None
    return sums[counted] if sums else 0

  steps = bisect.bisect_left(range(1, most + 1), target, key=size) + 1
  above = min(steps, most)
  while above < most and totals(above) is None:
    above += 1
  return at_or_below(max(1, steps - 1)), above
