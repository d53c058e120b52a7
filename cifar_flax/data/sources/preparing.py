"""Helpers of our TFDS builders: PNG encoding, description and locked preparation."""

import contextlib
import fcntl
import functools
import io
import os
import pathlib
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cifar_flax import caches
from cifar_flax.data.records import IMAGE_SHAPE, INFO_FILE
from cifar_flax.errors import UserError
from cifar_flax.run import signals


def png(image: np.ndarray) -> io.BytesIO:
  """Returns an image as a PNG file, because TFDS encodes arrays with TensorFlow."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, "png")
  file.seek(0)
  return file


def describe(
  builder: tfds.core.DatasetBuilder, class_names: Sequence[str]
) -> tfds.core.DatasetInfo:
  """Returns a TFDS description with CIFAR-10's features and the given classes."""
  features = tfds.features.FeaturesDict(
    {
      "id": tfds.features.Text(),
      "image": tfds.features.Image(shape=IMAGE_SHAPE),
      "label": tfds.features.ClassLabel(names=list(class_names)),
    }
  )
  return tfds.core.DatasetInfo(
    builder=builder,
    description=builder.__doc__,
    features=features,
    supervised_keys=("image", "label"),
  )


def prepare(
  folder: pathlib.Path,
  make_builder: Callable[[], tfds.core.GeneratorBasedBuilder],
) -> None:
  """Makes TFDS write a dataset as array_record, unless another process has done so.

  A lock file in the data folder admits one process at a time.

  Args:
    folder: The folder to write, `<data_dir>/<name>/<version>`. `data_dir` is created if
      its parent exists.
    make_builder: Returns the builder. It is called with the lock held and may download.

  Raises:
    UserError: the folder cannot be written.
  """
  data_dir, name = folder.parents[1], folder.parent.name
  if not data_dir.parent.is_dir():
    raise UserError(
      f"data.data_dir={data_dir}: its parent folder does not exist. Correct the path,"
      " or create the parent folder first."
    )
  try:
    data_dir.mkdir(exist_ok=True)
    with locked(data_dir / f".{name}.lock") as lock:
      if (folder / INFO_FILE).is_file():
        return
      _remove_leftovers(data_dir)
      _remove_recorded(lock, folder.parent)
      builder = make_builder()
      print(f"Preparing {name} in {folder} (once).", file=sys.stderr)
      with _quiet(), _recorded(builder, lock):
        builder.download_and_prepare(file_format="array_record")
  except OSError as error:
    raise UserError(
      f"data.data_dir={data_dir}: cannot prepare {name} there ({error}). Make the"
      " folder writable and free twice the size of the dataset's files, or set another"
      " folder."
    ) from error


@contextlib.contextmanager
def locked(path: pathlib.Path, how: int = fcntl.LOCK_EX) -> Iterator[TextIO]:
  """Holds a file lock, which the system releases if the process dies.

  Args:
    path: The lock file; created if absent.
    how: `fcntl.LOCK_EX` or `fcntl.LOCK_SH`, with `fcntl.LOCK_NB` to raise an OSError
      rather than wait for another process.

  Yields:
    The open lock file. In that of a dataset, the process that prepares it writes the
    name of the folder that TFDS writes to.
  """
  while True:
    with path.open("a+") as file:
      fcntl.flock(file, how)
      try:
        is_current = path.stat().st_ino == os.fstat(file.fileno()).st_ino
      except FileNotFoundError:
        is_current = False
      if is_current:  # else another process has deleted it with what it protects
        yield file
        return


@contextlib.contextmanager
def _recorded(builder: Any, lock: TextIO) -> Iterator[None]:
  """Has a builder write into the lock file where TFDS writes, until it has finished.

  TFDS deletes that folder itself if an exception ends the preparation. Signals that
  would end the process at once delete it here.
  """
  prepare = builder._download_and_prepare
  place: list[pathlib.Path] = []

  def recording(*args: Any, **kwargs: Any) -> None:
    place.append(pathlib.Path(builder.data_path))
    _record(lock, place[0].name)
    prepare(*args, **kwargs)

  def end(number: int, frame: Any) -> None:
    del frame
    for path in place:
      shutil.rmtree(path, ignore_errors=True)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)

  is_main = threading.current_thread() is threading.main_thread()
  deadly = [n for n in signals.SIGNALS if signal.getsignal(n) == signal.SIG_DFL]
  before = {n: signal.signal(n, end) for n in deadly} if is_main else {}
  builder._download_and_prepare = recording
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
    _record(lock, "")


def _record(lock: TextIO, name: str) -> None:
  lock.truncate(0)
  lock.write(name)
  lock.flush()


def _remove_leftovers(data_dir: pathlib.Path) -> None:
  """Deletes what processes that were killed have left of any dataset.

  Other programs do not hold our locks, so what is not recorded in one is deleted when
  nothing in it has changed for a day.
  """
  for path in data_dir.glob("*/incomplete.*"):
    with contextlib.suppress(OSError):
      if time.time() - _newest(path) > _MAX_FOREIGN_SECONDS:
        shutil.rmtree(path)
  for path in data_dir.glob(".*.lock"):
    with contextlib.suppress(OSError), locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB) as f:
      _remove_recorded(f, data_dir / path.name.removeprefix(".").removesuffix(".lock"))


def _remove_recorded(lock: TextIO, folder: pathlib.Path) -> None:
  """Deletes the folder that is recorded in a lock, which has no other owner any more.

  Args:
    lock: The lock file, which is held.
    folder: The dataset's folder.
  """
  lock.seek(0)
  name = lock.read()
  if name.startswith("incomplete.") and os.sep not in name:
    shutil.rmtree(folder / name, ignore_errors=True)
    _record(lock, "")


def _newest(folder: pathlib.Path) -> float:
  """Returns when something in a folder was last changed, in seconds since 1970."""
  return max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])


# Copies of folders of pictures: their names, and the most that all of them take.
_COPIES = f"folder_{'[0-9a-f]' * 16}"
MAX_COPIES_BYTES = 512 << 20
_MAX_FOREIGN_SECONDS = 24 * 3600.0


@contextlib.contextmanager
def in_use(folder: pathlib.Path) -> Iterator[bool]:
  """Keeps other processes from deleting the copy of a folder of pictures.

  Args:
    folder: The copy, `<data_dir>/<name>/<version>`.

  Yields:
    Whether it exists.
  """
  with contextlib.ExitStack() as stack:
    with contextlib.suppress(OSError):  # if it cannot be locked, nobody can delete it
      lock = folder.parents[1] / f".{folder.parent.name}.lock"
      stack.enter_context(locked(lock, fcntl.LOCK_SH))
      os.utime(folder.parent)
    yield (folder / INFO_FILE).is_file()


def tidy_copies(data_dir: pathlib.Path) -> None:
  """Deletes the least recently used copies of folders of pictures until the rest fits.

  A copy can be made again at any time. One that a process reads or writes is kept, and
  one whose preparation was killed is deleted in any case.
  """
  entries = []
  for path in data_dir.glob(_COPIES):
    delete = functools.partial(_delete_copy, path)
    with contextlib.suppress(OSError):
      if not any(path.glob(f"*/{INFO_FILE}")) and delete():
        continue
      size = sum(file.stat().st_size for file in path.rglob("*"))
      entries.append(caches.Entry(path.stat().st_mtime, size, delete))
  caches.evict_entries(entries, MAX_COPIES_BYTES)


def _delete_copy(path: pathlib.Path) -> bool:
  """Deletes a copy and its lock file; returns False if a process is using it."""
  lock = path.parent / f".{path.name}.lock"
  try:
    with locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
      shutil.rmtree(path)
      lock.unlink()
  except OSError:
    return False
  return True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences TFDS, because our builders show their own progress bar for each split."""
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.enable_progress_bar()
