"""A run over several processes: on one host or many.

Every process runs the same command on the same run directory. On a TPU slice, and
under Slurm or Open MPI, `--distributed=auto` finds the others; elsewhere
`--distributed=HOST:PORT,NUMBER,ID` says where process 0 listens, how many there are
and which one this is.
"""

import contextlib
import ctypes
import os
import signal
import sys
from typing import Any

from cifar_flax.errors import UserError

# A process that has not been heard of for so long is dead, and the others end.
DEAD_AFTER_SECONDS = 40


def parse(text: str) -> dict[str, Any]:
  """Arguments of `jax.distributed.initialize`.

  Raises:
    UserError: not a place, a number and an id.
  """
  if text == "auto":
    return {}
  place, *numbers = text.split(",")
  host, _, port = place.rpartition(":")
  good = host and len(numbers) == 2 and all(n.isdecimal() for n in (port, *numbers))
  if not good or not int(numbers[1]) < int(numbers[0]):
    raise UserError(
      f"--distributed={text!r}: must be auto, or HOST:PORT,NUMBER,ID with ID from 0 "
      "to NUMBER - 1; for example 10.0.0.1:1234,2,0"
    )
  count, process = map(int, numbers)
  return {"coordinator_address": place, "num_processes": count, "process_id": process}


def supervise() -> None:
  """Returns in a new process; this one waits for its end, and leaves with its code.

  Where another process of the run is dead, JAX aborts this one, whatever it is doing,
  with a stack for a last word. The process that waits says what has happened. To be
  called before JAX is imported, as long as there is one thread.
  """
  parent = os.getpid()
  child = os.fork()
  if child:
    code = _wait(child)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  os.setpgid(0, 0)  # Ctrl-C reaches the one that waits, which passes it on, once
  if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: to end with it
  if os.getppid() != parent:
    os._exit(1)


def _wait(child: int) -> int:
  """Passes signals on until the child ends; its exit code, as a shell has it."""
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(child, number))
  _, status = os.waitpid(child, 0)
  code = os.waitstatus_to_exitcode(status)
  if code == -signal.SIGABRT:
    print(loss("JAX aborted this one; it says above why"), file=sys.stderr)
    return 1
  if code not in (-signal.SIGINT, -signal.SIGTERM) and code < 0:
    name = signal.Signals(-code).name
    print(f"error: this process was ended by {name}; {_GO_ON}", file=sys.stderr)
  return code if code >= 0 else 128 - code


_GO_ON = "start the same commands again, they go on from the newest checkpoint"


def loss(reason: str) -> str:
  """The line that says that another process has ended."""
  reason = " ".join(reason.split())[:150]
  return f"error: another process of this run has ended ({reason}); {_GO_ON}"


def initialize(text: str) -> None:
  """Joins the other processes; waits until all are there.

  Raises:
    UserError: they can't be found.
  """
  global _joined
  import jax

  options = parse(text)
  jax.config.update("jax_enable_preemption_service", False)  # signals are ours
  try:
    jax.distributed.initialize(
      heartbeat_timeout_seconds=DEAD_AFTER_SECONDS,
      shutdown_timeout_seconds=DEAD_AFTER_SECONDS,
      **options,
    )
  except (ValueError, RuntimeError) as error:
    reason = str(error).splitlines()[0]
    raise UserError(f"--distributed={text!r}: {reason}") from None
  _joined = True
  sys.excepthook = _leave_with_traceback


def _leave_with_traceback(kind: Any, error: Any, traceback: Any) -> None:
  """At once: the end that Python has for it waits for the other processes."""
  sys.__excepthook__(kind, error, traceback)
  leave(1)


_joined = False


def joined() -> bool:
  """Whether this is one process of several."""
  return _joined


def part() -> None:
  """Waits until all processes have come to their end, so that none misses another."""
  if not _joined:
    return
  import jax

  with contextlib.suppress(RuntimeError):
    jax.distributed.shutdown()


def is_loss(error: RuntimeError) -> bool:
  """Whether an error may come of another process's end, and not of a bug of ours."""
  import jax

  return joined() and isinstance(error, jax.errors.JaxRuntimeError)


def agreed(value: int) -> int:
  """The largest `value` that any process has; all of them must ask."""
  import jax

  if jax.process_count() == 1:
    return value
  import numpy as np
  from jax.experimental import multihost_utils

  return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def leave(code: int) -> None:
  """Ends this process at once: JAX waits for the others, minutes if they are dead."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
