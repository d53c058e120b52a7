"""Tests which images are in each batch, by counting them."""

import numpy as np
import pytest

from cifar_flax.data import batches


def test_an_epoch_has_every_image_at_most_once_and_drops_the_remainder():
  indices = batches.train_indices(0, 0, 50_000, 128, 1)
  assert indices.shape == (1, 390, 128)
  assert len(np.unique(indices)) == 390 * 128
  left_out = [
    set(range(1000)) - set(batches.train_indices(0, epoch, 1000, 128, 1).ravel())
    for epoch in range(2)
  ]
  assert [len(images) for images in left_out] == [1000 % 128] * 2
  assert left_out[0] != left_out[1]


@pytest.mark.parametrize("num_devices", [2, 4, 8])
def test_a_batch_holds_the_same_images_on_any_number_of_devices(num_devices):
  one = batches.train_indices(3, 5, 1000, 64, 1)
  many = batches.train_indices(3, 5, 1000, 64, num_devices)
  np.testing.assert_array_equal(many.transpose(1, 0, 2).reshape(one.shape[1:]), one[0])


def test_order_depends_on_seed_and_epoch_and_mixes():
  orders = [batches.epoch_order(s, e, 5000) for s, e in ((0, 0), (0, 1), (1, 0))]
  np.testing.assert_array_equal(orders[0], batches.epoch_order(0, 0, 5000))
  for order in orders:
    np.testing.assert_array_equal(np.sort(order), np.arange(5000))
    assert abs(np.corrcoef(order, np.arange(5000))[0, 1]) < 0.05
  for i, j in ((0, 1), (0, 2), (1, 2)):
    assert abs(np.corrcoef(orders[i], orders[j])[0, 1]) < 0.05
    assert (orders[i] == orders[j]).sum() < 10


@pytest.mark.parametrize("num_devices", [1, 2, 8])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 333])
def test_evaluation_counts_every_image_once(num_devices, batch_size):
  indices, mask = batches.eval_indices(200, batch_size, num_devices)
  assert indices.shape == mask.shape and indices.shape[0] == num_devices
  counted = indices[mask == 1]
  np.testing.assert_array_equal(np.sort(counted), np.arange(200))
  assert set(np.unique(mask)) <= {0.0, 1.0}
  assert indices.min() >= 0 and indices.max() < 200


def test_the_size_of_evaluation_is_the_chosen_one_or_the_backends():
  assert [batches.eval_batch_size(7, platform) for platform in ("cpu", "tpu")] == [7, 7]
  assert batches.eval_batch_size(0, "cpu") < batches.eval_batch_size(0, "gpu")
