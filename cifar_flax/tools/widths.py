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
  def totals(width: float) -> dict[str, int]:
    """Returns the sums of a width; none if the type cannot divide its channels."""
    try:
      return count(dataclasses.replace(model, width=width), num_classes)
    except ValueError:
      return {}

  below, above = _bisected(lambda steps: totals(steps / STEPS).get(counted), target)
  candidates = [model.width, *(steps / STEPS for steps in (below, above) if steps)]
  candidates = [width for width in candidates if totals(width)]
  if not candidates or not above:
    raise UserError(
      f"model.convolution={model.convolution!r}: no width has {target:,} {counted}"
    )
  best = min(candidates, key=lambda width: abs(totals(width)[counted] - target))
  sums = totals(best)
  if sums == totals(model.width):
    best = model.width
  # The same network gets the same width, whatever it was found for.
  while best not in (model.width, 1 / STEPS) and totals(best - 1 / STEPS) == sums:
    best -= 1 / STEPS
  deviation = sums[counted] / target - 1
  return Width(best, sums["parameters"], sums["multiply_adds"], deviation)


def _bisected(
  size: Callable[[int], int | None], target: int
) -> tuple[int | None, int | None]:
  """Returns the last number whose size is below the target, and the first other one.

  Args:
    size: rises with its argument, 1 to `LARGEST * STEPS`; None where there is no size.
    target: the size to find.
  """
  numbers = range(1, int(LARGEST * STEPS) + 1)

  def largest_up_to(number: int) -> int:
    known = (s for n in range(number, 0, -1) if (s := size(n)) is not None)
    return next(known, 0)

  first = bisect.bisect_left(numbers, target, key=largest_up_to) + 1
  below = (n for n in range(first - 1, 0, -1) if size(n) is not None)
  above = (n for n in range(first, numbers[-1] + 1) if size(n) is not None)
  return next(below, None), next(above, None)
