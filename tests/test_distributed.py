"""Signs of life, with a dictionary in the place of JAX's store."""

import threading
import time

import pytest

from cifar_flax import distributed
from cifar_flax.distributed import Pulse


class Store:
  def __init__(self):
    self.values = {}
    self.gone = False

  def key_value_set(self, key, value, allow_overwrite):
    assert allow_overwrite
    if self.gone:
      raise RuntimeError("connection refused")
    self.values[key] = value

  def key_value_dir_get(self, folder):
    return [(k, v) for k, v in self.values.items() if k.startswith(f"{folder}/")]


@pytest.fixture
def pulses(monkeypatch):
  monkeypatch.setattr(distributed, "DEAD_AFTER_SECONDS", 0.3)
  monkeypatch.setattr(distributed, "BEAT_SECONDS", 0.05)
  store = Store()
  return [Pulse(store, own, 3) for own in range(3)]


def beat_for(seconds, *pulses):
  """What the first of them finds; the others live."""
  ends = time.monotonic() + seconds
  while time.monotonic() < ends:
    for pulse in pulses[1:]:
      pulse.beat()
    if (dead := pulses[0].beat()) is not None:
      return dead
    time.sleep(0.02)
  return None


def test_the_living_are_left_alone_and_the_dead_are_found(pulses):
  assert beat_for(0.6, *pulses) is None
  assert beat_for(0.6, *pulses[:2]) == 2


def test_one_that_never_came_to_life_is_dead(pulses):
  assert beat_for(0.6, *pulses[1:]) == 0


def test_one_that_parted_is_not_dead(pulses):
  for pulse in pulses:
    pulse.beat()
  pulses[2].part()
  pulses[2].beat()  # its thread may have been about to
  assert beat_for(0.6, *pulses[:2]) is None


def test_process_0_stays_until_the_others_part(pulses):
  thread = threading.Thread(target=pulses[0].part)
  thread.start()
  pulses[1].part()
  thread.join(0.15)
  assert thread.is_alive()
  pulses[2].part()
  thread.join(5)
  assert not thread.is_alive()


def test_but_not_for_the_dead(pulses):
  began = time.monotonic()
  pulses[0].part()
  assert 0.3 <= time.monotonic() - began < 2


def test_the_end_of_process_0_is_noticed_unless_the_work_is_done(pulses):
  pulses[1]._store.gone = True
  reason = pulses[1].beat_until_parted()
  assert reason == "process 0 does not answer: connection refused"
  pulses[1].part()
  assert pulses[1].beat_until_parted() is None


def test_why_it_ends_is_said_in_a_line():
  line = distributed.loss("a long\n  reason " + 200 * "x")
  assert line.startswith("error: another process of this run has ended (a long reason ")
  assert "\n" not in line
  assert line.endswith("they go on from the newest checkpoint")
