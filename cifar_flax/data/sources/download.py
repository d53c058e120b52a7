"""Downloads one large file over connections that may break.

TFDS's own downloader retries for minutes if there is no network, and restarts the file
from its beginning if a connection breaks.
"""

import contextlib
import contextvars
import hashlib
import http
import http.client
import io
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import BinaryIO

from tqdm import tqdm

from cifar_flax.errors import UserError

# The longest wait for a connection to each address of the host, for the response and
# for more bytes. It does not limit name resolution: measured against silent name
# servers, glibc's default settings give up after 10 s with one and 28 s with three.
_SILENCE_SECONDS = 25.0
_PAUSE_SECONDS = 5.0  # before connecting again
_ATTEMPTS = 5  # consecutive ones without any bytes, once some bytes have arrived
_CHUNK = 1 << 16
_FAILURES = (OSError, http.client.HTTPException)


class DownloadError(Exception):
  """The file could not be downloaded; the message states the cause."""


# The command that must not download, or "".
_forbidden_in = contextvars.ContextVar("_forbidden_in", default="")


@contextlib.contextmanager
def forbidden(command: str) -> Iterator[None]:
  """Makes `fetch` fail at once inside the context.

  Args:
    command: what does not download, for the message.
  """
  token = _forbidden_in.set(command)
  try:
    yield
  finally:
    _forbidden_in.reset(token)


def explain(error: DownloadError, name: str, url: str, files: str) -> UserError:
  """Returns the error for data that are neither prepared nor can be downloaded.

  Args:
    error: what `fetch` raised.
    name: the dataset and where it was looked for.
    url: the file's address.
    files: the official files, of which there may be a copy.
  """
  if command := _forbidden_in.get():
    return UserError(
      f"{name}, and {command} does not download it. Evaluate one of the runs, which"
      " does (eval --workdir=RUN), or set TFDS_DATA_DIR or data.data_dir to a folder"
      f" where TFDS has prepared it, or data.archive to {files}."
    )
  return UserError(
    f"{name}, and {url} cannot be downloaded ({error}). Try again later (the download"
    " resumes); or set TFDS_DATA_DIR or data.data_dir to a folder where TFDS has"
    f" prepared it; or set data.archive to {files}; or set data.dataset=shapes10, which"
    " needs no download."
  )


def fetch(url: str, path: pathlib.Path, size: int, sha256: str) -> None:
  """Downloads a file, resuming what an earlier call left incomplete.

  Args:
    url: The URL of the file.
    path: The path to write. An incomplete file is kept as `path` with `.part` added.
    size: The file's size in bytes.
    sha256: The file's checksum, hexadecimal.

  Raises:
    DownloadError: the host does not respond, or the file has another size or checksum.
  """
  if command := _forbidden_in.get():
    raise DownloadError(f"{command} does not download")
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
    raise DownloadError(f"the download has sha256 {found}, but {sha256} is published")
  os.replace(part, path)


def _receive_all(url: str, file: BinaryIO, size: int, name: str) -> None:
  """Appends to a file until it has its full size, reconnecting as often as needed."""
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
  """Appends what one connection delivers; raises an OSError if it ends early."""
  request = urllib.request.Request(url, headers={"User-Agent": "cifar_flax"})
  if progress.n:
    request.add_header("Range", f"bytes={progress.n}-")
  try:
    response = urllib.request.urlopen(request, timeout=_SILENCE_SECONDS)
  except urllib.error.HTTPError as error:
    error.close()  # it holds the connection
    raise
  with response:
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
      file.truncate(0)  # the host sends the file from its beginning
      progress.reset()
    if response.length is not None and progress.n + response.length != size:
      offered = progress.n + response.length
      raise DownloadError(f"the host offers {offered} bytes, but {size} are needed")
    while progress.n < size and (chunk := response.read1(_CHUNK)):
      chunk = chunk[: size - progress.n]
      file.write(chunk)
      progress.update(len(chunk))
  if progress.n < size:
    raise ConnectionError("the connection ended early")
