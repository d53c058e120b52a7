"""Prepares a folder of pictures as a TFDS dataset, for `data.dataset=folder:PATH`.

The pictures are in PATH/CLASS/, or in PATH/train/CLASS/ and PATH/test/CLASS/, or in
folders below these. They have any size and any format of `pictures.FORMATS`;
`pictures.read` crops them to a square and resizes them.
"""

import collections
import dataclasses
import functools
import hashlib
import os
import pathlib
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from cifar_flax.data import pictures, records
from cifar_flax.data.pictures import counted
from cifar_flax.data.sources import preparing
from cifar_flax.errors import UserError
from cifar_flax.text import shown

_VERSION = "1.0.0"
_Classes = dict[str, dict[str, pathlib.Path]]  # class, id of the picture, its file
# Names of folders that are splits, in any case.
_SPLITS = {
  "train": ("train", "training"),
  "test": ("test", "testing"),
  "validation": ("val", "valid", "validation"),
}
LISTED = 20  # damaged pictures, classes and notes that are named


class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Pictures of a folder, with a class for each of its subfolders."""

  VERSION = tfds.core.Version(_VERSION)

  def __init__(self, root: pathlib.Path, splits: dict[str, _Classes], **kwargs: Any):
    """Takes the folder, its splits, and the arguments of TFDS's builder as `kwargs`."""
    self._root, self._splits = root, splits
    self._unread = list(splits)
    self._refused: list[str] = []
    self._notes: collections.Counter[str] = collections.Counter()
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return preparing.describe(self, list(self._splits["train"]))

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager  # nothing to download
    return {split: self._generate_examples(split) for split in self._splits}

  def _generate_examples(self, split: str) -> Iterator:
    labels = {name: label for label, name in enumerate(self._splits["train"])}
    for name, key, pixels in self._read(split):
      image = preparing.png(pixels)
      yield key, {"id": key, "image": image, "label": labels[name]}
    if self._refused:
      for other in list(self._unread):  # so that every damaged picture is named at once
        collections.deque(self._read(other), maxlen=0)
      raise UserError(self._refusal())
    if not self._unread:
      for note, number in self._notes.items():
        print(f"note: {counted(number)}: {note}", file=sys.stderr)

  def _read(self, split: str) -> Iterator[tuple[str, str, Any]]:
    """Yields class, id and pixels of each picture, and collects those it refuses."""
    self._unread.remove(split)
    every = [
      (name, key, path)
      for name, files in self._splits[split].items()
      for key, path in files.items()
    ]
    for name, key, path in tqdm(every, f"reading {split}", disable=None):
      try:
        picture = pictures.load(path)
      except UserError as error:
        self._refused.append(str(error))
        continue
      if picture.note:
        self._notes[picture.note] += 1
      yield name, key, picture.pixels

  def _refusal(self) -> str:
    total = sum(_count(classes) for classes in self._splits.values())
    return (
      f"data.dataset=folder:{shown(self._root)}: {len(self._refused):,} of {total:,}"
      f" pictures cannot be read. Replace or remove: {_some(self._refused, '; ')}"
    )


def locate(
  path: str,
  data_dir: pathlib.Path,
  check: Callable[[dict[str, int]], None],
) -> pathlib.Path:
  """Returns the prepared copy of a folder's current content, preparing it if necessary.

  Prints what was passed over, and what was found if it is prepared.

  Args:
    path: The folder with the pictures.
    data_dir: TFDS's data folder, in which the copy is prepared.
    check: Called with the number of pictures of each split before a copy is prepared;
      may raise.

  Raises:
    UserError: the folder does not have the required structure, pictures cannot be
      read, or the copy cannot be written.
  """
  root = pathlib.Path(path)
  content = find(root)
  name = f"folder_{_state(content.splits)[:16]}"
  folder = data_dir / name / _VERSION
  is_new = not (folder / records.INFO_FILE).is_file()
  lines = list(_summary(content.splits)) if is_new else []
  left = content.notes[LISTED:]
  more = [f"and {len(left):,} more notes"] if left else []
  for line in [*lines, *content.notes[:LISTED], *more]:
    print(f"note: {shown(root)}: {line}", file=sys.stderr)
  if is_new:
    check({split: _count(classes) for split, classes in content.splits.items()})
    builder = type("Named", (Pictures,), {"name": name}, skip_registration=True)
    make = functools.partial(builder, root, content.splits, data_dir=data_dir)
    preparing.prepare(folder, make)
  return folder


@dataclasses.dataclass
class Content:
  """What a folder of pictures holds.

  Attributes:
    splits: its splits; `train` has every class.
    notes: what was passed over or taken for something else, a line each.
  """

  splits: dict[str, _Classes]
  notes: list[str]


def find(root: pathlib.Path) -> Content:
  """Returns the pictures of a folder by split and class, sorted by name.

  PATH/train is a split if it holds folders with pictures, and is otherwise a class.
  PATH/val is the split `validation`, or `test` if there is no PATH/test. The case of
  these names does not matter, and class names are compared in Unicode's form NFC.

  Raises:
    UserError: there are fewer than two classes, a class is not in `train`, TFDS cannot
      store a name, or a folder cannot be read.
  """
  try:
    scans = _find_splits(root)
    content = _of_splits(root, scans) if scans else _of_classes(root)
    _check(content)
  except OSError as error:
    place = "" if error.filename in (None, os.fspath(root)) else f"{error.filename}: "
    raise UserError(
      f"data.dataset=folder:{shown(root)}: {shown(place)}{error.strerror}; it must be a"
      " folder with a subfolder of pictures for each class"
    ) from None
  except UserError as error:
    raise UserError(f"data.dataset=folder:{shown(root)}: {error}") from None
  return content


def _find_splits(root: pathlib.Path) -> dict[str, "_Scan"]:
  """Returns what is in the folder of each split, or {} if each folder is a class."""
  found: dict[str, _Scan] = {}
  for path in _folders(root):
    if split := _split_of(path.name):
      if split in found:
        raise UserError(
          f"it has both {found[split].folder.name}/ and {path.name}/; keep one of them"
        )
      found[split] = _scan(path)
  if "train" not in found:
    return {}
  train = found["train"]
  is_paired = any(found[split].classes for split in found if split != "train")
  if train.classes and (is_paired or (len(train.classes) > 1 and not train.strays)):
    return {split: found[split] for split in _SPLITS if split in found}
  return {}


def _split_of(name: str) -> str | None:
  matches = (split for split, names in _SPLITS.items() if name.casefold() in names)
  return next(matches, None)


def _of_classes(root: pathlib.Path) -> Content:
  """Returns the content of a folder that holds the classes themselves."""
  scan = _scan(root)
  if scan.classes and all(_split_of(name) for name in scan.classes):
    names = " and ".join(f"{name}/" for name in scan.classes)
    raise UserError(f"it has {names}, but no train/ with the same classes")
  return Content({"train": scan.classes}, scan.notes)


def _of_splits(root: pathlib.Path, scans: dict[str, "_Scan"]) -> Content:
  """Returns the content of a folder that holds a folder for each split."""
  notes = [f"{s.folder.name}/{note}" for s in scans.values() for note in s.notes]
  beside = _scan(root, skip=[scan.folder for scan in scans.values()])
  for name, files in beside.classes.items():
    notes.append(f"{name}/ is no split and is not used: {counted(len(files))}")
  if beside.strays:
    notes.append(f"beside the splits and not used: {counted(beside.strays)}")
  splits = {split: scan.classes for split, scan in scans.items() if scan.classes}
  train = splits["train"]
  for split, classes in splits.items():
    name = scans[split].folder.name
    for unknown in (each for each in classes if each not in train):
      alike = [each for each in train if each.casefold() == unknown.casefold()]
      hint = f"; train has {shown(alike[0])!r}, so rename one" if alike else ""
      raise UserError(f"{name} has the class {unknown!r}, but train does not{hint}")
    if missing := [shown(each) for each in train if each not in classes]:
      notes.append(f"{name}/ has no picture of {_some(missing)}")
  if "validation" in splits:
    name = scans["validation"].folder.name
    if "test" in splits:
      notes.append(
        f"{name}/ is the split 'validation', which data.eval_split=validation evaluates"
      )
    else:
      splits["test"] = splits.pop("validation")
      notes.append(f"there is no test/, so {name}/ is the split 'test'")
  return Content(splits, notes)


def _check(content: Content) -> None:
  train = content.splits["train"]
  if len(train) < 2:
    found = "".join(f"; {note}" for note in content.notes[:LISTED])
    raise UserError(
      f"it has {len(train)} classes with pictures, but needs at least 2; it must have a"
      f" subfolder of PNGs, JPEGs or other pictures for each class{found}"
    )
  for name in train:
    is_text = not any(c in "\n\r" or unicodedata.category(c) == "Cs" for c in name)
    if name != name.strip() or not is_text:
      raise UserError(f"TFDS cannot store the name '{shown(name)}'; rename the class")


@dataclasses.dataclass
class _Scan:
  """The classes in a folder.

  Attributes:
    folder: the folder.
    classes: its classes with pictures, sorted by name.
    strays: number of pictures that lie beside the classes.
    notes: what was passed over, a line each.
  """

  folder: pathlib.Path
  classes: _Classes
  strays: int
  notes: list[str]


def _scan(folder: pathlib.Path, skip: Sequence[pathlib.Path] = ()) -> _Scan:
  """Finds the classes in a folder.

  Raises:
    OSError: a folder cannot be read.
  """
  classes: _Classes = {}
  notes = []
  for inner in _folders(folder):
    if inner in skip:
      continue
    found = pictures.walk(inner)
    if found.unreadable:
      raise UserError(_some(found.unreadable, "; "))
    passed_over = found.passed_over()
    if not found.files:
      notes.append(
        f"{shown(inner.name)}: no picture, so no class; {passed_over or 'empty'}"
      )
      continue
    if passed_over:
      notes.append(f"{shown(inner.name)}: {counted(len(found.files))}; {passed_over}")
    files = classes.setdefault(_normal(inner.name), {})
    for path in found.files:
      name = path.relative_to(folder).as_posix().replace("\\", "\\\\")
      key = _normal(shown(name))
      while key in files:  # names that differ in their form only
        key += "+"
      files[key] = path
  strays = sum(pictures.is_picture(path) for path in folder.iterdir())
  if strays:
    notes.append(f"beside the folders and in no class: {counted(strays)}")
  return _Scan(folder, dict(sorted(classes.items())), strays, notes)


def _folders(root: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders in a folder, sorted, without hidden ones."""
  visible = (path for path in root.iterdir() if not pictures.is_hidden(path.name))
  return sorted(path for path in visible if path.is_dir())


def _normal(name: str) -> str:
  """Returns a name in Unicode's form NFC: macOS and Linux write é differently."""
  return unicodedata.normalize("NFC", name)


def _some(items: Sequence[str], separator: str = ", ") -> str:
  """Returns the first items, and how many more there are."""
  more = [f"and {len(items) - LISTED:,} more"] if len(items) > LISTED else []
  return separator.join([*items[:LISTED], *more])


def _count(classes: _Classes) -> int:
  return sum(map(len, classes.values()))


def _summary(splits: dict[str, _Classes]) -> Iterator[str]:
  """Yields a line per split: how many pictures each class has."""
  for split, classes in splits.items():
    numbers = [f"{shown(name)} {len(files):,}" for name, files in classes.items()]
    yield (
      f"{split}: {counted(_count(classes))} in"
      f" {counted(len(classes), 'class', 'classes')}: {_some(numbers)}"
    )


def _state(splits: dict[str, _Classes]) -> str:
  """Returns a hash of the pictures' names, sizes and modification times."""
  digest = hashlib.sha256()
  for split, classes in splits.items():
    for files in classes.values():
      for key, path in files.items():
        facts = path.stat()
        line = f"{split}/{key}\0{facts.st_size}\0{facts.st_mtime_ns}\n"
        digest.update(line.encode())
  return digest.hexdigest()
