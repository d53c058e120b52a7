"""Runs that are distributed over several processes, on one host or many.

Every process runs the same command on the same run directory. On a TPU slice, and
under Slurm or Open MPI, `--distributed=auto` finds the other processes. Elsewhere,
`--distributed=HOST:PORT,NUMBER,ID` gives the address on which process 0 listens, the
number of processes, and the id of this process.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from cifar_flax.errors import UserError
from cifar_flax.run import signals

# A process without a heartbeat for this long is considered dead, and the others exit.
DEAD_AFTER_SECONDS = 40


def parse(text: str) -> dict[str, Any]:
  """Returns the arguments of `jax.distributed.initialize` for a `--distributed` flag.

  Raises:
    UserError: `text` is neither "auto" nor of the form HOST:PORT,NUMBER,ID.
  """
  if text == "auto":
    return {}
  address, *numbers = text.split(",")
  host, _, port = address.rpartition(":")
  valid = host and len(numbers) == 2 and all(n.isdecimal() for n in (port, *numbers))
  if not valid or not int(numbers[1]) < int(numbers[0]):
    raise UserError(
      f"--distributed={text!r}: must be auto, or HOST:PORT,NUMBER,ID with ID from 0 "
      "to NUMBER - 1; for example 10.0.0.1:1234,2,0"
    )
  count, process_id = map(int, numbers)
  return {
    "coordinator_address": address,
    "num_processes": count,
    "process_id": process_id,
  }


def supervise() -> None:
  """Forks: the child returns; the parent waits and exits with the child's status.

  When another process of the run dies, JAX aborts this one from C++ and prints a stack
  trace. The parent survives this and prints what happened. Call it before JAX is
  imported, while the process has a single thread.
  """
  parent = os.getpid()
  child = os.fork()
  if child:
    exit_at_once(_wait(child))
  os.setpgid(0, 0)  # Ctrl-C then reaches the parent alone, which forwards it once
  if sys.platform == "linux":
    # PR_SET_PDEATHSIG: if the parent is killed, the child saves and ends as well.
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
  if os.getppid() != parent:
    os._exit(1)


def _wait(child: int) -> int:
  """Forwards signals to the child until it exits; returns its shell exit code."""

  def forward(*numbers: int) -> None:
    with contextlib.suppress(ProcessLookupError):
      for number in numbers:
        os.kill(child, number)

  # A stopped child handles no signal until SIGCONT wakes it.
  for number in signals.heeded():
    signal.signal(number, lambda number, _: forward(number, signal.SIGCONT))
  # The child is in another process group, which Ctrl-Z in a terminal does not reach.
  signal.signal(signal.SIGCONT, lambda *_: forward(signal.SIGCONT))
  if signal.getsignal(signal.SIGTSTP) != signal.SIG_IGN:
    signal.signal(signal.SIGTSTP, lambda *_: _suspend(forward))
  _, status = os.waitpid(child, 0)
  code = os.waitstatus_to_exitcode(status)
  if code == -signal.SIGABRT:
    reason = "JAX aborted this one; see its message above"
    print(lost_process_message(reason), file=sys.stderr)
    return 1
  if code < 0 and -code not in signals.SIGNALS:
    name = signal.Signals(-code).name
    print(f"error: this process was killed by {name}; {_HINT}", file=sys.stderr)
  return signals.shell_code(code)


def _suspend(forward: Callable[[int], None]) -> None:
  """Stops the child and this process, as Ctrl-Z does; SIGCONT wakes both."""
  forward(signal.SIGSTOP)
  os.kill(os.getpid(), signal.SIGSTOP)


_HINT = "rerun the same commands to resume from the newest checkpoint"


def lost_process_message(reason: str) -> str:
  """Returns the one-line error that reports the end of another process of the run."""
  reason = " ".join(reason.split())[:150]
  return f"error: another process of this run has ended ({reason}); {_HINT}"


def initialize(text: str) -> None:
  """Connects to the other processes of the run, and waits until all are connected.

  Args:
    text: value of the `--distributed` flag.

  Raises:
    UserError: the connection failed.
  """
  global _is_distributed
  import jax

  options = parse(text)
  # `signals.Watch` handles SIGTERM; JAX's preemption service would handle it as well.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      heartbeat_timeout_seconds=DEAD_AFTER_SECONDS,
      shutdown_timeout_seconds=DEAD_AFTER_SECONDS,
      **options,
    )
  except (ValueError, RuntimeError) as error:
    reason = str(error).splitlines()[0]
    raise UserError(f"--distributed={text!r}: {reason}") from None
  _is_distributed = True
  sys.excepthook = _exit_with_traceback


def _exit_with_traceback(kind: Any, error: Any, traceback: Any) -> None:
  """Prints the traceback and exits at once; see `exit_at_once`."""
  sys.__excepthook__(kind, error, traceback)
  exit_at_once(1)


_is_distributed = False


def is_distributed() -> bool:
  """Returns whether `initialize` has connected this process to others."""
  return _is_distributed


def wait_for_all() -> None:
  """Waits until every process has finished, so that none reports a lost process.

  Does nothing in a run that is not distributed.
  """
  if not _is_distributed:
    return
  import jax

  with contextlib.suppress(RuntimeError):
    jax.distributed.shutdown()


def is_lost_process(error: RuntimeError) -> bool:
  """Returns whether the loss of another process may have caused `error`."""
  import jax

  return is_distributed() and isinstance(error, jax.errors.JaxRuntimeError)


def max_over_processes(value: int) -> int:
  """Returns the largest `value` of all processes; every process must call it."""
  import jax

  if jax.process_count() == 1:
    return value
  import numpy as np
  from jax.experimental import multihost_utils

  return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def exit_at_once(code: int) -> None:
  """Exits without Python's cleanup, in which JAX waits minutes for dead processes."""
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):
      stream.flush()
  os._exit(code)
