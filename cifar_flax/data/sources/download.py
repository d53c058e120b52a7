"""Downloads one large file from a slow host: patient with it, not with its absence.

TFDS's own downloader retries for minutes where there is no network, and begins again
where a connection breaks.
"""

import contextlib
import hashlib
import http
import http.client
import io
import os
import pathlib
import queue
import sys
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPResponse
from typing import BinaryIO

from tqdm import tqdm

# Longest silence, from the request to its first bytes and between bytes after that.
# Together with one message it must fit into 30 s.
_SILENCE_SECONDS = 25.0
_PAUSE_SECONDS = 5.0  # before connecting again
_ATTEMPTS = 5  # in a row that bring nothing, once anything has come
_CHUNK = 1 << 16
_FAILURES = (OSError, http.client.HTTPException)


class DownloadError(Exception):
  """The file could not be had; the message says why."""


def fetch(url: str, path: pathlib.Path, size: int, sha256: str) -> None:
  """Downloads a file, going on where an earlier call was interrupted.

  Args:
    url: Where from.
    path: Where to; until it is whole, it is `path` with `.part` added.
    size: Its bytes.
    sha256: Its checksum, hexadecimal.

  Raises:
    DownloadError: the host says nothing, or offers something else than the file.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f"{path.name}.part")
  with part.open("ab") as file:
    if file.tell() > size:
      file.truncate(0)
    _receive_all(url, file, size, path.name)
  with part.open("rb") as file:
    found = hashlib.file_digest(file, "sha256").hexdigest()
  if found != sha256:
    part.unlink()
    raise DownloadError(f"what came has sha256 {found} where {sha256} is published")
  os.replace(part, path)


def _receive_all(url: str, file: BinaryIO, size: int, name: str) -> None:
  """Appends to a file until it has its size, through as many connections as needed."""
  with tqdm(
    total=size,
    initial=file.seek(0, io.SEEK_END),
    desc=name,
    unit="B",
    unit_scale=True,
    mininterval=0.5 if sys.stderr.isatty() else 30,
  ) as progress:
    failures, allowed = 0, 1
    while progress.n != size:
      before = progress.n
      try:
        _receive(url, file, size, progress)
      except _FAILURES as error:
        if progress.n > before:
          failures, allowed = 0, _ATTEMPTS
        else:
          failures += 1
        if failures == allowed:
          raise DownloadError(str(error) or type(error).__name__) from error
        time.sleep(_PAUSE_SECONDS)


def _receive(url: str, file: BinaryIO, size: int, progress: tqdm) -> None:
  """Appends what one connection brings; raises OSError where it ends early."""
  response, chunk = _open(url, progress.n)
  with response:
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
      file.truncate(0)  # the host cannot go on in the middle
      progress.reset()
    if response.length is not None:  # what it announces beyond the first bytes
      offered = progress.n + len(chunk) + response.length
      if offered != size:
        raise DownloadError(f"it offers {offered} bytes where {size} are needed")
    while chunk:
      chunk = chunk[: size - progress.n]
      file.write(chunk)
      progress.update(len(chunk))
      chunk = response.read1(_CHUNK) if progress.n < size else b""
  if progress.n < size:
    raise ConnectionError("the connection ended early")


def _open(url: str, start: int) -> tuple[HTTPResponse, bytes]:
  """Returns the host's answer and its first bytes.

  In a thread of its own: a name server that is silent, or a host with many silent
  addresses, would go beyond any timeout a socket takes.
  """
  headers = {"User-Agent": "cifar_flax"}
  if start:
    headers["Range"] = f"bytes={start}-"
  request = urllib.request.Request(url, headers=headers)
  answers: queue.SimpleQueue[tuple[HTTPResponse, bytes] | Exception]
  answers = queue.SimpleQueue()

  def ask() -> None:
    try:
      with contextlib.ExitStack() as stack:
        response = urllib.request.urlopen(request, timeout=_SILENCE_SECONDS)
        stack.enter_context(response)
        answers.put((response, response.read1(_CHUNK)))
        stack.pop_all()
    except urllib.error.HTTPError as error:
      with error:  # it is the open connection as well
        answers.put(ConnectionError(str(error)))
    except Exception as error:  # raised below, where it is waited for
      answers.put(error)

  threading.Thread(target=ask, daemon=True).start()
  try:
    answer = answers.get(timeout=_SILENCE_SECONDS)
  except queue.Empty:
    raise TimeoutError(f"no answer within {_SILENCE_SECONDS:.0f} s") from None
  if isinstance(answer, Exception):
    raise answer
  return answer
