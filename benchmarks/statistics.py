"""Medians, with an interval that assumes no distribution."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

# The smallest n at which lowest..highest of n covers the median in 95 % of cases:
# it misses if all n lie on one side, 2 / 2^6 = 3.1 %; with five values, 6.3 %.
MIN_WINDOWS = 6


class Interval(NamedTuple):
  """A median, and the ends of its 95 % interval."""

  median: float
  low: float
  high: float


def median(values: Sequence[float]) -> float:
  """Returns the middle value, or the mean of the two in the middle."""
  return statistics.median(values)


def median_interval(values: Sequence[float]) -> Interval | None:
  """Returns the median of `values` with an interval of at least 95 % coverage.

  Of n independent values, the k-th smallest and the k-th largest enclose the median
  of their distribution with probability 1 - 2 P(Binomial(n, 1/2) < k), whatever the
  distribution; k is the largest for which that is 95 % or more.

  Returns:
    None for fewer than `MIN_WINDOWS` values.
  """
  n, ordered = len(values), sorted(values)
  if n < MIN_WINDOWS:
    return None
  k, tail = 0, 1 / 2**n  # tail = P(Binomial(n, 1/2) <= k)
  while 2 * tail <= 0.05:
    k += 1
    tail += math.comb(n, k) / 2**n
  return Interval(median(ordered), ordered[k - 1], ordered[n - k])


def show(values: Sequence[float], digits: int) -> str:
  """Returns "median [low, high]", or the median alone for too few values."""
  text, interval = f"{median(values):.{digits}f}", median_interval(values)
  if interval is None:
    return text
  return f"{text} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
