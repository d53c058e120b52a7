"""What our TFDS builders share: preparing quietly, alone, and without TensorFlow."""

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
  """Returns an image as a PNG file; given an array, TFDS would import TensorFlow."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, "png")
  file.seek(0)
  return file


def describe(
  builder: tfds.core.DatasetBuilder, class_names: Sequence[str]
) -> tfds.core.DatasetInfo:
  """TFDS's description of a dataset of ours: CIFAR-10's features, its own classes."""
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
  """Has TFDS write a dataset as array_record, unless another process just did.

  Args:
    folder: `<data_dir>/<name>/<version>`. The data folder is made where only its last
      part is missing.
    make_builder: Called once it is this process's turn; it may download.

  Raises:
    UserError: the folder cannot be written.
  """
  data_dir, name = folder.parents[1], folder.parent.name
  if not data_dir.parent.is_dir():
    raise UserError(
      f"data.data_dir={data_dir}: its parent folder does not exist. Correct the path,"
      " or make that folder first."
    )
  try:
    data_dir.mkdir(exist_ok=True)
    with _turn(data_dir / f".{name}.lock"):
      if (folder / INFO_FILE).is_file():
        return
      builder = make_builder()
      print(f"Preparing {name} in {folder} (once).", file=sys.stderr)
      with _quiet():
        builder.download_and_prepare(file_format="array_record")
  except OSError as error:
    raise UserError(
      f"data.data_dir={data_dir}: cannot prepare {name} there ({error}). Make it"
      " writable, with twice the size of its files to spare, or set another folder."
    ) from error


@contextlib.contextmanager
def _turn(path: pathlib.Path) -> Iterator[None]:
  """Lets one process at a time through; the lock goes with the process."""
  with path.open("a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Leaves the talking to our builders, who show one bar a split."""
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.enable_progress_bar()
