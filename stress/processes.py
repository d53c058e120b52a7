"""Experiments on one run in two processes: equal results, and the loss of a process."""

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
  """Checks that two processes give one process's result and notice a lost process.

  Two processes with four devices each are compared with one process with eight, in
  float64, because sums over processes are added in another order. Then one of two is
  killed or frozen, and the other must exit within 60 seconds.
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
  """Checks that a run's other process exits with an error after the loss of one.

  SIGKILL ends the lost process; SIGSTOP makes it as silent as a machine without power.
  """
  processes = _start(lab, lab.new("lost"), num_epochs="400")
  lab.wait_for(processes[0], "first step")
  # The signal goes to the child, which trains: the parent only waits for its exit.
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
  text = f"the other process: exit code {code} after {seconds:.0f} s: {last[:60]}..."
  return Row(f"{number.name} to process {which} of two", 1, text, good)


def _start(lab: Lab, workdir, **changed: str) -> list[subprocess.Popen]:
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  command = lab.command(workdir, **changed)
  where = [f"--distributed=127.0.0.1:{port},2,{index}" for index in range(2)]
  commands = [[*command, flag] for flag in where]
  commands[1][1:3] = ["-c", _SLOW]
  return [lab.start(command, devices=4) for command in commands]


# Process 1 dispatches single steps, so that it has another pace than process 0, as
# on a loaded machine.
_SLOW = """
import sys
from cifar_flax import main
from cifar_flax.run import processes
join = processes.initialize
def initialize(text):
  join(text)
  from cifar_flax import trainer
  trainer.SECONDS_PER_DISPATCH = 0.0
processes.initialize = initialize
sys.exit(main.main(sys.argv[1:]))
"""


def _wait(process: subprocess.Popen) -> tuple[int, str]:
  error = process.communicate(timeout=300)[1]
  return process.returncode, error
