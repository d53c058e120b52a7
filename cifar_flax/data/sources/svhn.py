"""Prepares TFDS's svhn_cropped from its official files, without TensorFlow.

The dataset holds digits of house numbers: 73,257 images to train on, 26,032 to test on
and 531,131 extra ones. It is by Netzer et al. 2011, "Reading digits in natural images
with unsupervised feature learning".
"""

import hashlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.io
import tensorflow_datasets as tfds
from tqdm import tqdm

from cifar_flax import places
from cifar_flax.data.sources import download, preparing
from cifar_flax.errors import UserError

URL = "http://ufldl.stanford.edu/housenumbers/"
# Size in bytes and sha256 of each file, as TFDS registers them.
PUBLISHED = {
  "train_32x32.mat": (
    182_040_794,
    "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
  ),
  "test_32x32.mat": (
    64_275_384,
    "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
  ),
  "extra_32x32.mat": (
    1_329_278_602,
    "a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3",
  ),
}
_SPLITS = ("train", "test", "extra")
_Official: Any = tfds.builder_cls("svhn_cropped")


class SvhnCropped(_Official, skip_registration=True):  # type: ignore[call-arg, misc]
  """TFDS's svhn_cropped builder, with its reader replaced by one without TensorFlow."""

  name = "svhn_cropped"
  VERSION = _Official.VERSION
  pkg_dir_path = _Official.pkg_dir_path

  def __init__(self, files: Mapping[str, pathlib.Path], **kwargs: Any):
    """Takes the official file of each split, and TFDS's arguments as `kwargs`."""
    self._files = files
    super().__init__(**kwargs)

  @property
  def downloaded_size(self) -> int:
    """The total size of the files in bytes."""
    return sum(path.stat().st_size for path in self._files.values())

  def _make_download_manager(self, *args: Any, **kwargs: Any) -> Any:
    del args, kwargs
    return self  # TFDS reads only the manager's `downloaded_size`

  def _split_generators(self, dl_manager: Any) -> Any:
    del dl_manager
    return {split: self._examples(split) for split in self._files}

  def _examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    content = scipy.io.loadmat(self._files[split])
    images = np.moveaxis(content["X"], -1, 0)
    labels = content["y"].reshape(-1) % 10  # the files label the digit 0 as 10
    for index in tqdm(range(len(images)), f"encoding {split}", disable=None):
      image = preparing.png(np.ascontiguousarray(images[index]))
      example = {"image": image, "label": int(labels[index])}
      yield index, example | {"id": f"{split}_{index:06d}"}


def prepare(folder: pathlib.Path, archive: str) -> None:
  """Prepares svhn_cropped in a form that any TFDS installation reads.

  Args:
    folder: The folder to write, `<data_dir>/svhn_cropped/<version>`.
    archive: The path of a folder with the official files; "" downloads them.

  Raises:
    UserError: a file cannot be downloaded or read, or is not the official one, or the
      folder cannot be written.
  """
  data_dir = folder.parents[1]
  given = places.expanded(archive, "data.archive")
  place = pathlib.Path(given) if archive else None

  def make_builder() -> SvhnCropped:
    files = {}
    for split in _SPLITS:
      name = f"{split}_32x32.mat"
      files[split] = (place or data_dir / "downloads" / "manual") / name
      if place is None and not files[split].is_file():
        _download(files[split])
      _check(files[split])
    return SvhnCropped(files, data_dir=data_dir)

  preparing.prepare(folder, make_builder)


def _download(path: pathlib.Path) -> None:
  try:
    download.fetch(URL + path.name, path, *PUBLISHED[path.name])
  except download.DownloadError as error:
    raise download.explain(
      error,
      f"svhn_cropped is not prepared in {path.parents[2]}",
      URL + path.name,
      f"a folder with {', '.join(PUBLISHED)}",
    ) from error


def _check(path: pathlib.Path) -> None:
  """Raises a UserError if a file is not the official one."""
  size, checksum = PUBLISHED[path.name]
  try:
    found = path.stat().st_size
    with path.open("rb") as file:
      official = found == size and (
        hashlib.file_digest(file, "sha256").hexdigest() == checksum
      )
  except OSError as error:
    raise UserError(f"data.archive: {path}: {error.strerror or error}.") from error
  if not official:
    raise UserError(
      f"{path} ({found} bytes) is not the official file ({size} bytes, sha256"
      f" {checksum}). Download it again."
    )
