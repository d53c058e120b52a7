"""Prepares TFDS's cifar10 and cifar100 from an official archive, without TensorFlow.

The archive is the one that `data.archive` names, or is downloaded.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from tensorflow_datasets.image_classification import cifar
from tqdm import tqdm

from cifar_flax import places
from cifar_flax.data.sources import archives, download, preparing

# TFDS's own URL; sizes and checksums are in `archives.PUBLISHED`.
URL = "https://www.cs.toronto.edu/~kriz/"


class _FromArchive:
  """Makes TFDS's builders read an archive's contents without TensorFlow.

  Name, version, features, keys and order are those of TFDS's builder. Only reading and
  PNG encoding are replaced, because TFDS's own import TensorFlow.
  """

  def __init__(self, contents: archives.Contents, **kwargs: Any):
    """Takes an archive's contents, and the arguments of TFDS's builder as `kwargs`."""
    self._contents = contents
    super().__init__(**kwargs)

  def _make_download_manager(self, *args: Any, **kwargs: Any) -> Any:
    # Nothing is left to download. TFDS passes the download manager to
    # `_split_generators` and otherwise reads only its `downloaded_size`, which the
    # contents have as well.
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
  """TFDS's cifar10: ten classes."""

  name = "cifar10"
  VERSION = cifar.Cifar10.VERSION


class Cifar100(_FromArchive, cifar.Cifar100, skip_registration=True):  # type: ignore[call-arg, misc]
  """TFDS's cifar100: a hundred classes in twenty groups."""

  name = "cifar100"
  VERSION = cifar.Cifar100.VERSION


_BUILDERS = {"cifar10": Cifar10, "cifar100": Cifar100}


def prepare(folder: pathlib.Path, archive: str) -> None:
  """Prepares cifar10 or cifar100 in a form that any TFDS installation reads.

  Args:
    folder: The folder to write, `<data_dir>/<name>/<version>`.
    archive: The path of an official archive; "" downloads it.

  Raises:
    UserError: the archive cannot be downloaded or read, or is not an official one, or
      the folder cannot be written.
  """
  data_dir, name = folder.parents[1], folder.parent.name

  def make_builder() -> Any:
    given = places.expanded(archive, "data.archive")
    path = pathlib.Path(given) if archive else _download(data_dir, name)
    return _BUILDERS[name](archives.read(path, name), data_dir=data_dir)

  preparing.prepare(folder, make_builder)


def _download(data_dir: pathlib.Path, name: str) -> pathlib.Path:
  """Returns the path of TFDS's archive of a dataset, downloading it if necessary.

  It is kept in the folder where TFDS looks for manual downloads.
  """
  published = archives.of(name)
  file, wanted = next(iter(published.items()))  # the binary archive
  path = data_dir / "downloads" / "manual" / file
  if path.is_file():
    return path
  try:
    download.fetch(URL + file, path, wanted.size, wanted.checksum)
  except download.DownloadError as error:
    raise download.explain(
      error,
      f"{name} is not prepared in {data_dir}",
      URL + file,
      f"a copy of {' or '.join(published)}",
    ) from error
  return path
