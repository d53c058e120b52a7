"""The convention for images in arrays: uint8, or floats in [0, 1]; nothing else."""

from typing import Any

import numpy as np
from PIL import Image, ImageOps

from cifar_flax.data.records import IMAGE_SHAPE
from cifar_flax.errors import UserError

SIDE, _, CHANNELS = IMAGE_SHAPE


def to_batch(images: Any) -> tuple[np.ndarray, bool]:
  """Checks images and brings them to the size that the networks take.

  Images of 32x32 pixels are kept. Others are cropped to a centred square and resized
  with a Lanczos filter, as picture files are.

  Args:
    images: one image `[height, width, 3]` or several `[number, height, width, 3]`,
      uint8, or floats in [0, 1].

  Returns:
    uint8 or float32 `[number, 32, 32, 3]`, and whether it was one image.

  Raises:
    UserError: type, shape or values are others.
  """
  array = np.asarray(images)
  is_one = array.ndim == 3
  batch = array[None] if is_one else array
  if batch.ndim != 4 or batch.shape[-1] != CHANNELS or 0 in batch.shape[1:]:
    raise UserError(
      f"images of shape {list(array.shape)}: must be [height, width, 3], or [number, "
      "height, width, 3]"
    )
  _check_values(batch)
  if batch.dtype != np.uint8:
    batch = batch.astype(np.float32)
  if batch.shape[1:] != IMAGE_SHAPE:
    resized = [_resized(image) for image in batch]
    batch = np.stack(resized) if resized else np.zeros((0, *IMAGE_SHAPE), batch.dtype)
  return batch, is_one


def _check_values(images: np.ndarray) -> None:
  """Raises UserError unless the values are uint8, or floats in [0, 1]."""
  if images.dtype == np.uint8:
    return
  allowed = "must be uint8, or floats in [0, 1]"
  if not np.issubdtype(images.dtype, np.floating):
    raise UserError(f"images of type {images.dtype}: {allowed}; use .astype('uint8')")
  if not images.size:
    return
  low, high = images.min(), images.max()
  if not (low >= 0 and high <= 1):  # refuses NaN too
    hint = "; divide them by 255" if low >= 0 and 1 < high <= 255 else ""
    raise UserError(
      f"images of type {images.dtype} with values from {low:g} to {high:g}: "
      f"{allowed}{hint}"
    )


def _resized(image: np.ndarray) -> np.ndarray:
  """Returns an image with 32x32 pixels; floats are filtered without rounding."""
  size, filtering = (SIDE, SIDE), Image.Resampling.LANCZOS
  if image.dtype == np.uint8:
    return np.asarray(ImageOps.fit(Image.fromarray(image), size, filtering))
  channels = [Image.fromarray(np.ascontiguousarray(image[..., i])) for i in range(3)]
  fitted = [np.asarray(ImageOps.fit(each, size, filtering)) for each in channels]
  return np.clip(np.stack(fitted, axis=-1), 0, 1)  # the filter overshoots at edges
