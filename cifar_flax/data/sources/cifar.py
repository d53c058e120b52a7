"""Prepares TFDS's own cifar10 and cifar100, without TensorFlow.

From an official archive that is given, or downloaded.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from tensorflow_datasets.image_classification import cifar
from tqdm import tqdm

from cifar_flax.data.sources import archives, download, preparing
from cifar_flax.errors import UserError

# TFDS's own URL; sizes and checksums are in `archives.PUBLISHED`.
URL = "https://www.cs.toronto.edu/~kriz/"


class _FromArchive:
  """TFDS's builder, so its name, version, features, keys and order; our own reader.

  TFDS's reader and its PNG encoder import TensorFlow.
  """

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
    features: Any = self.info.features  # type: ignore[attr-defined]
    for feature, names in dl_manager.class_names.items():
      features[feature].names = names
    return {split: self._examples(split) for split in ("train", "test")}

  def _examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    images, labels = self._contents.splits[split]
    for index in tqdm(range(len(images)), f"encoding {split}", disable=None):
      numbers = {feature: int(values[index]) for feature, values in labels.items()}
      image = preparing.png(images[index])
      yield index, numbers | {"id": f"{split}_{index:05d}", "image": image}


class Cifar10(_FromArchive, cifar.Cifar10, skip_registration=True):  # type: ignore[call-arg, misc]
  """Ten classes."""

  name = "cifar10"
  VERSION = cifar.Cifar10.VERSION


class Cifar100(_FromArchive, cifar.Cifar100, skip_registration=True):  # type: ignore[call-arg, misc]
  """A hundred classes, in twenty groups."""

  name = "cifar100"
  VERSION = cifar.Cifar100.VERSION


_BUILDERS = {"cifar10": Cifar10, "cifar100": Cifar100}


def prepare(folder: pathlib.Path, archive: str) -> None:
  """Prepares `<data_dir>/<name>/<version>` for any user of TFDS.

  Args:
    folder: What to prepare.
    archive: An official archive to build from; "" downloads it.

  Raises:
    UserError: no archive can be had, or it is not official, or the folder cannot be
      written.
  """
  data_dir, name = folder.parents[1], folder.parent.name

  def make_builder() -> Any:
    path = pathlib.Path(archive).expanduser() if archive else _download(data_dir, name)
    return _BUILDERS[name](archives.read(path, name), data_dir=data_dir)

  preparing.prepare(folder, make_builder)


def _download(data_dir: pathlib.Path, name: str) -> pathlib.Path:
  """Returns the downloaded archive, in the place where TFDS looks for given ones."""
  published = archives.of(name)
  file, wanted = next(iter(published.items()))  # the binary one
  path = data_dir / "downloads" / "manual" / file
  if path.is_file():
    return path
  try:
    download.fetch(URL + file, path, wanted.size, wanted.checksum)
  except download.DownloadError as error:
    raise UserError(
      f"{name} is not prepared in {data_dir}, and {URL}{file} cannot be downloaded"
      f" ({error}). Try again later (it goes on where it stopped), or take one of three"
      " ways out: set TFDS_DATA_DIR or data.data_dir to a folder where TFDS has it"
      f" prepared; set data.archive to a copy of {' or '.join(published)}; or set"
      " data.dataset=shapes10, which needs no download."
    ) from error
  return path
