"""Randomness as a function of counters: the same on the host and on any device.

Everything random that must not depend on the number of devices or on where a run was
resumed is a hash of its purpose and of (seed, epoch, step, example, layer, position).
An integer hash is also an order of magnitude cheaper on a CPU than JAX's threefry (a
mask for 128x30x30x128 values: 169 ms with `jax.random.bernoulli`).
"""

import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Permutations of xor-shifts and odd multipliers found by search for the smallest
# avalanche bias (C. Wellons, hash-prospector, public domain). Three rounds where words
# are absorbed; two do not hide counters that differ in their high bits only.
_ROUND_1, _ROUND_2, _ROUND_3 = (
  np.uint32(word) for word in (0xED5AD4BB, 0xAC4C1B51, 0x31848BAB)
)
_CHEAP_1, _CHEAP_2 = np.uint32(0x21F0AAAD), np.uint32(0xD35A2D97)
_GOLDEN_RATIO = np.uint32(0x9E3779B9)


class Purpose(enum.IntEnum):
  """What a draw is for: the first word of every hash.

  Two purposes share no draws, even where their other words are equal. A number is part
  of what a run computes, so an existing one is never changed; new purposes are added at
  the end.
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
  """Returns the random key of each example in one training step.

  Augmentation and dropout derive all of their draws for an example from its key.

  Args:
    seed: of the run.
    step: updates made before this one.
    indices: int [batch], the examples' places in the training split.

  Returns:
    uint32 [batch].
  """
  return hash_uint32(Purpose.EXAMPLE_KEY, seed, step, indices)


def hash_uint32(*words: Any) -> Any:
  """Hashes integers to a uint32 whose bits are uniform and independent.

  The words are absorbed one by one, so their order matters and (1, 2) differs from
  (12,). With all other words fixed the hash is a permutation of its last word: a range
  of counters in the last place gives distinct values, which makes
  `np.argsort(hash_uint32(purpose, seed, epoch, np.arange(n)))` a shuffle without ties.

  Args:
    *words: python ints in [0, 2**32), or integer arrays of numpy or jax (taken modulo
      2**32) of any shapes that broadcast together.

  Returns:
    uint32 of the broadcast shape: numpy if every word is numpy or an int, else jax.
    Both give the same bits.

  Raises:
    ValueError: a python int is out of range, or no word is given.
    TypeError: a word is not an integer.
  """
  if not words:
    raise ValueError("hash_uint32: no words given, at least one integer is needed")
  arrays = [_as_uint32(word) for word in words]
  rank = max(array.ndim for array in arrays)
  state: Any = _GOLDEN_RATIO
  # Scalars of numpy warn when a product wraps around; wrapping is the point here.
  with np.errstate(over="ignore"):
    for array in arrays:
      padded = array.reshape((1,) * (rank - array.ndim) + array.shape)
      state = _absorb(state, padded if array.ndim else array[()])
  return state


def uniform(bits: Any) -> Any:
  """Maps hashed bits to uniform numbers: the upper 24 bits, divided by 2**24.

  Args:
    bits: uint32 array of any shape, numpy or jax.

  Returns:
    float32 in [0, 1), of the same shape and kind; multiples of 2**-24, exactly.
  """
  return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def mix(state: Any, key: Any) -> Any:
  """Permutes uint32 `state` by a permutation chosen by uint32 `key`, in two rounds.

  For one number per element of an activation, where each operation counts. The key
  enters in the middle as well as (by the caller) in the state: the sequences of two
  keys are then never shifted copies of one another.

  Args:
    state: uint32 array, a counter plus a hashed key.
    key: uint32 array that broadcasts with it, another hashed key.

  Returns:
    uint32 of the broadcast shape.
  """
  state = state ^ (state >> np.uint32(16))
  state = (state * _CHEAP_1) ^ key
  state = state ^ (state >> np.uint32(15))
  state = state * _CHEAP_2
  return state ^ (state >> np.uint32(15))


def _absorb(state: Any, word: Any) -> Any:
  # The word alone is permuted first: streams of counters under two states then have no
  # more in common than two random ones.
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
