"""Signals: when they end a process at once, and when it saves first."""

import signal
import subprocess
import sys
import time

import pytest

from cifar_flax.run import signals

PROGRAM = """
import signal, sys, time
from cifar_flax.run import signals
for number in signals.SIGNALS:  # whatever the tests were started with
  signal.signal(number, signal.SIG_DFL)
for name in sys.argv[2:]:
  signal.signal(signal.Signals[name], signal.SIG_IGN)
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
SLOW_SAVE = "time.sleep(4)"
# Like compiled code: the thread runs meanwhile, but Python's handlers don't.
BUSY = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10 ** 9)"


def start(phase, work=SAVE, *ignored):
  program = PROGRAM.format(work=work)
  command = [sys.executable, "-c", program, phase, *ignored]
  pipe = subprocess.PIPE
  process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
  assert process.stdout.readline() == "ready\n"
  return process


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_at_first_a_signal_ends_the_process(number):
  process = start("at once")
  process.send_signal(number)
  process.communicate(timeout=10)
  assert process.returncode == -number  # 128 + number in a shell


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_later_it_is_told(number):
  process = start("deferred")
  process.send_signal(number)
  process.communicate(timeout=10)
  assert process.returncode == number + 100


@pytest.mark.parametrize("second", signals.SIGNALS)
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_repeat_is_the_same_request(first, second):
  process = start("deferred")
  process.send_signal(first)
  for _ in range(3):
    process.send_signal(second)
  assert process.stdout.readline() == "saving\n"
  process.send_signal(second)
  process.communicate(timeout=10)
  # Signals that arrive together are received in the order of their numbers.
  assert process.returncode in (first + 100, second + 100)


@pytest.mark.parametrize(
  ("first", "later"),
  [
    (signal.SIGINT, (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)),
    (signal.SIGTERM, (signal.SIGTERM, signal.SIGINT)),
  ],
)
def test_nothing_but_a_second_ctrl_c_ends_a_process_that_saves(first, later):
  process = start("deferred", SLOW_SAVE)
  process.send_signal(first)
  assert process.stdout.readline() == "saving\n"
  time.sleep(1.8)
  for number in later:
    process.send_signal(number)
  process.communicate(timeout=10)
  assert process.returncode == first + 100


def test_a_second_ctrl_c_ends_it_whatever_it_does():
  process = start("deferred", BUSY)
  process.send_signal(signal.SIGINT)
  assert process.stdout.readline() == "saving\n"
  time.sleep(1.8)
  began = time.monotonic()
  process.send_signal(signal.SIGINT)
  error = process.communicate(timeout=10)[1]
  assert process.returncode == 130
  assert "rerun the same command to resume from the newest checkpoint" in error
  assert time.monotonic() - began < 2


@pytest.mark.parametrize(
  ("arrivals", "ends"),
  [
    ([("SIGINT", 0.0), ("SIGINT", 2.0)], True),
    ([("SIGINT", 0.0), ("SIGINT", 0.001), ("SIGINT", 2.0)], True),
    ([("SIGTERM", 0.0), ("SIGINT", 1.0), ("SIGINT", 3.0)], True),
    ([("SIGINT", 0.0), ("SIGTERM", 1.0), ("SIGINT", 2.0)], True),
    ([("SIGINT", 0.0), ("SIGINT", 1.0)], False),
    ([("SIGTERM", 0.0), ("SIGINT", 9.0)], False),
    ([("SIGINT", 0.0), ("SIGTERM", 9.0), ("SIGTERM", 99.0)], False),
    ([("SIGINT", 0.1 * i) for i in range(50)], False),  # a held key
  ],
)
def test_which_signal_ends_a_process_that_saves(arrivals, ends):
  request = signals.Request()
  *before, last = [
    request.add(signal.Signals[name], 100 + seconds) for name, seconds in arrivals
  ]
  assert (any(before), last) == (False, ends)
  assert request.signal == signal.Signals[arrivals[0][0]]


@pytest.mark.parametrize("phase", ["at once", "deferred"])
@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT"])
def test_a_signal_that_is_ignored_stays_ignored(name, phase):
  """nohup ignores SIGHUP; a script makes its background processes ignore SIGINT."""
  process = start(phase, SAVE, name)
  process.send_signal(signal.Signals[name])
  time.sleep(0.3)
  assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=10)
  assert process.returncode == (-15 if phase == "at once" else 115)


def test_after_a_stop_its_repeats_are_ignored():
  program = (
    "import os; from cifar_flax.run import signals; signals.ignore_repeats({})\n"
    "for number in signals.SIGNALS: os.kill(os.getpid(), number)"
  )
  codes = [
    subprocess.run([sys.executable, "-c", program.format(code)]).returncode
    for code in (143, 0)
  ]
  assert codes[0] == 0 and codes[1] < 0


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
