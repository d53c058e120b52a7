"""SIGTERM and Ctrl-C: end the process at once, or after it has saved a checkpoint.

Python runs its signal handlers only after compiled code returns, which may take long
for a compilation or a call to the devices. Therefore the signals keep the default
action of the system, which ends the process, until there is progress to save. From
then on, a thread receives them.
"""

import os
import signal
import threading
from types import TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Exit codes of a run that one of them stopped.
EXIT_CODES = tuple(128 + number for number in SIGNALS)


class Watch:
  """A context manager for SIGINT and SIGTERM.

  Inside `with`, a signal ends the process. After `defer`, the first signal only sets
  `signal`, and a second one ends the process. The previous handlers are restored at
  the end. Outside the main thread, signals are not touched.

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
      self._before = {n: signal.signal(n, signal.SIG_DFL) for n in SIGNALS}
    return self

  def defer(self) -> None:
    """Makes the first signal set `signal` only; does nothing outside `with`."""
    if self._pipe or not self._before:
      return
    self._pipe = os.pipe()
    reader, writer = self._pipe
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in SIGNALS:
      signal.signal(number, lambda *_: None)  # the pipe receives the signal's number
    threading.Thread(target=self._receive, args=(reader,), daemon=True).start()

  def _receive(self, reader: int) -> None:
    """Reads signal numbers from the pipe: stores the first, exits at the second."""
    while received := os.read(reader, 1):
      number = received[0]
      if number not in SIGNALS:
        continue
      if self.signal:
        os._exit(128 + number)
      self.signal = number
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
