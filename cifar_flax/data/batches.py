"""Which image goes where: a function of seed, epoch and step, on the host."""

import numpy as np

from cifar_flax import ops


def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  """A permutation of the examples, for one epoch.

  Sorted by the project's own hash and not by a library's generator, whose stream
  may change from version to version.

  Args:
    seed: of the run.
    epoch: from 0.
    num_examples: n.

  Returns:
    int32 [n].
  """
  keys = ops.hash_uint32(ops.Purpose.EPOCH_ORDER, seed, epoch, np.arange(num_examples))
  return np.argsort(keys, kind="stable").astype(np.int32)


def train_indices(
  seed: int, epoch: int, num_examples: int, batch_size: int, num_devices: int
) -> np.ndarray:
  """An epoch's batches; the num_examples % batch_size last images are left out.

  Which ones those are changes from epoch to epoch. Batch k holds the same images
  for any number of devices.

  Returns:
    int32 [num_devices, steps, batch_size / num_devices].
  """
  steps = num_examples // batch_size
  order = epoch_order(seed, epoch, num_examples)[: steps * batch_size]
  return np.ascontiguousarray(order.reshape(steps, num_devices, -1).transpose(1, 0, 2))


def eval_indices(
  num_examples: int, batch_size: int, num_devices: int
) -> tuple[np.ndarray, np.ndarray]:
  """Every image once, the last batch padded.

  Returns:
    Indices, int32 [num_devices, steps, batch], and a mask of the same shape, float32:
    1 for an image, 0 for padding; num_devices * batch is `batch_size`, rounded up.
  """
  batch = -(-batch_size // num_devices)
  steps = -(-num_examples // (batch * num_devices))
  padded = np.arange(steps * num_devices * batch)
  shape = (steps, num_devices, batch)
  mask = (padded < num_examples).astype(np.float32).reshape(shape)
  indices = np.minimum(padded, num_examples - 1).astype(np.int32).reshape(shape)
  return indices.transpose(1, 0, 2), mask.transpose(1, 0, 2)
