"""Augmentation on the device: every draw is a hash of the example's random key."""

import jax
import jax.numpy as jnp

from cifar_flax import ops
from cifar_flax.config import Augmentation
from cifar_flax.ops import Purpose

# The pixel that zooming leaves in place. Keras up to 2.8 took size / 2 + 0.5 for it, as
# the published runs did; the middle of a 32x32 image is 15.5.
ZOOM_CENTER = 16.5


def pixels(images: jax.Array, dtype: jnp.dtype | type = jnp.float32) -> jax.Array:
  """Converts bytes to numbers in [0, 1], the only convention of the networks' inputs.

  Args:
    images: uint8, of any shape.
    dtype: of the result.

  Returns:
    images / 255 in that type.
  """
  return images.astype(dtype) / 255


def training_view(
  images: jax.Array, example_keys: jax.Array, config: Augmentation, dtype=jnp.float32
) -> jax.Array:
  """Returns what a training step makes of images before the network sees them.

  Args:
    images: uint8 [batch, size, size, channels].
    example_keys: uint32 [batch], from `ops.example_keys` for the step.
    config: which augmentation, and how much.
    dtype: of the result.

  Returns:
    The augmented images in [0, 1] (to within rounding), of the same shape.
  """
  return augment(pixels(images, dtype), example_keys, config)


def augment(
  images: jax.Array, example_keys: jax.Array, config: Augmentation
) -> jax.Array:
  """Applies the zoom, flip, crop and cutout that the config enables, in this order.

  Args:
    images: float [batch, height, width, channels], height = width.
    example_keys: uint32 [batch], a random key per example and step.
    config: which of them, and how much.

  Returns:
    Images of the same shape and type.
  """
  if config.zoom:
    low, high = 1 - config.zoom, 1 + config.zoom
    images = zoom(
      images,
      _uniform(example_keys, Purpose.ZOOM_ROWS, low, high),
      _uniform(example_keys, Purpose.ZOOM_COLUMNS, low, high),
      ZOOM_CENTER,
    )
  if config.flip:
    flipped = _integer(example_keys, Purpose.FLIP, 2) == 1
    images = jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)
  size = images.shape[1]
  if config.crop_padding:
    shifts = 2 * config.crop_padding + 1
    images = shift(
      images,
      _integer(example_keys, Purpose.CROP_ROW, shifts) - config.crop_padding,
      _integer(example_keys, Purpose.CROP_COLUMN, shifts) - config.crop_padding,
    )
  if config.cutout:
    images = cut_out(
      images,
      _integer(example_keys, Purpose.CUTOUT_ROW, size),
      _integer(example_keys, Purpose.CUTOUT_COLUMN, size),
      config.cutout,
    )
  return images


def zoom(
  images: jax.Array, rows: jax.Array, columns: jax.Array, center: float
) -> jax.Array:
  """Scales each image by its own factors about `center`, bilinearly.

  Output row r shows input row rows * (r - center) + center, clamped to the image,
  and columns alike, so a factor above 1 shrinks what is seen. The map is diagonal:
  one two-banded matrix for rows, one for columns, two small products per image and
  no gather. Same result as scipy.ndimage.affine_transform(order=1, mode="nearest").

  Args:
    images: [batch, size, size, channels].
    rows: [batch], scale of the rows.
    columns: [batch], scale of the columns.
    center: the point left in place, pixels.

  Returns:
    Images of the same shape and type.
  """
  size = images.shape[1]
  high = jax.lax.Precision.HIGHEST  # these are pixels, not activations
  vertical = _interpolation(rows, center, size, images.dtype)
  horizontal = _interpolation(columns, center, size, images.dtype)
  images = jnp.einsum("bri,bijc->brjc", vertical, images, precision=high)
  return jnp.einsum("bkj,brjc->brkc", horizontal, images, precision=high)


def _interpolation(scale: jax.Array, center: float, size: int, dtype) -> jax.Array:
  """[batch, size, size]: row r holds the weights of the inputs that output r shows."""
  grid = jnp.arange(size, dtype=dtype)
  source = scale[:, None].astype(dtype) * (grid - center)[None, :] + center
  source = jnp.clip(source, 0, size - 1)
  distance = jnp.abs(source[:, :, None] - grid[None, None, :])
  return jnp.maximum(1 - distance, 0)


def shift(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
  """Moves each image by whole pixels, zeros moving in: a random crop of a padded one.

  Args:
    images: [batch, size, size, channels].
    rows: int [batch], output row r shows input row r + rows.
    columns: int [batch], likewise.

  Returns:
    Images of the same shape and type.
  """
  size = images.shape[1]
  grid = jnp.arange(size)

  def selection(offset):
    chosen = (grid[None, :] + offset[:, None])[:, :, None] == grid[None, None, :]
    return chosen.astype(images.dtype)

  high = jax.lax.Precision.HIGHEST
  images = jnp.einsum("bri,bijc->brjc", selection(rows), images, precision=high)
  return jnp.einsum("bkj,brjc->brkc", selection(columns), images, precision=high)


def cut_out(
  images: jax.Array, row: jax.Array, column: jax.Array, side: int
) -> jax.Array:
  """Sets a square to zero; DeVries and Taylor 2017, "Cutout".

  Args:
    images: [batch, size, size, channels].
    row: int [batch], the square's centre, anywhere in the image.
    column: int [batch], likewise.
    side: of the square, pixels; what lies outside the image is cut off.

  Returns:
    Images of the same shape and type.
  """
  grid = jnp.arange(images.shape[1])

  def inside(center):
    first = center[:, None] - side // 2
    return (grid[None, :] >= first) & (grid[None, :] < first + side)

  square = inside(row)[:, :, None] & inside(column)[:, None, :]
  return jnp.where(square[..., None], jnp.zeros((), images.dtype), images)


def _uniform(
  example_keys: jax.Array, purpose: Purpose, low: float, high: float
) -> jax.Array:
  return low + (high - low) * ops.uniform(ops.hash_uint32(purpose, example_keys))


def _integer(example_keys: jax.Array, purpose: Purpose, limit: int) -> jax.Array:
  """int32 [batch], uniform on 0, ..., limit - 1 (to within limit / 2^24)."""
  drawn = ops.uniform(ops.hash_uint32(purpose, example_keys)) * limit
  return jnp.minimum(drawn.astype(jnp.int32), limit - 1)
