"""Trains many runs on the machines of a Ray cluster: `sweep --on=ray`.

Each place of the cluster is an actor with an accelerator or, without any, a machine. It
trains one run after another in a process of its own, as on one machine. All machines
must have this project installed and see the folder of the runs. The runs of a machine
that is lost go on elsewhere from their checkpoints.
"""

import contextlib
import math
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

from cifar_flax.errors import UserError
from cifar_flax.tools import jobs

SECONDS_TO_CONNECT = 10.0
SECONDS_BETWEEN_POLLS = 0.5
# The lock of a lost machine on a run directory expires within this time (`run.lock`).
SECONDS_OF_A_LOST_LOCK, SECONDS_BETWEEN_TRIES = 120.0, 10.0


class Remote:
  """The actor: a worker on a machine of the cluster."""

  def __init__(self, folder: str):
    """Enters the working directory of the command."""
    os.chdir(folder)
    self._workers = jobs.Workers()

  def train(self, job: jobs.Job) -> None:
    """Starts a run, after the one before has ended."""
    self._run = self._workers(job, 0)

  def poll(self) -> int | None:
    """Returns the run's exit code, or None while it is being trained."""
    return self._run.poll()

  def send_signal(self, number: int) -> None:
    """Sends a signal to the run."""
    self._run.send_signal(number)


class Run:
  """A run on the cluster; a `jobs.Process`."""

  pid = 0  # of another machine

  def __init__(self, places: "Places", job: jobs.Job):
    """Starts the run as soon as there is a place for it."""
    self._places, self._job = places, job
    self._asked: Any = None  # the code that is awaited
    self._next_poll, self._lost = 0.0, -math.inf
    self._signal: int | None = None
    self._start()

  def _start(self) -> None:
    self._actor = self._places.take()
    self._started = self._actor.train.remote(self._job)

  def poll(self) -> int | None:
    """Returns the run's exit code, or None while it is being trained."""
    import ray

    now = time.monotonic()
    if now < self._next_poll:
      return None
    self._next_poll = now + SECONDS_BETWEEN_POLLS
    try:
      code = self._code()
    except ray.exceptions.RayActorError:
      self._asked = None
      if self._signal is not None:  # it was to be stopped
        return 128 + self._signal
      print(
        f"{self._job.workdir}: its machine is lost; it goes on elsewhere", flush=True
      )
      self._lost = now
      self._start()
      return None
    if code == jobs.USER_ERROR and now < self._lost + SECONDS_OF_A_LOST_LOCK:
      self._started = self._actor.train.remote(self._job)
      self._next_poll = now + SECONDS_BETWEEN_TRIES
      return None
    if code is not None:
      self._places.give(self._actor)
    return code

  def _code(self) -> int | None:
    import ray

    if not _is_done(self._started):
      if self._signal is not None:  # never started
        ray.kill(self._actor)
        return 128 + self._signal
      if self._places.has_idle():  # instead of waiting for a place of its own
        ray.kill(self._actor)
        self._start()
      return None
    ray.get(self._started)  # raises the error of a machine that is lost
    self._asked = self._asked or self._actor.poll.remote()
    if not _is_done(self._asked):
      return None
    asked, self._asked = self._asked, None
    return ray.get(asked)

  def send_signal(self, number: int) -> None:
    """Sends a signal to the process that trains."""
    if number != signal.SIGCONT:
      self._signal = number
    self._actor.send_signal.remote(number)


def _is_done(answer: Any) -> bool:
  import ray

  return bool(ray.wait([answer], timeout=0)[0])


class Places:
  """The places of a cluster, for `jobs.train_all`.

  Attributes:
    number: how many runs it can train at the same time.
  """

  def __init__(self) -> None:
    """Counts the accelerators or machines of the cluster that has been joined."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for kind in ("GPU", "TPU", "CPU"):
      amounts = [int(machine.get(kind, 0)) for machine in machines]
      if any(amounts):
        break
    # Without accelerators a run uses all cores of a machine.
    need = min(filter(None, amounts)) if kind == "CPU" else 1
    self.number = sum(amount // need for amount in amounts)
    self._options = {
      "num_cpus": need if kind == "CPU" else 0,
      "num_gpus": int(kind == "GPU"),
      "resources": {"TPU": 1} if kind == "TPU" else {},
    }
    self._idle: list[Any] = []

  def __call__(self, job: jobs.Job, slot: int | None) -> Run:
    """Starts a run; Ray chooses the place."""
    del slot
    return Run(self, job)

  def take(self) -> Any:
    """Returns an idle actor, or a new one that starts when there is a place for it."""
    import ray

    if self._idle:
      return self._idle.pop()
    return ray.remote(Remote).options(**self._options).remote(os.getcwd())

  def give(self, actor: Any) -> None:
    """Takes back the actor of a run that has ended."""
    self._idle.append(actor)

  def has_idle(self) -> bool:
    """Returns whether an actor waits for a run."""
    return bool(self._idle)


@contextlib.contextmanager
def cluster(address: str = "") -> Iterator[Places]:
  """Joins a cluster and yields its places.

  Args:
    address: of its head; "" is the one that this machine belongs to, or a new one.

  Raises:
    UserError: Ray is not installed, or there is no such cluster.
  """
  try:
    import ray
  except ImportError:
    raise UserError("--on=ray: needs Ray: pip install -e '.[ray]'") from None
  try:
    _check_address(address)
    ray.init(address=address or None, log_to_driver=False, logging_level="error")
  except (OSError, ValueError, RuntimeError) as error:
    reason = str(error).splitlines()[0]
    raise UserError(f"--on=ray:{address}: cannot be joined ({reason})") from None
  try:
    yield Places()
  finally:
    ray.shutdown()


def _check_address(address: str) -> None:
  """Raises OSError if nobody listens at HOST:PORT, which Ray tries for minutes."""
  host, _, port = address.rpartition(":")
  if host and port.isdecimal():
    socket.create_connection((host, int(port)), SECONDS_TO_CONNECT).close()
