"""The process that waits for the one that works, and says how it ended."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from cifar_flax.run import processes, signals

ROOT = pathlib.Path(__file__).parents[2]
HINT = "rerun the same commands to resume from the newest checkpoint"


def start(work, ignored=None):
  """A process that is supervised, and tells its number before it works."""
  program = f"""
    import os, signal, sys, time
    from cifar_flax.run import processes, signals
    for number in signals.SIGNALS:  # whatever the tests were started with
      signal.signal(number, signal.SIG_DFL)
    if {ignored!r}:
      signal.signal(getattr(signal, {ignored!r}), signal.SIG_IGN)
    processes.supervise()
    print(os.getpid(), flush=True)
    {work}
  """
  return subprocess.Popen(
    [sys.executable, "-c", textwrap.dedent(program)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    process_group=0,
  )


def wait_for_handlers(process):
  """Waits until the parent catches SIGTSTP, the last signal that it handles."""
  deadline = time.monotonic() + 10
  status = pathlib.Path(f"/proc/{process.pid}/status")
  while time.monotonic() < deadline:
    (mask,) = re.findall(r"SigCgt:\s*(\w+)", status.read_text())
    if int(mask, 16) >> (signal.SIGTSTP - 1) & 1:
      return
    time.sleep(0.01)
  raise AssertionError("the parent has no handler for SIGTSTP")


def end(process):
  out, error = process.communicate(timeout=30)
  return process.returncode, error.strip(), int(out)


def gone(process):
  for _ in range(100):
    try:
      os.kill(process, 0)
    except ProcessLookupError:
      return True
    # Killed, and not yet waited for: nobody may be there to do so.
    if "State:\tZ" in pathlib.Path(f"/proc/{process}/status").read_text():
      return True
    time.sleep(0.1)
  return False


@pytest.mark.parametrize(
  ("work", "code", "last"),
  [
    ("sys.exit(0)", 0, ""),
    ("sys.exit('refused')", 1, "refused"),
    ("os._exit(143)", 143, ""),
    (
      "os.abort()",
      1,
      processes.lost_process_message("JAX aborted this one; see its message above"),
    ),
    (
      "os.kill(os.getpid(), 9)",
      137,
      f"error: this process was killed by SIGKILL; {HINT}",
    ),
  ],
)
def test_it_leaves_with_the_same_code_and_says_why(work, code, last):
  assert end(start(work))[:2] == (code, last)


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@LINUX
@pytest.mark.parametrize(
  ("number", "other"),
  [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)],
)
def test_a_signal_to_the_process_group_reaches_the_child_once(number, other):
  # The child counts `number`, and leaves with its count at the other signal.
  work = f"""
    def count(*_):
      counted.append(1)
      print("counted", flush=True)
    counted = []
    signal.signal({int(number)}, count)
    signal.signal({int(other)}, lambda *_: sys.exit(10 + len(counted)))
    print("ready", flush=True)
    while True: time.sleep(0.01)"""
  process = start(textwrap.indent(textwrap.dedent(work), "    ").strip())
  process.stdout.readline()
  assert process.stdout.readline() == "ready\n"
  wait_for_handlers(process)
  os.killpg(process.pid, number)  # as a terminal does at Ctrl-C
  assert process.stdout.readline() == "counted\n"
  process.send_signal(other)
  process.communicate(timeout=30)
  assert process.returncode == 11


@LINUX
@pytest.mark.parametrize(
  ("number", "code"), [(number, 128 + number) for number in signals.SIGNALS]
)
def test_a_child_ended_by_a_signal_gives_the_exit_code_of_a_shell(number, code):
  process = start(
    f"signal.signal({int(number)}, signal.SIG_DFL); print('ready', flush=True); "
    "time.sleep(60)"
  )
  child = process.stdout.readline()
  assert process.stdout.readline() == "ready\n"
  wait_for_handlers(process)
  process.send_signal(number)
  _, error = process.communicate(timeout=30)
  assert (process.returncode, error) == (code, "")
  assert gone(int(child))


WAITS = """
    def leave(number, _):
      print("saved", flush=True)
      sys.exit(128 + number)
    signal.signal(signal.SIGTERM, leave)
    print("ready", flush=True)
    while True: time.sleep(0.01)"""


def state(pid):
  """Returns the state of a process in /proc: R, S, T, ..."""
  return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for_state(pid, stopped):
  deadline = time.monotonic() + 10
  while (state(pid) == "T") != stopped:
    assert time.monotonic() < deadline
    time.sleep(0.01)


@LINUX
def test_a_stopped_child_is_woken_to_save():
  process = start(WAITS.strip())
  child = int(process.stdout.readline())
  assert process.stdout.readline() == "ready\n"
  wait_for_handlers(process)
  os.kill(child, signal.SIGSTOP)
  wait_for_state(child, stopped=True)
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=30)
  assert (process.returncode, out) == (143, "saved\n")


@LINUX
def test_ctrl_z_stops_both_until_sigcont():
  process = start(WAITS.strip())
  child = int(process.stdout.readline())
  assert process.stdout.readline() == "ready\n"
  wait_for_handlers(process)
  process.send_signal(signal.SIGTSTP)
  for pid in (process.pid, child):
    wait_for_state(pid, stopped=True)
  process.send_signal(signal.SIGCONT)
  for pid in (process.pid, child):
    wait_for_state(pid, stopped=False)
  process.terminate()
  process.communicate(timeout=30)
  assert process.returncode == 143


@LINUX
def test_a_signal_that_is_ignored_stays_ignored():
  process = start(WAITS.strip(), ignored="SIGHUP")
  process.stdout.readline(), process.stdout.readline()
  wait_for_handlers(process)
  os.killpg(process.pid, signal.SIGHUP)
  time.sleep(0.3)
  assert process.poll() is None
  process.terminate()
  process.communicate(timeout=30)
  assert process.returncode == 143


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends a child so")
def test_the_one_that_works_does_not_outlive_the_one_that_waits():
  process = start("time.sleep(60)")
  child = int(process.stdout.readline())
  process.kill()
  process.communicate(timeout=30)
  assert gone(child)


def test_why_it_ends_is_said_in_a_line():
  line = processes.lost_process_message("a long\n  reason " + 200 * "x")
  assert line.startswith("error: another process of this run has ended (a long reason ")
  assert "\n" not in line
  assert line.endswith("to resume from the newest checkpoint")
