"""Two processes on one machine: the same run, and none that waits for the dead."""

import os
import pathlib
import signal
import socket
import subprocess
import time

from cifar_flax.run.checkpoints import read
from stress.devices import difference
from stress.lab import Lab, Row, checkpoints


def two_processes(lab: Lab) -> list[Row]:
  """Four devices each, against one process with eight; then one is killed.

  In float64, as sums over processes are made in another order.
  """
  lab.complete(reference := lab.new("one"), 8, model__dtype="float64")
  started = _start(lab, workdir := lab.new("two"), model__dtype="float64")
  codes = [_wait(process)[0] for process in started]
  states = [read(checkpoints(folder)[0])["state"] for folder in (reference, workdir)]
  largest = difference(*states)
  text = f"exit codes {codes}, max |a - b| / max(1, max |tensor|) = {largest:.1e}"
  good = largest <= 1e-9 and codes == [0, 0]
  return [
    Row("2 processes x 4 devices and 1 x 8, float64", 1, text, good),
    *(
      _one_dies(lab, which, number)
      for number in (signal.SIGKILL, signal.SIGSTOP)
      for which in (0, 1)
    ),
  ]


def _one_dies(lab: Lab, which: int, number: signal.Signals) -> Row:
  """It is killed, or hears nothing any more, like a machine that has lost its power."""
  processes = _start(lab, lab.new("widowed"), num_epochs="400")
  lab.wait_for(processes[0], "first step")
  # A process waits for the one that works, and is not what dies.
  waiting = processes[which].pid
  (worker,) = (
    pathlib.Path(f"/proc/{waiting}/task/{waiting}/children").read_text().split()
  )
  os.kill(int(worker), number)
  began = time.monotonic()
  code, error = _wait(processes[1 - which])
  seconds = time.monotonic() - began
  last = (error.strip().splitlines() or [""])[-1]
  good = code == 1 and seconds < 60 and last.startswith("error: another process")
  processes[which].kill()
  processes[which].communicate()
  text = f"the other: exit code {code} after {seconds:.0f} s: {last[:60]}..."
  return Row(f"process {which}: {number.name}", 1, text, good)


def _start(lab: Lab, workdir, **changed: str) -> list[subprocess.Popen]:
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  command = lab.command(workdir, **changed)
  where = [f"--distributed=127.0.0.1:{port},2,{index}" for index in range(2)]
  commands = [[*command, flag] for flag in where]
  commands[1][1:3] = ["-c", _SLOW]
  return [lab.start(command, devices=4) for command in commands]


# Another pace than process 0's, as on a loaded machine: a step in each dispatch.
_SLOW = """
import sys
from cifar_flax import distributed, main
join = distributed.initialize
def initialize(text):
  join(text)
  from cifar_flax import trainer
  trainer.SECONDS_PER_DISPATCH = 0.0
distributed.initialize = initialize
sys.exit(main.main(sys.argv[1:]))
"""


def _wait(process: subprocess.Popen) -> tuple[int, str]:
  error = process.communicate(timeout=300)[1]
  return process.returncode, error
