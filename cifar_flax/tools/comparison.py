"""Compares accuracies over seeds: differences with intervals, fronts, and sentences.

Two configs that are trained with the same seeds are compared seed by seed. They differ
if the 95 % interval of the mean difference (Student's t, n - 1 degrees of freedom)
excludes zero. With fewer than `LEAST_SEEDS` common seeds, nothing is concluded.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from scipy import stats

from cifar_flax import tables

LEAST_SEEDS = 3
CONFIDENCE = 0.95
SAME = 0.025  # costs that differ by a smaller fraction are not worth a word


@dataclasses.dataclass(frozen=True)
class Difference:
  """The mean difference between two configs over their common seeds.

  Attributes:
    mean: in points.
    half_width: of its 95 % interval, in points; infinite for n < 2.
    n: number of common seeds.
  """

  mean: float
  half_width: float
  n: int

  @property
  def is_clear(self) -> bool:
    """Whether there are enough seeds and the interval excludes zero."""
    return self.n >= LEAST_SEEDS and abs(self.mean) > self.half_width

  def text(self) -> str:
    """Returns the mean with its interval, such as "+0.42 [-0.10, +0.94]"."""
    if math.isinf(self.half_width):
      return f"{self.mean:+.2f}"
    low, high = self.mean - self.half_width, self.mean + self.half_width
    return f"{self.mean:+.2f} [{low:+.2f}, {high:+.2f}]"


@dataclasses.dataclass(frozen=True)
class Entry:
  """A config's results, and what it costs.

  Attributes:
    name: of the config or type of convolution.
    accuracies: in percent, by seed.
    costs: by the name of the cost; None where one is unknown.
    group: what it was compared for; entries of a group are drawn alike.
  """

  name: str
  accuracies: Mapping[int, float]
  costs: Mapping[str, float | None]
  group: str = ""

  @property
  def mean(self) -> float:
    """The mean accuracy, percent."""
    return tables.mean_and_deviation(list(self.accuracies.values()))[0]


def difference(entry: Entry, base: Entry) -> Difference | None:
  """Returns `entry` minus `base` over their common seeds; None if there are none."""
  seeds = sorted(entry.accuracies.keys() & base.accuracies.keys())
  if not seeds:
    return None
  pairs = [entry.accuracies[seed] - base.accuracies[seed] for seed in seeds]
  mean, deviation = tables.mean_and_deviation(pairs)
  if deviation is None:
    return Difference(mean, math.inf, 1)
  quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(pairs) - 1))
  return Difference(mean, quantile * deviation / math.sqrt(len(pairs)), len(pairs))


def front(entries: Sequence[Entry], cost: str) -> list[Entry]:
  """Returns the Pareto front of accuracy against a cost, in the order of the cost.

  An entry is in the front if it is clearly more accurate than the one before it.
  Entries whose cost is unknown are left out.
  """
  known = [entry for entry in entries if entry.costs.get(cost) is not None]
  found: list[Entry] = []
  for entry in sorted(known, key=lambda e: (e.costs[cost], -e.mean)):
    gain = difference(entry, found[-1]) if found else None
    if not found or (gain is not None and gain.is_clear and gain.mean > 0):
      found.append(entry)
  return found


def sentences(entries: Sequence[Entry], base: Entry, opening: str) -> list[str]:
  """Says which entries are better or worse than `base`, and which cannot be told.

  Args:
    entries: the entries to compare, `base` excluded.
    base: the entry that they are compared with.
    opening: how each sentence begins, such as "In the same slots".

  Returns:
    A sentence for each entry that differs clearly, best first, and one for all others;
    none for entries with too few seeds.
  """
  compared = [(entry, difference(entry, base)) for entry in entries]
  known = [(e, d) for e, d in compared if d is not None and d.n >= LEAST_SEEDS]
  known.sort(key=lambda pair: -pair[1].mean)
  found = [
    f"{opening}, {entry.name} is {'better' if gap.mean > 0 else 'worse'} than "
    f"{base.name} by {abs(gap.mean):.2f} points "
    f"({_interval(gap, abs(gap.mean))}){_ratios(entry, base)}."
    for entry, gap in known
    if gap.is_clear
  ]
  unclear = [(entry, gap) for entry, gap in known if not gap.is_clear]
  if unclear:
    parts = [
      f"{entry.name} ({gap.mean:+.2f} points, {_interval(gap, gap.mean, '+')})"
      for entry, gap in unclear
    ]
    found.append(f"{opening}, {_listed(parts)} could not be told from {base.name}.")
  return found


def _interval(gap: Difference, mean: float, sign: str = "") -> str:
  """Returns the interval around a mean difference, and the number of seeds.

  Args:
    gap: the difference.
    mean: its mean, or the mean's absolute value.
    sign: "+" to print the signs of positive numbers.
  """
  low, high = mean - gap.half_width, mean + gap.half_width
  return f"95 % interval {low:{sign}.2f} to {high:{sign}.2f}, n = {gap.n}"


def _ratios(entry: Entry, base: Entry) -> str:
  """Returns by how much two counts differ from the base's; "" if they do not."""
  ratios = []
  for cost in ("parameters", "multiply-adds"):
    mine, others = entry.costs.get(cost), base.costs.get(cost)
    if mine and others and abs(mine / others - 1) > SAME:
      ratios.append(f"{mine / others:.2g} times the {cost}")
  return f", with {_listed(ratios)}" if ratios else ""


def _listed(parts: Sequence[str]) -> str:
  """Returns "a", "a and b", or "a, b and c"."""
  *first, last = parts
  return f"{', '.join(first)} and {last}" if first else last
