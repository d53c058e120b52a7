"""Finds picture files and converts them to the 32x32 RGB arrays that networks take."""

import collections
import dataclasses
import io
import os
import pathlib
import stat
import warnings
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cifar_flax.errors import UserError
from cifar_flax.text import shown as shown  # for those who import it from here

SIDE = 32
# Every format that Pillow decodes by itself. EPS is left out because Pillow starts
# Ghostscript for it; PDF, WMF, MPEG, GRIB and HDF5 because it cannot decode them. TGA
# comes last because it has no signature.
_FORMATS = (
  "PNG JPEG WEBP GIF BMP TIFF AVIF JPEG2000 PPM ICO CUR ICNS DIB DDS QOI PSD PCX DCX"
  " SGI SUN IM MSP XBM XPM BLP FTEX FLI FITS PCD PIXAR GBR TGA"
)
Image.init()
FORMATS = tuple(name for name in _FORMATS.split() if name in Image.OPEN)
SUFFIXES = frozenset(
  suffix for suffix, name in Image.EXTENSION.items() if name in (*FORMATS, "MPO")
)
# Pillow warns above this number of pixels and refuses twice as many. Its own limit,
# 89 million, would refuse the pictures of 200-megapixel telephones (16384x12288).
Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, 16384 * 12288 // 2)
# Their other frames are an animation or pages. Those of other formats are previews,
# layers or the same picture in another size.
_WITH_FRAMES = ("GIF", "PNG", "WEBP", "AVIF", "TIFF", "FLI", "DCX")
# What systems leave in folders, beside everything whose name starts with a dot.
_OF_THE_SYSTEM = frozenset(
  ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found")
  + ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
)
_TRANSPOSITIONS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112  # EXIF


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture that was read.

  Attributes:
    pixels: uint8 `[32, 32, 3]`.
    note: what of the file was not used, such as further frames; "" if nothing.
  """

  pixels: np.ndarray
  note: str = ""


def read(path: pathlib.Path) -> np.ndarray:
  """Reads a picture file and returns it as uint8 `[32, 32, 3]`; see `load`."""
  return load(path).pixels


def load(path: pathlib.Path) -> Picture:
  """Reads a picture file of any format in `FORMATS`, whatever its suffix.

  A picture of 32x32 pixels keeps its pixels. Any other picture is cropped to a centred
  square and resized with a Lanczos filter. Transparent parts become white, the first
  frame stands for an animation, and the EXIF orientation is applied. 16-bit grey is
  converted to 8 bits. Grey of 32 bits or floating point has no fixed white, so white is
  the smallest of 1 (floating point only), 255 and 65535 that no pixel exceeds, or else
  the largest value.

  Metadata that cannot be read, such as a corrupt EXIF block, are ignored.

  Raises:
    UserError: the file is no such picture, its pixels are damaged, or it has so many
      that it is taken for a decompression bomb.
  """
  name = shown(path)
  try:
    facts = path.stat()
    if stat.S_ISDIR(facts.st_mode):
      raise UserError(f"{name}: is a folder")
    if not stat.S_ISREG(facts.st_mode):
      raise UserError(f"{name}: is a pipe, a socket or a device, not a file")
    if not facts.st_size:
      raise UserError(f"{name}: is empty (0 bytes)")
    with path.open("rb") as file, warnings.catch_warnings():
      warnings.simplefilter("ignore")  # about metadata; damaged pixels are errors
      image, note = _decode(file)
      rgb = _to_rgb(image)
      square = ImageOps.fit(rgb, (SIDE, SIDE), Image.Resampling.LANCZOS)
    return Picture(np.asarray(square), note)
  except UserError:  # it is a ValueError, which the last handler would wrap
    raise
  except UnidentifiedImageError:
    raise UserError(
      f"{name}: not a picture in a format that is read (PNG, JPEG, WebP, GIF, TIFF, BMP"
      " and most others of pixels)"
    ) from None
  except Image.DecompressionBombError as error:
    raise UserError(f"{name}: {error}") from None
  except OSError as error:
    raise UserError(f"{name}: {error.strerror or f'damaged ({error})'}") from None
  except MemoryError:
    raise UserError(f"{name}: needs more memory than there is") from None
  except Exception as error:  # a damaged file makes Pillow fail in many ways
    reason = " ".join(str(error).split()) or type(error).__name__
    raise UserError(f"{name}: damaged ({reason})") from None


def _decode(file: IO[bytes]) -> tuple[Image.Image, str]:
  """Returns the decoded, upright picture and a note about unused frames.

  If Pillow fails, it is tried again without the metadata, which may be why.
  """
  try:
    return _decode_once(file)
  except Image.DecompressionBombError:
    raise
  except Exception as error:
    file.seek(0)
    for stripped in _without_metadata(file):
      try:
        return _decode_once(stripped)
      except Image.DecompressionBombError:
        raise
      except Exception:  # then the first error is the one to report
        continue
    raise error


def _decode_once(file: IO[bytes]) -> tuple[Image.Image, str]:
  image = Image.open(file, formats=FORMATS)
  note = ""
  if image.format in _WITH_FRAMES and _has_frames(image):
    image.seek(0)
    note = "has several frames or pages; the first one is used"
  if image.format == "PNG":
    _check_png(file)
  image.load()
  try:
    turn = _TRANSPOSITIONS.get(image.getexif().get(_ORIENTATION, 1))
  except Exception:  # corrupt metadata make Pillow fail in many ways
    turn = None
  if turn is None:
    return image, note
  turned = image.transpose(turn)
  turned.format = image.format  # which `transpose` drops
  return turned, note


def _has_frames(image: Any) -> bool:
  try:
    return bool(getattr(image, "is_animated", False))
  except Exception:  # the second frame is damaged, and is not needed
    return True


def _without_metadata(file: IO[bytes]) -> Iterator[IO[bytes]]:
  """Yields copies of a JPEG or PNG with less metadata; nothing for other formats."""
  start = file.read(8)
  data = start + file.read() if start[:2] == b"\xff\xd8" or start == _PNG else b""
  if start == _PNG:
    for more in ((b"tRNS", b"eXIf"), (b"tRNS",)):
      kept = [
        data[first:last]
        for name, first, last in _png_chunks(data)
        if name in more or not name[0] & 32  # a capital: needed to decode
      ]
      yield io.BytesIO(_PNG + b"".join(kept))
  elif data:
    # Adobe's segment (EE) says which colours the pixels are; EXIF is in E1.
    for segments in ((0xE1, 0xEE), (0xEE,)):
      yield io.BytesIO(_bare_jpeg(data, segments))


_PNG = b"\x89PNG\r\n\x1a\n"


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
  """Yields the name, the start and the end of each chunk of a PNG."""
  first = len(_PNG)
  while first + 12 <= len(data):
    last = first + 12 + int.from_bytes(data[first : first + 4], "big")
    yield data[first + 4 : first + 8], first, last
    first = last


def _check_png(file: IO[bytes]) -> None:
  """Raises ValueError if a PNG's pixels are damaged; Pillow ignores their checksums."""
  position = file.tell()
  file.seek(0)
  data = file.read()
  file.seek(position)
  for name, first, last in _png_chunks(data):
    if name == b"IDAT" and last <= len(data):
      checksum = int.from_bytes(data[last - 4 : last], "big")
      if zlib.crc32(data[first + 4 : last - 4]) != checksum:
        raise ValueError("the checksum of its pixels is wrong")


def _bare_jpeg(data: bytes, kept: tuple[int, ...]) -> bytes:
  """Returns a JPEG without comments and application segments other than `kept`."""
  pieces, first = [data[:2]], 2
  while data[first : first + 1] == b"\xff" and first + 4 <= len(data):
    marker = data[first + 1]
    if marker == 0xDA:  # the pixels
      break
    if marker == 0xFF:  # a fill byte
      first += 1
      continue
    last = first + 2 + int.from_bytes(data[first + 2 : first + 4], "big")
    if marker in kept or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
      pieces.append(data[first:last])
    first = last
  return b"".join([*pieces, data[first:]])


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.mode.startswith(("I", "F")):
    return _from_grey(image)
  palette = image.palette.mode if image.mode == "P" and image.palette else ""
  if (
    "transparency" in image.info
    or palette.endswith("A")
    or image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
  ):
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(
      "RGB"
    )
  return image if image.mode == "RGB" else image.convert("RGB")


def _from_grey(image: Image.Image) -> Image.Image:
  """Converts grey of 16 or 32 bits, or of floating point."""
  values = np.asarray(image)
  transparent = values == image.info.get("transparency", np.nan)
  sixteen = image.mode == "I" and image.format in ("PNG", "PPM")
  if image.mode.startswith("I;16") or sixteen:
    white = 65535.0
  else:
    values = np.nan_to_num(values.astype(np.float64))
    largest = float(values.max())
    steps = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    white = next((step for step in steps if step >= largest), largest)
  grey = np.clip(np.round(values * (255 / white)), 0, 255)
  return Image.fromarray(np.uint8(np.where(transparent, 255, grey))).convert("RGB")


@dataclasses.dataclass
class Found:
  """The pictures in a folder and in all folders below it.

  Attributes:
    files: their paths, sorted by folder and name.
    others: how many entries of each other kind there are, such as {".txt": 2}. Hidden
      files and those of the system are not counted.
    unreadable: folders that cannot be read, with the reason.
  """

  files: list[pathlib.Path] = dataclasses.field(default_factory=list)
  others: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  unreadable: list[str] = dataclasses.field(default_factory=list)

  def passed_over(self) -> str:
    """Returns what was passed over, such as "passed over 2 .txt"; "" for nothing."""
    parts = [
      counted(number, kind, kind if kind[0] == "." else "")
      for kind, number in sorted(
        self.others.items(), key=lambda item: (-item[1], item[0])
      )
    ]
    more = [f"{len(parts) - 8} other kinds"] if len(parts) > 8 else []
    return f"passed over {', '.join([*parts[:8], *more])}" if parts else ""


def is_hidden(name: str) -> bool:
  """Returns whether a file or folder is hidden, or is one that systems make."""
  return name.startswith(".") or name.lower() in _OF_THE_SYSTEM


def is_picture(path: pathlib.Path) -> bool:
  """Returns whether a path is a file with the name of a picture."""
  named_so = path.suffix.lower() in SUFFIXES and not is_hidden(path.name)
  return named_so and path.is_file()


def walk(folder: pathlib.Path) -> Found:
  """Finds the pictures in a folder and in all folders below it, by their suffix.

  Links to folders are followed, but no folder is visited twice. Hidden files and
  folders are skipped.

  Raises:
    OSError: the folder itself cannot be read.
  """
  found = Found()
  seen: set[tuple[int, int]] = set()
  stack = [(os.fspath(folder), True)]
  while stack:
    path, is_folder = stack.pop()
    if not is_folder:
      found.files.append(pathlib.Path(path))
      continue
    try:
      facts = os.stat(path)
      if (identity := (facts.st_dev, facts.st_ino)) in seen:
        found.others["repeated folder"] += 1
        continue
      seen.add(identity)
      with os.scandir(path) as entries:
        visible = [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
      if path == os.fspath(folder):
        raise
      found.unreadable.append(f"{shown(path)}: {error.strerror or error}")
      continue
    for entry in sorted(visible, key=lambda entry: entry.name, reverse=True):
      kind = _kind(entry)
      if kind in ("folder", "picture"):
        stack.append((entry.path, kind == "folder"))
      else:
        found.others[shown(kind)] += 1
  return found


def _kind(entry: os.DirEntry) -> str:
  """Returns "folder", "picture", or what else an entry of a folder is."""
  try:
    if entry.is_dir():
      return "folder"
    if entry.is_file():
      suffix = os.path.splitext(entry.name)[1].lower()
      return "picture" if suffix in SUFFIXES else suffix or "suffixless file"
    return "broken link" if entry.is_symlink() else "special file"
  except OSError:  # a link to itself
    return "broken link"


def find(
  places: Iterable[str], lines: Iterable[str], notes: list[str]
) -> Iterator[pathlib.Path | UserError]:
  r"""Yields the files that command-line arguments name, and what was not found.

  Args:
    places: The arguments. A folder stands for all pictures in it and below it, `-` for
      the places in `lines`, and anything else is the path of a file.
    lines: The lines of standard input, with a file or folder each. They may end in
      `\r\n`, or be separated by NUL.
    notes: Receives lines about what was found in a folder and what was passed over.
  """
  for place in places:
    if place == "-":
      listed = _listed(lines)
      if (first := next(listed, None)) is None:
        yield UserError("-: standard input names no file")
      else:
        yield from _at(first, notes)
      for line in listed:
        yield from _at(line, notes)
    else:
      yield from _at(place, notes)


def _listed(lines: Iterable[str]) -> Iterator[str]:
  lines = iter(lines)
  for line in lines:
    if "\0" in line:  # as `find -print0` writes
      yield from filter(None, f"{line}{''.join(lines)}".split("\0"))
      return
    name = line.removesuffix("\n").removeprefix("\ufeff")
    if name.endswith("\r") and not os.path.lexists(name):
      name = name.removesuffix("\r")
    if name.strip():
      yield name


def _at(place: str, notes: list[str]) -> Iterator[pathlib.Path | UserError]:
  path = pathlib.Path(place)
  if not os.path.isdir(place):
    yield path
    return
  try:
    found = walk(path)
  except OSError as error:
    yield UserError(f"{shown(place)}: {error.strerror or error}")
    return
  yield from map(UserError, found.unreadable)
  passed_over = found.passed_over()
  if not found.files:
    yield UserError(
      f"{shown(place)}: no picture in this folder or below it"
      + (f"; {passed_over}" if passed_over else "; it is empty")
    )
  elif passed_over:
    notes.append(f"{shown(place)}: {counted(len(found.files))}; {passed_over}")
  yield from found.files


def counted(number: int, noun: str = "picture", plural: str = "") -> str:
  """Returns a number and its noun, such as "2 pictures"."""
  return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
