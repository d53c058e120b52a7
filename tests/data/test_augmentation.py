"""Tests augmentation against scipy.ndimage, NumPy slicing and statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from cifar_flax import ops
from cifar_flax.config import Augmentation
from cifar_flax.data import augmentation


def random_images(n, size=32):
  return np.random.default_rng(0).random((n, size, size, 3)).astype(np.float32)


def example_keys(n, seed=0):
  return ops.hash_uint32(jnp.uint32(seed), jnp.arange(n, dtype=jnp.uint32))


@pytest.mark.parametrize("center", [16.5, 15.5])
def test_zoom_is_scipys_affine_transform(center):
  images = random_images(20)
  rows, columns = np.random.default_rng(1).uniform(0.85, 1.15, (2, 20))
  rows, columns = rows.astype(np.float32), columns.astype(np.float32)
  zoomed = augmentation.zoom(images, rows, columns, center)
  for image, row, column, ours in zip(images, rows, columns, zoomed, strict=True):
    scale = np.array([row, column, 1.0], np.float64)
    offset = np.array([center, center, 0.0]) * (1 - scale)
    expected = ndimage.affine_transform(
      image.astype(np.float64), scale, offset, order=1, mode="nearest"
    )
    np.testing.assert_allclose(ours, expected, atol=5e-6)


def test_zoom_is_scipys_to_1e_6_in_float64():
  with jax.enable_x64(True):
    images = random_images(5).astype(np.float64)
    scales = np.random.default_rng(1).uniform(0.85, 1.15, (2, 5))
    zoomed = np.asarray(augmentation.zoom(images, *jnp.asarray(scales), 16.5))
  for image, row, column, ours in zip(images, *scales, zoomed, strict=True):
    scale = np.array([row, column, 1.0])
    offset = np.array([16.5, 16.5, 0.0]) * (1 - scale)
    expected = ndimage.affine_transform(image, scale, offset, order=1, mode="nearest")
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_zoom_draws_rows_and_columns_independently_over_the_whole_range():
  n = 4000
  ramp = np.broadcast_to(np.arange(32.0, dtype=np.float32)[:, None], (32, 32))
  both = np.stack([ramp, ramp.T, ramp], axis=-1) / 32
  images = np.broadcast_to(both, (n, 32, 32, 3))
  config = Augmentation(zoom=0.15)
  zoomed = np.asarray(augmentation.augment(images, example_keys(n), config)) * 32
  # Away from the clamped border the ramp's slope is the scale itself.
  rows = (zoomed[:, 20, 16, 0] - zoomed[:, 12, 16, 0]) / 8
  columns = (zoomed[:, 16, 20, 1] - zoomed[:, 16, 12, 1]) / 8
  for scale in (rows, columns):
    assert stats.kstest(scale, stats.uniform(0.85, 0.3).cdf).pvalue > 1e-3
    assert scale.min() < 0.852 and scale.max() > 1.148
  assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.05


def test_flip_mirrors_half_of_the_images_and_nothing_else():
  images = random_images(2000, size=8)
  flipped = np.asarray(
    augmentation.augment(images, example_keys(2000), Augmentation(flip=True))
  )
  mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
  kept = (flipped == images).all(axis=(1, 2, 3))
  assert (mirrored ^ kept).all()
  assert stats.binomtest(int(mirrored.sum()), 2000).pvalue > 1e-3


def test_crop_is_a_window_of_the_padded_image_and_every_one_occurs():
  images, padding = random_images(2000, size=8), 2
  config = Augmentation(crop_padding=padding)
  cropped = np.asarray(augmentation.augment(images, example_keys(2000), config))
  padded = np.pad(images, [(0, 0), (padding,) * 2, (padding,) * 2, (0, 0)])
  seen = np.zeros((5, 5), int)
  for image, ours in zip(padded, cropped, strict=True):
    matches = [
      (i, j)
      for i in range(5)
      for j in range(5)
      if np.array_equal(image[i : i + 8, j : j + 8], ours)
    ]
    assert len(matches) == 1
    seen[matches[0]] += 1
  assert stats.chisquare(seen.ravel()).pvalue > 1e-3


def test_shift_by_hand():
  """Output row r shows input row r + rows; columns likewise; zeros move in."""
  images = random_images(3, size=6)
  rows, columns = np.array([2, -1, 0]), np.array([-1, 3, 6])
  shifted = np.asarray(augmentation.shift(images, rows, columns))
  expected = np.zeros_like(images)
  expected[0, :4, 1:] = images[0, 2:, :5]
  expected[1, 1:, :3] = images[1, :5, 3:]
  np.testing.assert_allclose(shifted, expected, atol=1e-6)


@pytest.mark.parametrize(("side", "first", "last"), [(1, 3, 3), (3, 2, 4), (4, 1, 4)])
def test_cut_out_square_starts_half_a_side_before_its_centre(side, first, last):
  images = np.ones((1, 8, 8, 3), np.float32)
  cut = np.asarray(augmentation.cut_out(images, np.array([3]), np.array([0]), side))
  expected = images.copy()
  expected[:, first : last + 1, : side - side // 2] = 0
  np.testing.assert_array_equal(cut, expected)


def test_cutout_zeroes_one_square_centred_anywhere():
  images = random_images(3000, size=8) + 1
  cut = np.asarray(
    augmentation.augment(images, example_keys(3000), Augmentation(cutout=4))
  )
  zero = (cut == 0).all(axis=-1)
  assert np.array_equal(cut[~zero], images[~zero])
  corners = set()
  for hole in zero:
    rows, columns = np.nonzero(hole.any(1))[0], np.nonzero(hole.any(0))[0]
    assert hole[np.ix_(rows, columns)].all() and hole.sum() == len(rows) * len(columns)
    assert 2 <= len(rows) <= 4 and 2 <= len(columns) <= 4
    corners.add((rows[0], rows[-1], columns[0], columns[-1]))
  assert len(corners) == 64  # 8 x 8 centres


def test_pixels_depend_on_the_example_keys_and_not_on_the_batch():
  images = random_images(16)
  config = Augmentation(zoom=0.15, flip=True, crop_padding=4, cutout=8)
  whole = augmentation.augment(images, example_keys(16), config)
  again = augmentation.augment(images, example_keys(16), config)
  other = augmentation.augment(images, example_keys(16, seed=1), config)
  order = np.random.default_rng(0).permutation(16)[:5]
  part = augmentation.augment(images[order], example_keys(16)[order], config)
  np.testing.assert_array_equal(whole, again)
  np.testing.assert_allclose(np.asarray(whole)[order], part, atol=1e-6)
  assert (np.abs(np.asarray(whole) - np.asarray(other)).max(axis=(1, 2, 3)) > 0.1).all()


def test_all_off_changes_nothing():
  images = random_images(4)
  np.testing.assert_array_equal(
    augmentation.augment(images, example_keys(4), Augmentation()), images
  )
