"""Computes on the host which images are in each batch, from seed, epoch and sizes."""

import numpy as np

from cifar_flax import ops


def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  """Returns a permutation of the examples for one epoch.

  The examples are sorted by the project's own hash, because the stream of a library's
  random generator may change from version to version.

  Args:
    seed: The run's seed.
    epoch: The epoch, counted from 0.
    num_examples: Number of examples n.

  Returns:
    int32 `[n]`.
  """
  keys = ops.hash_uint32(ops.Purpose.EPOCH_ORDER, seed, epoch, np.arange(num_examples))
  return np.argsort(keys, kind="stable").astype(np.int32)


def train_indices(
  seed: int, epoch: int, num_examples: int, batch_size: int, num_devices: int
) -> np.ndarray:
  """Returns the example indices of an epoch's batches, without the incomplete last one.

  The `num_examples % batch_size` images that an epoch drops differ from epoch to epoch,
  because each epoch has its own order. Batch k holds the same images for any number of
  devices.

  Returns:
    int32 `[num_devices, steps, batch_size / num_devices]`.
  """
  steps = num_examples // batch_size
  order = epoch_order(seed, epoch, num_examples)[: steps * batch_size]
  return np.ascontiguousarray(order.reshape(steps, num_devices, -1).transpose(1, 0, 2))


def eval_batch_size(chosen: int, platform: str) -> int:
  """Returns the images per forward pass in evaluation, over all devices.

  Args:
    chosen: the config's number; 0 if it leaves the choice. A CPU then takes as many as
      its cache holds the activations of.
    platform: of the devices: cpu, gpu or tpu.
  """
  return chosen or (64 if platform == "cpu" else 512)


def eval_indices(
  num_examples: int, batch_size: int, num_devices: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns batches that hold every image once, with the last batch padded.

  Returns:
    The indices, int32 `[num_devices, steps, batch]`, and a mask of the same shape,
    float32, which is 1 for an image and 0 for padding. `batch` is
    `batch_size / num_devices`, rounded up.
  """
  batch = -(-batch_size // num_devices)
  steps = -(-num_examples // (batch * num_devices))
  padded = np.arange(steps * num_devices * batch)
  shape = (steps, num_devices, batch)
  mask = (padded < num_examples).astype(np.float32).reshape(shape)
  indices = np.minimum(padded, num_examples - 1).astype(np.int32).reshape(shape)
  return indices.transpose(1, 0, 2), mask.transpose(1, 0, 2)
