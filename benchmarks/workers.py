"""Processes that wait: each holds one peer, and works only while it is asked to.

`python -m benchmarks.workers PEER` answers a line of JSON on stdin with a line on
stdout: {"do": "prepare", "what": METHOD, "arguments": {...}} makes a `Program` and
warms it up, {"do": "run", "steps": n} times n steps. Between the lines the process
is blocked in a read.
"""

import contextlib
import itertools
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks import peers

WARM_UP_RUNS = 4  # after the first, at least; CUDA graphs are made in the third
WARM_UP_SECONDS = 2.0  # after which it is enough


class Absent(Exception):
  """A peer that cannot be measured, and why in a line."""


class Worker:
  """The parent's end.

  Attributes:
    peer: its name in `peers.PEERS`, or `module:class`.
    about: what the peer says of itself.
  """

  def __init__(self, peer: str):
    """Starts the process.

    Raises:
      Absent: it does not come up, for want of a package say.
    """
    self.peer, self._unread, self._ended = peer, b"", ""
    self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `close`)
    self._process = subprocess.Popen(
      [sys.executable, "-m", "benchmarks.workers", peer],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      cwd=peers.ROOT,
    )
    try:
      self.about: str = self._answer(timeout=120)["about"]
    except Absent:
      self.close()
      raise

  def prepare(self, timeout: float, what: str, **arguments: Any) -> dict[str, Any]:
    """Makes a program ready and warms it up.

    Returns:
      seconds (a step, after the first ones), multiple (of which the number of steps
      has to be a multiple), and the program's facts.

    Raises:
      Absent: the peer has no such thing, fails, or is not ready after `timeout` s.
    """
    return self._request(timeout, do="prepare", what=what, arguments=arguments)

  def run(self, num_steps: int, timeout: float = 600) -> float:
    """Seconds that the program's next `num_steps` take."""
    return self._request(timeout, do="run", steps=num_steps)["seconds"]

  def peak_bytes(self) -> int:
    """The most memory that the peer has used so far."""
    return self._request(60, do="peak")["bytes"]

  def cpu_seconds(self) -> float:
    """Processor time that all threads of the process have used; 0 where unknown."""
    with contextlib.suppress(OSError):
      with open(f"/proc/{self._process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
      return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0

  def close(self) -> None:
    """Ends the process."""
    assert self._process.stdin and self._process.stdout
    with contextlib.suppress(OSError):
      self._process.stdin.close()
    try:
      self._process.wait(timeout=10)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._process.stdout.close()
    self._errors.close()

  def _request(self, timeout: float, **message: Any) -> dict[str, Any]:
    assert self._process.stdin
    with contextlib.suppress(BrokenPipeError):  # then there is no answer either
      self._process.stdin.write(json.dumps(message).encode() + b"\n")
      self._process.stdin.flush()
    return self._answer(timeout)

  def _answer(self, timeout: float) -> dict[str, Any]:
    assert self._process.stdout
    descriptor, deadline = self._process.stdout.fileno(), time.monotonic() + timeout
    while b"\n" not in self._unread and not self._ended:
      left = deadline - time.monotonic()
      if left <= 0 or not select.select([descriptor], [], [], left)[0]:
        self._process.kill()
        self._ended = f"ended, no answer in {timeout:.0f} s"
      elif more := os.read(descriptor, 65536):
        self._unread += more
      else:
        self._process.wait()
        self._ended = f"ended by itself: {self._last_words()}"
    if self._ended:
      raise Absent(f"{self.peer}: {self._ended}")
    line, _, self._unread = self._unread.partition(b"\n")
    answer = json.loads(line)
    if "error" in answer:
      raise Absent(f"{self.peer}: {answer['error']}")
    return answer

  def _last_words(self) -> str:
    self._errors.seek(0)
    lines = self._errors.read().decode(errors="replace").strip().splitlines()
    return ": ".join([f"exit code {self._process.poll()}", *lines[-1:]])


@contextlib.contextmanager
def started(
  names: Sequence[str] | Mapping[str, str],
  say: Callable[[str], None],
) -> Iterator[dict[str, Worker]]:
  """Workers of peers, or of peers under other names; ended on leaving.

  `say` is told which are absent and why.
  """
  workers: dict[str, Worker] = {}
  with contextlib.ExitStack() as stack:
    for name in names:
      try:
        workers[name] = Worker(names[name] if isinstance(names, Mapping) else name)
        stack.callback(workers[name].close)
      except Absent as reason:
        say(str(reason))
    yield workers


def _warm_up(program: peers.Program) -> dict[str, Any]:
  """Runs it until it is compiled and settled, in longer runs where a step is short."""
  program.run(program.multiple)  # compiles
  begun, steps = time.perf_counter(), program.multiple
  for run in itertools.count(1):
    started_at = time.perf_counter()
    program.run(steps)
    ended_at = time.perf_counter()
    seconds = ended_at - started_at
    settled = run >= WARM_UP_RUNS and seconds > WARM_UP_SECONDS / 20
    if settled or ended_at - begun > WARM_UP_SECONDS:
      break
    steps *= 1 if seconds > WARM_UP_SECONDS / 20 else 2
  facts = {"seconds": seconds / steps, "multiple": program.multiple}
  return facts | program.facts


def serve(name: str) -> None:
  """The child's end: answers until stdin ends."""
  answers = os.fdopen(os.dup(1), "w", buffering=1)
  os.dup2(2, 1)  # what a library prints is no answer

  def answer(**content: Any) -> None:
    answers.write(json.dumps(content) + "\n")

  def refuse(error: Exception) -> None:
    lines = str(error).strip().splitlines() or ["no message"]
    answer(error=f"{type(error).__name__}: {lines[0]}")

  try:
    peer = peers.create(name)
    answer(about=peer.describe())
  except Exception as error:  # whatever it is, the table says it and goes on
    refuse(error)
    return
  program = peers.Program(lambda steps: None)
  for line in sys.stdin:
    message = json.loads(line)
    try:
      if message["do"] == "prepare":
        program = peers.Program(lambda steps: None)  # lets go of the one before
        program = getattr(peer, message["what"])(**message["arguments"])
        answer(**_warm_up(program))
      elif message["do"] == "run":
        started_at = time.perf_counter()
        program.run(message["steps"])
        answer(seconds=time.perf_counter() - started_at)
      else:
        answer(bytes=peer.peak_bytes())
    except Exception as error:
      refuse(error)


if __name__ == "__main__":
  serve(sys.argv[1])
