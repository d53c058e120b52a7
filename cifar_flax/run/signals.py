"""Signals that stop a run: at once, or after it has saved a checkpoint.

Python runs its signal handlers only after compiled code returns, which may take long
for a compilation or a call to the devices. Therefore the signals keep the default
action of the system, which ends the process, until there is progress to save. From
then on, a thread receives them.

One request to stop often arrives as several signals: `timeout` signals the process and
its process group, a terminal signals a parent and its child, and the parent forwards
what it receives. Therefore only a second Ctrl-C ends a process that is saving.
"""

import os
import signal
import threading
import time
from types import TracebackType
from typing import Any

# A kill or a scheduler's end, Ctrl-C, a lost terminal, warnings of Slurm and Grid
# Engine, and a limit on processor time.
SIGNALS = (
  signal.SIGINT,
  signal.SIGTERM,
  signal.SIGHUP,
  signal.SIGUSR1,
  signal.SIGUSR2,
  signal.SIGXCPU,
)
# Exit codes of a run that one of them stopped.
EXIT_CODES = tuple(128 + number for number in SIGNALS)
# A second Ctrl-C comes this long after the first, and a held key repeats faster than
# once in the other time.
SECONDS_TO_SECOND_CTRL_C = 1.5
SECONDS_BETWEEN_KEY_REPEATS = 0.3
_INTERRUPTED = (
  "\ninterrupted before everything was saved: rerun the same command to resume from "
  "the newest checkpoint\n"
)


def shell_code(code: int) -> int:
  """Returns 128 + n for a process that signal n ended (-n), else `code`."""
  return 128 - code if code < 0 else code


def heeded() -> tuple[signal.Signals, ...]:
  """Returns the signals of `SIGNALS` that this process does not ignore.

  `nohup` makes a process ignore SIGHUP, and a shell script makes its background
  processes ignore Ctrl-C. They stay ignored, and so does what C code handles (None).
  """
  return tuple(n for n in SIGNALS if signal.getsignal(n) not in (signal.SIG_IGN, None))


class Request:
  """A request to stop, which may arrive as several signals.

  Attributes:
    signal: number of the first signal, or 0.
  """

  def __init__(self) -> None:
    self.signal = 0
    self._first_ctrl_c: float | None = None
    self._last_ctrl_c = 0.0

  def add(self, number: int, now: float | None = None) -> bool:
    """Adds a signal; returns whether it is a second Ctrl-C, which ends at once.

    Args:
      number: of the signal.
      now: when it arrived, by `time.monotonic`.
    """
    now = time.monotonic() if now is None else now
    self.signal = self.signal or number
    if number != signal.SIGINT:
      return False
    if self._first_ctrl_c is None:
      self._first_ctrl_c = self._last_ctrl_c = now
      return False
    pause, self._last_ctrl_c = now - self._last_ctrl_c, now
    late = now - self._first_ctrl_c >= SECONDS_TO_SECOND_CTRL_C
    return late and pause >= SECONDS_BETWEEN_KEY_REPEATS


class Watch:
  """A context manager for the signals that stop a run.

  Inside `with`, a signal ends the process. After `defer`, signals only set `signal`,
  except that a second Ctrl-C ends the process. The previous handlers are restored at
  the end. Signals that are ignored stay ignored, and outside the main thread signals
  are not touched.

  Attributes:
    signal: number of the signal that asked the run to stop, or 0.
  """

  def __init__(self) -> None:
    self.signal = 0
    self._active = threading.current_thread() is threading.main_thread()
    self._before: dict[int, Any] = {}
    self._pipe: tuple[int, int] | None = None

  def __enter__(self) -> "Watch":
    if self._active:
      self._before = {n: signal.signal(n, signal.SIG_DFL) for n in heeded()}
    return self

  def defer(self) -> None:
    """Makes signals set `signal` only; does nothing outside `with`."""
    if self._pipe or not self._before:
      return
    self._pipe = os.pipe()
    reader, writer = self._pipe
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in self._before:
      signal.signal(number, lambda *_: None)  # the pipe receives the signal's number
    threading.Thread(target=self._receive, args=(reader,), daemon=True).start()

  def _receive(self, reader: int) -> None:
    """Reads signal numbers from the pipe, and exits at a second Ctrl-C."""
    request = Request()
    while received := os.read(reader, 1):
      number = received[0]
      if number not in self._before:
        continue
      if request.add(number):
        try:
          os.write(2, _INTERRUPTED.encode())
        finally:
          os._exit(128 + number)
      self.signal = request.signal
    os.close(reader)

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    if self._pipe:
      signal.set_wakeup_fd(-1)
    for number, handler in self._before.items():
      signal.signal(number, handler)
    if self._pipe:
      os.close(self._pipe[1])  # ends the thread


def ignore_repeats(code: int) -> None:
  """Ignores all signals if `code` says that one has stopped this process.

  Its repeats then cannot change how the process, which has saved everything, ends.
  """
  if code in EXIT_CODES:
    for number in SIGNALS:
      signal.signal(number, signal.SIG_IGN)
