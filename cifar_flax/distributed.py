"""A run over several processes: on one host or many.

Every process runs the same command on the same run directory. On a TPU slice, and
under Slurm or Open MPI, `--distributed=auto` finds the others; elsewhere
`--distributed=HOST:PORT,NUMBER,ID` says where process 0 listens, how many there are
and which one this is.
"""

import contextlib
import os
import sys
import threading
import time
from typing import Any

from cifar_flax.errors import UserError

# A process that has not been heard of for so long is dead, and the others end. JAX
# ends them too, later and by a crash.
DEAD_AFTER_SECONDS = 40.0
BEAT_SECONDS = 4.0
_PARTED = "parted"


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
  global _pulse
  import jax

  options = parse(text)
  jax.config.update("jax_enable_preemption_service", False)  # signals are ours
  try:
    jax.distributed.initialize(**options)
  except (ValueError, RuntimeError) as error:
    reason = str(error).splitlines()[0]
    raise UserError(f"--distributed={text!r}: {reason}") from None
  from jax._src import distributed  # JAX has no public name for its store

  state: Any = distributed.global_state
  _pulse = Pulse(state.client, state.process_id, state.num_processes)
  threading.Thread(target=_end_with_the_others, args=(_pulse,), daemon=True).start()


class Pulse:
  """Signs of life of all processes, in the store that process 0 keeps for them.

  A process that waits for a dead one in the middle of a call would wait for ever, or
  until JAX crashes it.

  Args:
    store: JAX's client of it.
    own: number of this process.
    count: how many there are.
  """

  def __init__(self, store: Any, own: int, count: int):
    self._store, self._own = store, own
    self._parted, self._telling = threading.Event(), threading.Lock()
    self._told = dict.fromkeys(range(count), ("", time.monotonic()))

  def beat(self) -> int | None:
    """Gives a sign of life; returns a process that has given none for too long.

    Raises:
      RuntimeError: process 0 does not answer.
    """
    now = time.monotonic()
    told = self._tell()
    for process, (before, since) in self._told.items():
      text = told.get(process, before)
      if text != before or text == _PARTED:
        self._told[process] = text, now
      elif now - since > DEAD_AFTER_SECONDS:
        return process
    return None

  def beat_until_parted(self) -> str | None:
    """Returns why this process can't go on, or None when it has no need to."""
    while not self._parted.is_set():
      try:
        dead = self.beat()
      except RuntimeError as error:
        return None if self._parted.is_set() else f"process 0 does not answer: {error}"
      if dead is not None:
        return f"no sign of life from process {dead} for {DEAD_AFTER_SECONDS:.0f} s"
      self._parted.wait(BEAT_SECONDS)
    return None

  def part(self) -> None:
    """Says that this process has done its work.

    Process 0 waits for the others to say so too: without it they have no store.
    """
    deadline = time.monotonic() + DEAD_AFTER_SECONDS
    self._parted.set()
    with contextlib.suppress(RuntimeError):
      while list(self._tell().values()) != [_PARTED] * len(self._told):
        if self._own != 0 or time.monotonic() > deadline:
          break
        time.sleep(0.1)

  def _tell(self) -> dict[int, str]:
    """Returns what each process has told last."""
    folder = "cifar_flax/pulse"
    with self._telling:  # no sign of life may follow the parting
      text = _PARTED if self._parted.is_set() else str(time.monotonic())
      self._store.key_value_set(f"{folder}/{self._own}", text, allow_overwrite=True)
    entries = self._store.key_value_dir_get(folder)
    return {int(key.rpartition("/")[2]): value for key, value in entries}


def _end_with_the_others(pulse: Pulse) -> None:
  if reason := pulse.beat_until_parted():
    print(loss(reason), file=sys.stderr)
    leave(1)


def loss(reason: str) -> str:
  """The line that says that another process has ended."""
  reason = " ".join(reason.split())[:150]
  return (
    f"error: another process of this run has ended ({reason}); start the same commands "
    "again, they go on from the newest checkpoint"
  )


_pulse: Pulse | None = None


def joined() -> bool:
  """Whether this is one process of several."""
  return _pulse is not None


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


def part() -> None:
  """Lets the others know that this process has not died, but ended."""
  if _pulse is not None:
    _pulse.part()


def leave(code: int) -> None:
  """Ends this process at once: JAX waits for the others, minutes if they are dead."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
