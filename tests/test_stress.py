"""The quick ones of `make stress`, so that every change meets them."""

import signal

import pytest

from stress.files import two_writers
from stress.lab import Lab
from stress.stops import divergence, groups, kills
from stress.untrusted import untrusted


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
  return Lab(tmp_path_factory.mktemp("stress"))


def some_kills(lab):
  return kills(lab, 2)


def a_lost_terminal(lab):
  return groups(lab, ["sweep"], [signal.SIGHUP])


@pytest.mark.parametrize(
  "experiment",
  [
    *(two_writers, some_kills),
    *(
      pytest.param(slow, marks=pytest.mark.full)
      for slow in (a_lost_terminal, divergence, untrusted)
    ),
  ],
)
def test_finds_what_must_be(experiment, lab):
  rows = experiment(lab)
  assert rows and all(row.passed for row in rows), rows
