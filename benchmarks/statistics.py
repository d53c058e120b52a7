"""Medians, and an interval for a median that assumes no distribution."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

# The smallest n at which lowest..highest of n covers the median in 95 % of cases:
# it misses where all n lie on one side, 2 / 2^6 = 3.1 %; with five it is 6.3 %.
MIN_WINDOWS = 6


class Interval(NamedTuple):
  """A median, and the bounds of its 95 % interval."""

  median: float
  low: float
  high: float


def median(values: Sequence[float]) -> float:
  """The middle value, or the mean of the two in the middle."""
  return statistics.median(values)


def median_interval(values: Sequence[float]) -> Interval | None:
  """The median of `values` with an interval of at least 95 % coverage.

  Of n independent values, the k-th smallest and the k-th largest enclose the median
  of their distribution with probability 1 - 2 P(Binomial(n, 1/2) < k), whatever the
  distribution; k is the largest for which that is 95 % or more.

  Returns:
    None where there are fewer than `MIN_WINDOWS` values.
  """
  n, ordered = len(values), sorted(values)
  if n < MIN_WINDOWS:
    return None
  k, tail = 0, 1 / 2**n  # tail = P(Binomial(n, 1/2) <= k)
  while 2 * tail <= 0.05:
    k += 1
    tail += math.comb(n, k) / 2**n
  return Interval(median(ordered), ordered[k - 1], ordered[n - k])


class Bound(NamedTuple):
  """What a ratio should come to.

  Attributes:
    reach: to be reached.
    aim: better still; None if there is none.
    at_most: whether a smaller ratio is better.
  """

  reach: float
  aim: float | None = None
  at_most: bool = False

  def verdict(self, interval: Interval | None) -> str:
    """Says for `reach` and `aim` whether the interval reaches it."""
    sign = "<=" if self.at_most else ">="
    names = {"reach": self.reach, "aim": self.aim}
    words = []
    for name, value in names.items():
      if value is not None:
        word = "missed"
        if interval is None:
          word = "open"
        elif interval.low <= value if self.at_most else interval.high >= value:
          word = "reached"
        words.append(f"{name} {sign} {value:g} {word}")
    return ", ".join(words)
