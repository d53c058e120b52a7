"""Counter-based random numbers that are the same on the host and on every device.

A random number that must depend neither on the number of devices nor on where a run
was resumed is a hash of its purpose and some of (seed, epoch, step, example, layer,
position). An integer hash is also an order of magnitude cheaper on a CPU than JAX's
threefry (a mask for 128x30x30x128 values: 169 ms with `jax.random.bernoulli`).
"""

import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Permutations of xor-shifts and odd multipliers found by search for the smallest
# avalanche bias (C. Wellons, hash-prospector, public domain). Absorbing a word takes
# three rounds, because two do not mix counters that differ only in their high bits.
_ROUND_1, _ROUND_2, _ROUND_3 = (
  np.uint32(word) for word in (0xED5AD4BB, 0xAC4C1B51, 0x31848BAB)
)
_CHEAP_1, _CHEAP_2 = np.uint32(0x21F0AAAD), np.uint32(0xD35A2D97)
_GOLDEN_RATIO = np.uint32(0x9E3779B9)


class Purpose(enum.IntEnum):
  """The purpose of a random number, which is the first word of its hash.

  Different purposes give independent numbers, even if their other words are equal. The
  values below affect the results of a run, so existing ones must not be changed; new
  purposes are added at the end.
  """

  EPOCH_ORDER = 0
  EXAMPLE_KEY = 1
  ZOOM_ROWS = 2
  ZOOM_COLUMNS = 3
  FLIP = 4
  CROP_ROW = 5
  CROP_COLUMN = 6
  CUTOUT_ROW = 7
  CUTOUT_COLUMN = 8
  DROPOUT = 9


def example_keys(seed: Any, step: Any, indices: Any) -> Any:
  """Returns the per-example keys of one training step.

  Augmentation and dropout derive all random numbers for an example from its key.

  Args:
    seed: the run's seed.
    step: number of updates made before this one.
    indices: int [batch], the examples' positions in the training split.

  Returns:
    uint32 [batch].
  """
  return hash_uint32(Purpose.EXAMPLE_KEY, seed, step, indices)


def hash_uint32(*words: Any) -> Any:
  """Hashes integers to a uint32 whose bits are uniform and independent.

  The words are absorbed one by one, so their order matters and (1, 2) differs from
  (12,). With all other words fixed, the hash is a permutation of its last word. A range
  of counters as last word therefore gives distinct values, and
  `np.argsort(hash_uint32(purpose, seed, epoch, np.arange(n)))` is a shuffle without
  ties.

  Args:
    *words: Python ints in [0, 2**32), or integer arrays of NumPy or JAX (taken modulo
      2**32) of any shapes that broadcast together.

  Returns:
    uint32 of the broadcast shape: a JAX array if any word is one, else NumPy. Both have
    the same bits.

  Raises:
    ValueError: a Python int is out of range, or no word is given.
    TypeError: a word is not an integer.
  """
  if not words:
    raise ValueError("hash_uint32: no words given; pass at least one integer")
  arrays = [_as_uint32(word) for word in words]
  rank = max(array.ndim for array in arrays)
  state: Any = _GOLDEN_RATIO
  # NumPy scalars warn when a product wraps around, which is intended here.
  with np.errstate(over="ignore"):
    for array in arrays:
      padded = array.reshape((1,) * (rank - array.ndim) + array.shape)
      state = _absorb(state, padded if array.ndim else array[()])
  return state


def uniform(bits: Any) -> Any:
  """Maps hashed bits to uniform numbers: the upper 24 bits, divided by 2**24.

  Args:
    bits: uint32 array of any shape, NumPy or JAX.

  Returns:
    float32 in [0, 1), of the same shape and kind; exact multiples of 2**-24.
  """
  return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def mix(state: Any, key: Any) -> Any:
  """Permutes uint32 `state` by a permutation that `key` selects, in two rounds.

  This is the cheaper hash for one number per element of an activation. The caller adds
  one key to the state, and `key` enters between the rounds, so that the sequences of
  two keys are never shifted copies of each other.

  Args:
    state: uint32 array, a counter plus a hashed key.
    key: uint32 array that broadcasts with `state`, another hashed key.

  Returns:
    uint32 of the broadcast shape.
  """
  state = state ^ (state >> np.uint32(16))
  state = (state * _CHEAP_1) ^ key
  state = state ^ (state >> np.uint32(15))
  state = state * _CHEAP_2
  return state ^ (state >> np.uint32(15))


def _absorb(state: Any, word: Any) -> Any:
  # The word is permuted before it is combined with the state, so that the hashes of a
  # range of counters under two states are no more correlated than random numbers.
  return _permute(state ^ _permute(word))


def _permute(state: Any) -> Any:
  state = state ^ (state >> np.uint32(17))
  state = state * _ROUND_1
  state = state ^ (state >> np.uint32(11))
  state = state * _ROUND_2
  state = state ^ (state >> np.uint32(15))
  state = state * _ROUND_3
  return state ^ (state >> np.uint32(14))


def _as_uint32(word: Any) -> Any:
  if isinstance(word, int) and not isinstance(word, bool):
    if not 0 <= word < 2**32:
      raise ValueError(f"hash_uint32: {word} is not in [0, 2**32)")
    return np.asarray(word, np.uint32)
  array = word if isinstance(word, jax.Array) else np.asarray(word)
  if not jnp.issubdtype(array.dtype, jnp.integer):
    raise TypeError(f"hash_uint32: {array.dtype} {word!r} is not an integer")
  return array.astype(np.uint32)
