"""Standard output and standard error that may be closed, broken, full or in ASCII.

A command that prints its result ends when nobody reads it. A training goes on when its
terminal goes away: what matters are the files of the run.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

STDOUT, STDERR = "standard output", "standard error"


class Stream:
  """A text stream whose errors name it, or are ignored.

  Attributes:
    lasts: whether errors are ignored.
  """

  def __init__(self, stream: Any, name: str, lasts: bool = False):
    self._stream, self._name, self.lasts = stream, name, lasts

  def write(self, text: str) -> int:
    """Writes text.

    Raises:
      OSError: writing failed, and errors are not ignored; the error names the stream.
    """
    with self._naming_errors():
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    """Flushes the stream; raises what `write` raises."""
    with self._naming_errors():
      self._stream.flush()

  def isatty(self) -> bool:
    """Returns whether the stream is a terminal."""
    return not self._stream.closed and self._stream.isatty()

  @contextlib.contextmanager
  def _naming_errors(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      if not self.lasts:
        self.lasts = True  # said once; what is left in its buffer fails again
        raise OSError(error.errno, error.strerror, self._name) from error
    except ValueError:  # it has been closed
      if not self.lasts:
        raise

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


def lasting(stream: Any) -> Stream:
  """Returns `stream` with its errors ignored; None, a closed one, discards all."""
  return Stream(_Null() if stream is None else stream, "", lasts=True)


@contextlib.contextmanager
def guarded(lasts: bool = False) -> Iterator[None]:
  """Replaces the standard streams by ones that a command can rely on.

  What is closed is replaced by the null device. Characters that the encoding lacks are
  written as escapes. A context inside another one changes nothing, except that `lasts`
  holds until the outer one ends.

  Args:
    lasts: whether to ignore errors of the streams from now on, as a training does.
  """
  if isinstance(sys.stdout, Stream):
    if lasts:
      outlive()
    yield
    return
  _open_closed()
  before = sys.stdout, sys.stderr
  for stream in before:
    with contextlib.suppress(AttributeError, ValueError):  # not a file, or closed
      stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
  streams: Any = Stream(before[0], STDOUT, lasts), Stream(before[1], STDERR, True)
  sys.stdout, sys.stderr = streams
  try:
    yield
  finally:
    if (sys.stdout, sys.stderr) == streams:
      sys.stdout, sys.stderr = before
    for stream in before:
      _flush(stream)


def outlive() -> None:
  """Ignores errors of the guarded standard streams from now on."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, Stream):
      stream.lasts = True


def _open_closed() -> None:
  """Opens the null device for each standard stream that is closed.

  Otherwise the next file to be opened would get its descriptor, and with it whatever a
  library prints.
  """
  for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
    try:
      os.fstat(descriptor)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor: this one
    if getattr(sys, name) is None:
      setattr(sys, name, _Null())


class _Null(io.TextIOBase):
  """A stream that discards what is written and holds nothing to read."""

  def write(self, text: str) -> int:
    return len(text)

  def readline(self, size: Any = -1) -> str:  # type: ignore[override]
    return ""


def _flush(stream: Any) -> None:
  """Flushes a stream and discards what it cannot write: Python's exit would fail."""
  try:
    stream.flush()
  except ValueError:  # closed
    return
  except OSError:
    with contextlib.suppress(OSError, ValueError, AttributeError):
      null = os.open(os.devnull, os.O_WRONLY)
      os.dup2(null, stream.fileno())
      os.close(null)
      stream.flush()
