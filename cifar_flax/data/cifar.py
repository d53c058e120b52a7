"""Prepares TFDS's own cifar10 without TensorFlow, from an archive or the network."""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from tensorflow_datasets.image_classification import cifar
from tqdm import tqdm

from cifar_flax.data import archives, download, preparing
from cifar_flax.errors import UserError

# TFDS's own URL; its size and checksum are in `archives.PUBLISHED`.
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE = "cifar-10-binary.tar.gz"


class Cifar10(cifar.Cifar10, skip_registration=True):  # type: ignore[call-arg]
  """TFDS's builder, so its name, version, features, keys and order; our own reader.

  TFDS's reader and its PNG encoder import TensorFlow.
  """

  name = "cifar10"
  VERSION = cifar.Cifar10.VERSION

  def __init__(self, contents: archives.Contents, **kwargs: Any):
    """Takes an official archive's contents, and whatever TFDS's builder takes."""
    self._contents = contents
    super().__init__(**kwargs)

  def _make_download_manager(self, *args: Any, **kwargs: Any) -> Any:
    # The files are here already. All that TFDS asks of what it hands on to
    # `_split_generators` is the `downloaded_size` that it writes down.
    del args, kwargs
    return self._contents

  def _split_generators(self, dl_manager: Any) -> Any:
    features: Any = self.info.features
    features["label"].names = dl_manager.class_names
    return {
      split: self._examples(split, *dl_manager.splits[split])
      for split in ("train", "test")
    }

  def _examples(
    self, split: str, images: np.ndarray, labels: np.ndarray
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for index in tqdm(range(len(images)), f"encoding {split}", disable=None):
      image = preparing.png(images[index])
      label = int(labels[index])
      yield index, {"id": f"{split}_{index:05d}", "image": image, "label": label}


def prepare(folder: pathlib.Path, archive: str) -> None:
  """Prepares `<data_dir>/<name>/<version>` for any user of TFDS.

  Args:
    folder: What to prepare.
    archive: An official archive to build from; "" downloads it.

  Raises:
    UserError: no archive can be had, or it is not official, or the folder cannot be
      written.
  """
  data_dir = folder.parents[1]

  def make_builder() -> Cifar10:
    path = pathlib.Path(archive).expanduser() if archive else _download(data_dir)
    return Cifar10(archives.read(path), data_dir=data_dir)

  preparing.prepare(folder, make_builder)


def _download(data_dir: pathlib.Path) -> pathlib.Path:
  """Returns the downloaded archive, in the place where TFDS looks for given ones."""
  path = data_dir / "downloads" / "manual" / ARCHIVE
  if path.is_file():
    return path
  try:
    published = archives.PUBLISHED[ARCHIVE]
    download.fetch(URL, path, published.size, published.checksum)
  except download.DownloadError as error:
    raise UserError(
      f"cifar10 is not prepared in {data_dir}, and {URL} cannot be downloaded"
      f" ({error}). Try again later (it goes on where it stopped), or take one of three"
      " ways out: set TFDS_DATA_DIR or data.data_dir to a folder where TFDS has it"
      f" prepared; set data.archive to a copy of {' or '.join(archives.PUBLISHED)}; or"
      " set data.dataset=shapes10, which needs no download."
    ) from error
  return path
