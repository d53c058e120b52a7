"""Pictures of any size and colours to what the networks take, and back."""

import pathlib
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cifar_flax.errors import UserError

SIDE = 32
SUFFIXES = (".png", ".jpg", ".jpeg")
# No others: some of Pillow's readers start programs.
_FORMATS = ("PNG", "JPEG")


def read(path: pathlib.Path) -> np.ndarray:
  """A PNG or JPEG as uint8 `[32, 32, 3]`.

  A picture of that size keeps its pixels. Another one is cut to a square around its
  middle and resized (Lanczos). Transparent parts become white, sixteen bits eight, and
  a camera's note on how it was held is followed.

  Raises:
    UserError: it is not such a file, is damaged, or has too many pixels.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("error")  # of bombs and of damage that Pillow puts up with
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
  if image.mode.startswith(("I", "F")):  # sixteen bits of grey
    grey = np.asarray(image, np.float64) / 257
    return Image.fromarray(np.uint8(np.clip(np.round(grey), 0, 255))).convert("RGB")
  if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(
      "RGB"
    )
  return image.convert("RGB")


def find(places: list[str], lines: Iterator[str]) -> Iterator[pathlib.Path]:
  """Files that arguments name: a file, all pictures of a folder, `-` for a list.

  Args:
    places: the arguments.
    lines: of the list.
  """
  for place in places:
    if place == "-":
      yield from (pathlib.Path(line.rstrip("\n")) for line in lines if line.strip())
    elif (folder := pathlib.Path(place)).is_dir():
      files = sorted(folder.iterdir())
      yield from (file for file in files if file.suffix.lower() in SUFFIXES)
    else:
      yield folder
