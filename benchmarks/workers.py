"""Worker processes: each holds one peer, and works only on request.

`python -m benchmarks.workers PEER` answers each line of JSON on stdin with a line on
stdout: {"do": "prepare", "method": NAME, "arguments": {...}} makes a `Workload` and
warms it up; {"do": "run", "steps": n} times n steps. Between requests the process is
blocked in a read.
"""

import contextlib
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

TIMEOUT = 600.0  # seconds to prepare a workload, or to run a window
WARM_UP_RUNS = 4  # at least, after the first; the third captures CUDA graphs
WARM_UP_SECONDS = 2.0  # no further run after these


class Absent(Exception):
  """Raised if a peer cannot be measured; the message is one line."""


class Worker:
  """The parent's side of a worker process.

  Attributes:
    peer: name in `peers.PEERS`, or `module:class`.
    about: the peer's description of itself.
  """

  def __init__(self, peer: str):
    """Starts the process.

    Raises:
      Absent: the peer fails to start, for example because a package is missing.
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

  def prepare(
    self, method: str, arguments: dict[str, Any], timeout: float = TIMEOUT
  ) -> dict[str, Any]:
    """Makes the workload that a method of the peer returns, and warms it up.

    Returns:
      seconds (per step, after the warm-up), multiple (the number of steps must be a
      multiple of it), and the workload's facts.

    Raises:
      Absent: the method fails, or takes longer than `timeout` seconds.
    """
    return self._request(timeout, do="prepare", method=method, arguments=arguments)

  def run(self, num_steps: int, timeout: float = TIMEOUT) -> float:
    """Returns the seconds that the workload's next `num_steps` steps take.

    Raises:
      Absent: a step fails, or they take longer than `timeout` seconds.
    """
    return self._request(timeout, do="run", steps=num_steps)["seconds"]

  def cpu_seconds(self) -> float:
    """Returns the CPU time of all threads of the process; 0 if unknown."""
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
    with contextlib.suppress(BrokenPipeError):  # `_answer` reports it
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
        self._ended = f"stopped, since it did not answer within {timeout:g} s"
      elif more := os.read(descriptor, 65536):
        self._unread += more
      else:
        self._process.wait()
        self._ended = f"exited with code {self._exit()}"
    if self._ended:
      raise Absent(f"{self.peer}: {self._ended}")
    line, _, self._unread = self._unread.partition(b"\n")
    answer = json.loads(line)
    if "error" in answer:
      raise Absent(f"{self.peer}: {answer['error']}")
    return answer

  def _exit(self) -> str:
    """Returns the exit code and the last line of stderr."""
    self._errors.seek(0)
    lines = self._errors.read().decode(errors="replace").strip().splitlines()
    return ": ".join([str(self._process.poll()), *lines[-1:]])


@contextlib.contextmanager
def started(
  names: Sequence[str] | Mapping[str, str],
  report: Callable[[str], None],
) -> Iterator[dict[str, Worker]]:
  """Starts a worker for each peer; closes all of them on exit.

  Args:
    names: peers, or the peer of each name.
    report: called with a line for each peer that fails to start.
  """
  workers: dict[str, Worker] = {}
  with contextlib.ExitStack() as stack:
    for name in names:
      try:
        workers[name] = Worker(names[name] if isinstance(names, Mapping) else name)
        stack.callback(workers[name].close)
      except Absent as reason:
        report(str(reason))
    yield workers


def _warm_up(workload: peers.Workload) -> dict[str, Any]:
  """Runs a workload until it is steady; returns what `Worker.prepare` returns."""
  steps = workload.multiple
  workload.run(steps)  # compiles
  runs, begun = 0, time.perf_counter()
  while True:
    runs, seconds = runs + 1, _time(workload, steps)
    long_enough = seconds > WARM_UP_SECONDS / 20
    if long_enough and runs >= WARM_UP_RUNS:
      break
    if time.perf_counter() - begun > WARM_UP_SECONDS:
      break
    steps *= 1 if long_enough else 2
  facts = {"seconds": seconds / steps, "multiple": workload.multiple}
  return facts | workload.facts


def _time(workload: peers.Workload, steps: int) -> float:
  begun = time.perf_counter()
  workload.run(steps)
  return time.perf_counter() - begun


def serve(name: str) -> None:
  """Answers requests until stdin ends: the main function of a worker process."""
  answers = os.fdopen(os.dup(1), "w", buffering=1)
  os.dup2(2, 1)  # keeps what libraries print out of the answers

  def answer(**content: Any) -> None:
    answers.write(json.dumps(content) + "\n")

  def fail(error: Exception) -> None:
    lines = str(error).strip().splitlines() or ["no message"]
    answer(error=f"{type(error).__name__}: {lines[0]}")

  try:
    peer = peers.create(name)
    answer(about=peer.describe())
  except Exception as error:  # of any kind; the report names it
    fail(error)
    return
  workload = peers.Workload(lambda steps: None)
  for line in sys.stdin:
    message = json.loads(line)
    try:
      if message["do"] == "prepare":
        workload = peers.Workload(lambda steps: None)  # frees the previous one's memory
        workload = getattr(peer, message["method"])(**message["arguments"])
        answer(**_warm_up(workload))
      else:
        answer(seconds=_time(workload, message["steps"]))
    except Exception as error:
      fail(error)


if __name__ == "__main__":
  serve(sys.argv[1])
