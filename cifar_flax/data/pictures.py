"""Finds picture files and converts them to the 32x32 RGB arrays that networks take."""

import pathlib
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cifar_flax.errors import UserError

SIDE = 32
SUFFIXES = (".png", ".jpg", ".jpeg")
# Other formats are excluded because some of Pillow's readers start programs.
_FORMATS = ("PNG", "JPEG")


def read(path: pathlib.Path) -> np.ndarray:
  """Reads a PNG or JPEG and returns it as uint8 `[32, 32, 3]`.

  A picture of 32x32 pixels keeps its pixels. Any other picture is cropped to a centred
  square and resized with a Lanczos filter. Transparent parts become white, 16-bit grey
  is converted to 8 bits, and the EXIF orientation is applied.

  Raises:
    UserError: the file is not a PNG or JPEG, is damaged, or has too many pixels.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("error")  # e.g. for huge images and tolerated damage
      with Image.open(path, formats=_FORMATS) as image:
        upright = ImageOps.exif_transpose(image)
        square = ImageOps.fit(_to_rgb(upright), (SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(square)
  except UnidentifiedImageError:
    raise UserError(f"{path}: neither a PNG nor a JPEG") from None
  except OSError as error:
    raise UserError(f"{path}: {error.strerror or error}") from None
  except Exception as error:  # a damaged file makes Pillow fail in many ways
    raise UserError(f"{path}: {' '.join(str(error).split())}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.mode.startswith(("I", "F")):  # 16-bit grey
    grey = np.asarray(image, np.float64) / 257
    return Image.fromarray(np.uint8(np.clip(np.round(grey), 0, 255))).convert("RGB")
  if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(
      "RGB"
    )
  return image.convert("RGB")


def find(places: list[str], lines: Iterator[str]) -> Iterator[pathlib.Path]:
  """Yields the files that command-line arguments name.

  Args:
    places: The arguments. A folder stands for all pictures in it, `-` for the paths in
      `lines`, and anything else is the path of a file.
    lines: The lines of standard input, with a path each.
  """
  for place in places:
    if place == "-":
      yield from (pathlib.Path(line.rstrip("\n")) for line in lines if line.strip())
    elif (folder := pathlib.Path(place)).is_dir():
      files = sorted(folder.iterdir())
      yield from (file for file in files if file.suffix.lower() in SUFFIXES)
    else:
      yield folder
