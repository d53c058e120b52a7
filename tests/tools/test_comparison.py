"""Comparisons: differences by hand, intervals, fronts, sentences."""

import math

import pytest

from cifar_flax.tools import comparison
from cifar_flax.tools.comparison import Difference, Entry

T3 = 4.302653  # 97.5 % quantile of Student's t with 2 degrees of freedom


def entry(name, accuracies, **costs):
  return Entry(name, dict(enumerate(accuracies)), costs)


def test_a_difference_by_hand():
  # Differences 1, 2, 3: mean 2, deviation 1.
  found = comparison.difference(entry("a", [81, 83, 85]), entry("b", [80, 81, 82]))
  assert (found.mean, found.n) == (2, 3)
  assert found.half_width == pytest.approx(T3 / math.sqrt(3), rel=1e-6)
  assert not found.is_clear  # 2 < 2.48
  assert found.text() == "+2.00 [-0.48, +4.48]"
  # Differences -2.9, -3, -3.1: mean -3, deviation 0.1.
  found = comparison.difference(entry("a", [77.1, 78, 78.9]), entry("b", [80, 81, 82]))
  assert found.half_width == pytest.approx(0.1 * T3 / math.sqrt(3), rel=1e-6)
  assert found.is_clear and found.text() == "-3.00 [-3.25, -2.75]"


def test_only_common_seeds_are_compared():
  one = Entry("a", {0: 90.0, 1: 81.0, 3: 85.0, 4: 88.0}, {})
  other = Entry("b", {1: 80.0, 2: 0.0, 3: 82.0, 4: 86.0}, {})
  found = comparison.difference(one, other)  # 1, 3, 2
  assert (found.mean, found.n) == (2, 3)
  assert found.half_width == pytest.approx(T3 / math.sqrt(3), rel=1e-6)
  assert comparison.difference(one, Entry("c", {7: 1.0}, {})) is None


def test_few_seeds_conclude_nothing():
  one = comparison.difference(entry("a", [90]), entry("b", [10]))
  assert (one.mean, one.n, one.half_width) == (80, 1, math.inf)
  assert not one.is_clear and one.text() == "+80.00"
  two = comparison.difference(entry("a", [90, 90.1]), entry("b", [10, 10]))
  # The interval excludes zero: t is 12.7 with 1 degree of freedom.
  assert two.half_width == pytest.approx(12.7062 * 0.05, rel=1e-4)
  assert not two.is_clear
  assert Difference(0.3, 0.2, 3).is_clear and Difference(-0.3, 0.2, 3).is_clear
  assert not Difference(0.3, 0.3, 3).is_clear


def front(*entries):
  return [found.name for found in comparison.front(entries, "parameters")]


def test_the_front_joins_what_is_clearly_more_accurate():
  cheap = entry("cheap", [70, 70.1, 70.2], parameters=10)
  noise = entry("noise", [70.1, 70.0, 70.5], parameters=20)  # better by chance
  good = entry("good", [75, 75.1, 75.3], parameters=30)
  worse = entry("worse", [72, 72.1, 72.2], parameters=40)
  best = entry("best", [80, 80.2, 80.1], parameters=50)
  unknown = entry("unknown", [99, 99.1, 99.2])
  none = entry("none", [99, 99.1, 99.2], parameters=None)
  assert front(best, worse, unknown, good, noise, none, cheap) == [
    "cheap",
    "good",
    "best",
  ]
  equal = entry("equal", [71, 71.2, 71.4], parameters=10)
  assert front(cheap, equal) == ["equal"]  # of equal costs, the more accurate one
  assert front() == []


def test_without_three_common_seeds_the_front_is_the_cheapest():
  assert front(
    entry("a", [70, 70.1], parameters=1), entry("b", [90, 90.1], parameters=2)
  ) == ["a"]


BASE = entry("plain", [80, 81, 82], **{"parameters": 100, "multiply-adds": 1000})
COSTS = {"parameters": 50, "multiply-adds": 2500}
GAP = (1.0, 1.1, 0.9)  # clear


def shifted(name, sign, **costs):
  values = zip(BASE.accuracies.values(), GAP, strict=True)
  return entry(name, [value + sign * gap for value, gap in values], **costs)


def sentences(*entries):
  return comparison.sentences(entries, BASE, "In the same slots")


def test_a_clear_entry_has_a_sentence_with_interval_and_costs():
  assert sentences(shifted("grouped", 1, **COSTS)) == [
    "In the same slots, grouped is better than plain by 1.00 points "
    "(95 % interval 0.75 to 1.25, n = 3), with 0.5 times the parameters and "
    "2.5 times the multiply-adds."
  ]
  assert sentences(shifted("grouped", -1, **{"parameters": 102})) == [
    "In the same slots, grouped is worse than plain by 1.00 points "
    "(95 % interval 0.75 to 1.25, n = 3)."
  ]


def test_the_best_entry_comes_first_and_unclear_ones_share_the_last_sentence():
  noise = entry("noise", [81, 80, 82.3])
  more = entry("more", [80, 82, 81.8])
  best, good, bad, unclear = sentences(
    shifted("w", -1), noise, shifted("b", 1), more, shifted("c", 2)
  )
  assert "c is better than plain by 2.00" in best
  assert "b is better than plain by 1.00" in good
  assert "w is worse than plain by 1.00" in bad
  # Differences 1, -1, 0.3: mean 0.1, deviation sqrt(1.03) = 1.0149.
  width = T3 * 1.0148892 / math.sqrt(3)
  interval = f"95 % interval {0.1 - width:+.2f} to {0.1 + width:+.2f}, n = 3"
  assert unclear.startswith("In the same slots, more (+0.27 points, 95 % interval")
  assert f" and noise (+0.10 points, {interval}) could not" in unclear
  assert unclear.endswith(") could not be told from plain.")


def test_nothing_is_said_with_fewer_than_three_seeds():
  assert sentences(entry("a", [90, 91]), entry("b", [10])) == []
  assert sentences() == []
