"""Signals: out at once, or told to whoever saves; a second one out at once."""

import signal
import subprocess
import sys
import time

import pytest

from cifar_flax.run import signals

PROGRAM = """
import sys, time
from cifar_flax.run import signals
with signals.Watch() as stop:
  if sys.argv[1] == "deferred":
    stop.defer()
  print("ready", flush=True)
  while not stop.signal:
    time.sleep(0.01)
  print("saving", flush=True)
  {work}
  sys.exit(stop.signal + 100)
"""
SAVE = "time.sleep(0.3)"
# Like compiled code: the thread runs meanwhile, but Python's handlers don't.
BUSY = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10 ** 9)"


def start(phase, work=SAVE):
  program = PROGRAM.format(work=work)
  command = [sys.executable, "-c", program, phase]
  process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
  assert process.stdout.readline() == "ready\n"
  return process


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_at_first_a_signal_ends_the_process(number):
  process = start("at once")
  process.send_signal(number)
  assert process.wait(timeout=10) == -number  # 128 + number in a shell
  process.stdout.close()


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_later_it_is_told(number):
  process = start("deferred")
  process.send_signal(number)
  assert process.wait(timeout=10) == number + 100
  process.stdout.close()


def test_a_second_signal_ends_it_whatever_it_does():
  process = start("deferred", BUSY)
  process.send_signal(signal.SIGTERM)
  assert process.stdout.readline() == "saving\n"
  began = time.monotonic()
  process.send_signal(signal.SIGINT)
  assert process.wait(timeout=10) == 130
  assert time.monotonic() - began < 2
  process.stdout.close()


def test_afterwards_everything_is_as_before():
  before = [signal.getsignal(number) for number in signals.SIGNALS]
  with signals.Watch() as stop:
    stop.defer()
    stop.defer()
    assert [signal.getsignal(n) for n in signals.SIGNALS] != before
  assert [signal.getsignal(n) for n in signals.SIGNALS] == before
  assert signal.set_wakeup_fd(-1) == -1
  stop.defer()  # outside of `with`: nothing
  assert [signal.getsignal(n) for n in signals.SIGNALS] == before
