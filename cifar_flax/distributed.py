"""A run over several processes: on one host or many.

Every process runs the same command on the same run directory. On a TPU slice, and
under Slurm or Open MPI, `--distributed=auto` finds the others; elsewhere
`--distributed=HOST:PORT,NUMBER,ID` says where process 0 listens, how many there are
and which one this is.
"""

import os
import sys
from typing import Any

from cifar_flax.errors import UserError

# A process that has not been heard of for so long is dead, and the others end.
DEAD_AFTER_SECONDS = 30


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


_joined = False


def joined() -> bool:
  """Whether this is one process of several."""
  return _joined


def is_loss(error: RuntimeError) -> bool:
  """Whether an error may come of another process's end, and not of a bug of ours."""
  import jax

  return _joined and isinstance(error, jax.errors.JaxRuntimeError)


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
