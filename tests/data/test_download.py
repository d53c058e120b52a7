"""Tests the downloader against a local server that fails in prescribed ways."""

import hashlib
import http.server
import socket
import threading
import time

import numpy as np
import pytest
from stand_ins import make_config

from cifar_flax.data import datasets
from cifar_flax.data.sources import cifar, download
from cifar_flax.errors import UserError

CONTENT = np.random.default_rng(1).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Host(http.server.ThreadingHTTPServer):
  """Serves `content`; each attribute selects one kind of failure."""

  daemon_threads = True
  content = CONTENT
  drop_after = 10**9  # bytes after which the server closes a connection
  ranges = True
  refused: tuple[int, ...] = ()  # requests, counted from 1, that get a 503
  stalls = False  # the first connection stalls before it is closed
  chunk = 1 << 16
  pause = 0.0  # seconds before each chunk

  def __init__(self):
    super().__init__(("127.0.0.1", 0), Handler)
    self.requested: list[str | None] = []
    self.awake = threading.Event()
    self.url = f"http://127.0.0.1:{self.server_port}/file.tgz"

  def handle_error(self, request, client_address):
    pass  # in some tests the client closes the connection early


class Handler(http.server.BaseHTTPRequestHandler):
  server: Host  # type: ignore  # the only kind that starts this handler

  def do_GET(self):  # noqa: N802, the base class requires this name
    host, wanted = self.server, self.headers["Range"]
    host.requested.append(wanted)
    if self.path != "/file.tgz" or len(host.requested) in host.refused:
      self.send_error(404 if self.path != "/file.tgz" else 503)
      return
    start = 0
    if wanted and host.ranges:
      start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    self.send_response(206 if start else 200)
    self.send_header("Content-Length", str(len(host.content) - start))
    self.end_headers()
    end = min(len(host.content), start + host.drop_after)
    for position in range(start, end, host.chunk):
      time.sleep(host.pause)
      self.wfile.write(host.content[position : min(position + host.chunk, end)])
    if host.stalls and len(host.requested) == 1:
      host.awake.wait(20)

  def log_message(self, format, *args):
    pass


@pytest.fixture
def host(monkeypatch):
  monkeypatch.setattr(download, "_PAUSE_SECONDS", 0.01)
  with Host() as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.awake.set()
    server.shutdown()
    thread.join()


@pytest.fixture
def silent(monkeypatch):
  """Yields the URL of a host that accepts connections and never responds."""
  monkeypatch.setattr(download, "_SILENCE_SECONDS", 0.4)
  with socket.create_server(("127.0.0.1", 0)) as server:
    yield f"http://127.0.0.1:{server.getsockname()[1]}/file.tgz"


def fetch(host, path):
  download.fetch(host.url, path, len(CONTENT), SHA256)
  assert path.read_bytes() == CONTENT
  assert not list(path.parent.glob("*.part"))


def test_whole_file_with_bytes_and_rate(host, tmp_path, capsys):
  fetch(host, tmp_path / "new" / "file.tgz")
  assert host.requested == [None]
  shown = capsys.readouterr().err
  assert "300k/300k" in shown and "B/s" in shown


def test_download_resumes_after_broken_connections(host, tmp_path):
  host.drop_after = 100_000
  fetch(host, tmp_path / "file.tgz")
  assert host.requested == [None, "bytes=100000-", "bytes=200000-"]


def test_download_resumes_after_a_stalled_connection(host, tmp_path, monkeypatch):
  monkeypatch.setattr(download, "_SILENCE_SECONDS", 0.4)
  host.drop_after, host.stalls = 200_000, True
  start = time.monotonic()
  fetch(host, tmp_path / "file.tgz")
  assert time.monotonic() - start < 5
  assert host.requested == [None, "bytes=200000-"]


def test_requests_are_retried_once_some_bytes_have_arrived(host, tmp_path):
  host.drop_after, host.refused = 200_000, (2, 3, 4)
  fetch(host, tmp_path / "file.tgz")
  assert host.requested == [None, *["bytes=200000-"] * 4]


def test_retries_are_limited(host, tmp_path):
  host.drop_after, host.refused = 200_000, tuple(range(2, 100))
  with pytest.raises(download.DownloadError, match="503"):
    fetch(host, tmp_path / "file.tgz")
  assert (tmp_path / "file.tgz.part").read_bytes() == CONTENT[:200_000]
  host.refused = (len(host.requested) + 1,)
  with pytest.raises(download.DownloadError, match="503"):
    fetch(host, tmp_path / "file.tgz")  # no bytes arrived, so it does not retry
  fetch(host, tmp_path / "file.tgz")


def test_interrupted_download_is_resumed(host, tmp_path):
  (tmp_path / "file.tgz.part").write_bytes(CONTENT[:123_456])
  fetch(host, tmp_path / "file.tgz")
  assert host.requested == ["bytes=123456-"]


def test_host_without_ranges_restarts_the_file(host, tmp_path):
  host.ranges = False
  (tmp_path / "file.tgz.part").write_bytes(b"x" * 123_456)
  fetch(host, tmp_path / "file.tgz")


def test_complete_part_needs_no_host(tmp_path):
  (tmp_path / "file.tgz.part").write_bytes(CONTENT)
  download.fetch("http://127.0.0.1:9/", tmp_path / "file.tgz", len(CONTENT), SHA256)
  assert (tmp_path / "file.tgz").read_bytes() == CONTENT


def test_part_that_is_too_long_is_discarded(host, tmp_path):
  (tmp_path / "file.tgz.part").write_bytes(CONTENT + b"x")
  fetch(host, tmp_path / "file.tgz")


def test_wrong_content_is_discarded(host, tmp_path):
  host.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
  with pytest.raises(download.DownloadError, match=f"{SHA256} is published"):
    fetch(host, tmp_path / "file.tgz")
  assert not list(tmp_path.iterdir())


def test_wrong_length_is_refused_before_downloading(host, tmp_path):
  host.content = CONTENT[:-1]
  with pytest.raises(download.DownloadError, match="offers 299999 .* 300000"):
    fetch(host, tmp_path / "file.tgz")


def test_missing_file_is_not_retried(tmp_path, host):
  with pytest.raises(download.DownloadError, match="404"):
    download.fetch(f"http://127.0.0.1:{host.server_port}/", tmp_path / "x", 5, SHA256)


def test_slow_host_does_not_time_out(host, tmp_path, monkeypatch):
  monkeypatch.setattr(download, "_SILENCE_SECONDS", 0.5)
  host.pause, host.chunk = 0.2, 30_000
  start = time.monotonic()
  fetch(host, tmp_path / "file.tgz")
  assert time.monotonic() - start > 3 * 0.5
  assert host.requested == [None], "one connection suffices"


def test_closed_port_fails_at_once(tmp_path):
  with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
  start = time.monotonic()
  with pytest.raises(download.DownloadError, match="refused"):
    download.fetch(f"http://127.0.0.1:{port}/", tmp_path / "x", 5, SHA256)
  assert time.monotonic() - start < 5


def test_silent_host_times_out(silent, monkeypatch):
  assert download._SILENCE_SECONDS < 1
  monkeypatch.setattr(cifar, "URL", f"{silent}/")
  start = time.monotonic()
  with pytest.raises(UserError, match="timed out") as error:
    datasets.load(make_config())
  assert time.monotonic() - start < 3
  assert "\n" not in str(error.value)


def test_timeout_is_below_thirty_seconds():
  assert download._SILENCE_SECONDS <= 25
