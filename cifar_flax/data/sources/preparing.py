"""Helpers of our TFDS builders: PNG encoding, description and locked preparation."""

import contextlib
import fcntl
import io
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cifar_flax.data.records import IMAGE_SHAPE, INFO_FILE
from cifar_flax.errors import UserError


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
    with _locked(data_dir / f".{name}.lock"):
      if (folder / INFO_FILE).is_file():
        return
      builder = make_builder()
      print(f"Preparing {name} in {folder} (once).", file=sys.stderr)
      with _quiet():
        builder.download_and_prepare(file_format="array_record")
  except OSError as error:
    raise UserError(
      f"data.data_dir={data_dir}: cannot prepare {name} there ({error}). Make the"
      " folder writable and free twice the size of the dataset's files, or set another"
      " folder."
    ) from error


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
  """Holds an exclusive file lock, which the system releases if the process dies."""
  with path.open("a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences TFDS, because our builders show their own progress bar for each split."""
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.enable_progress_bar()
