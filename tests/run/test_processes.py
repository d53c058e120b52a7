"""The process that waits for the one that works, and says how it ended."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from cifar_flax.run import processes

ROOT = pathlib.Path(__file__).parents[2]
GO_ON = "start the same commands again, they go on from the newest checkpoint"


def start(work):
  """A process that is supervised, and tells its number before it works."""
  program = f"""
    import os, signal, sys, time
    from cifar_flax import distributed
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
  )


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
    ("os.abort()", 1, processes.loss("JAX aborted this one; it says above why")),
    (
      "os.kill(os.getpid(), 9)",
      137,
      f"error: this process was ended by SIGKILL; {GO_ON}",
    ),
  ],
)
def test_it_leaves_with_the_same_code_and_says_why(work, code, last):
  assert end(start(work))[:2] == (code, last)


@pytest.mark.parametrize(
  ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_signals_are_passed_on_once(number, code):
  # The first is counted, and not a second one.
  work = f"""
    count = []
    signal.signal({int(number)}, lambda *_: count.append(1))
    print("", end="", flush=True)
    end = time.monotonic() + 1.5
    while time.monotonic() < end: time.sleep(0.05)
    sys.exit(10 + len(count))"""
  process = start(textwrap.indent(textwrap.dedent(work), "    ").strip())
  child = process.stdout.readline()
  time.sleep(0.3)
  process.send_signal(number)
  process.communicate(timeout=30)
  assert process.returncode == 11
  # Nobody defers it: it ends the child, and the code is a shell's.
  process = start(f"signal.signal({int(number)}, signal.SIG_DFL); time.sleep(60)")
  child = process.stdout.readline()
  time.sleep(0.3)
  process.send_signal(number)
  _, error = process.communicate(timeout=30)
  assert (process.returncode, error) == (code, "")
  assert gone(int(child))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends a child so")
def test_the_one_that_works_does_not_outlive_the_one_that_waits():
  process = start("time.sleep(60)")
  child = int(process.stdout.readline())
  process.kill()
  process.communicate(timeout=30)
  assert gone(child)


def test_why_it_ends_is_said_in_a_line():
  line = processes.loss("a long\n  reason " + 200 * "x")
  assert line.startswith("error: another process of this run has ended (a long reason ")
  assert "\n" not in line
  assert line.endswith("they go on from the newest checkpoint")
