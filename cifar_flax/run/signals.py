"""SIGTERM and Ctrl-C: out at once, or after saving where there is something to save.

Python's own handlers wait until compiled code returns: a compilation, or a call to the
devices. So signals keep the system's own effect (they end the process) as long as
nothing would be lost, and are counted by a thread from then on.
"""

import os
import signal
import threading
from types import TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Watch:
  """From `with` on, signals end the process; from `defer` on, the first sets `signal`.

  The second ends the process then. Outside of the main thread nothing is changed.

  Attributes:
    signal: number of the signal that asked to stop, or 0.
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
    """Lets the first signal set `signal` instead; nothing outside of `with`."""
    if self._pipe or not self._before:
      return
    self._pipe = os.pipe()
    reader, writer = self._pipe
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in SIGNALS:
      signal.signal(number, lambda *_: None)  # the system tells the pipe, not Python
    threading.Thread(target=self._count, args=(reader,), daemon=True).start()

  def _count(self, reader: int) -> None:
    while told := os.read(reader, 1):
      if told[0] not in SIGNALS:
        continue
      if self.signal:
        os._exit(128 + told[0])
      self.signal = told[0]
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
      os.close(self._pipe[1])  # the thread reads the end, and returns
