"""The hash is the same everywhere, and its bits are what random bits should be."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cifar_flax import ops
from cifar_flax.config import Augmentation
from cifar_flax.data import augmentation, batches
from cifar_flax.ops import hashing

COUNT = 1 << 16
KEYS = [1553596626, 2100464075, 3445015181]
ORDER = [5, 7, 2, 4, 1, 0, 8, 3, 9, 6]


def counters(count=COUNT):
  return np.arange(count, dtype=np.uint32)


def test_numpy_and_jax_give_the_same_bits():
  rows, columns = np.arange(5, dtype=np.uint32)[:, None], counters(7)
  host = ops.hash_uint32(3, rows, 2**32 - 1, columns)
  device = jax.jit(ops.hash_uint32)(
    np.uint32(3), jnp.asarray(rows), np.uint32(2**32 - 1), jnp.asarray(columns)
  )
  assert isinstance(host, np.ndarray) and host.dtype == device.dtype == np.uint32
  assert host.shape == (5, 7)
  np.testing.assert_array_equal(host, device)
  np.testing.assert_array_equal(ops.uniform(host), ops.uniform(device))


def test_golden_values_hold_runs_together():
  """A change of the hash changes every published run: it must be deliberate."""
  assert [
    int(ops.hash_uint32(*words)) for words in [(0,), (1,), (0, 0), (1, 2, 3)]
  ] == [4249023594, 1476479250, 146975875, 411743058]


def test_golden_values_of_the_draws_hold_runs_together():
  """As above: a purpose never gets another number."""
  assert [int(p) for p in ops.Purpose] == list(range(10))
  keys = ops.example_keys(7, 3, np.arange(3))
  assert keys.tolist() == KEYS
  assert batches.epoch_order(7, 3, 10).tolist() == ORDER


def draws():
  """Values that a run draws, by what for, of the same seed and small counters."""
  index = np.arange(2000)
  found = {
    "order": [ops.hash_uint32(ops.Purpose.EPOCH_ORDER, 0, e, index) for e in range(3)]
  }
  keys = [ops.example_keys(0, step, index) for step in range(3)]
  found["keys"] = keys
  for purpose in list(ops.Purpose)[2:9]:
    found[purpose.name] = [ops.hash_uint32(purpose, k) for k in keys]
  # As `ops.dropout` draws them, of two layers.
  found["dropout"] = [
    ops.hash_uint32(ops.Purpose.DROPOUT, k, layer, number)
    for k in keys
    for layer in (0, 1)
    for number in (0, 1)
  ]
  return {name: np.stack(values) for name, values in found.items()}


def test_no_two_purposes_share_a_value():
  found = draws()
  for (one, a), (other, b) in itertools.combinations(found.items(), 2):
    for x, y in itertools.product(a, b):
      assert not (x == y).any(), (one, other)
    # Among n x m pairs, n m / 2^32 are equal by chance: here at most 0.06.
    assert len(np.intersect1d(a, b)) <= 1, (one, other)


def test_every_draw_begins_with_its_purpose(monkeypatch):
  purposes, original = [], hashing.hash_uint32

  def recorded(*words):
    purposes.append(words[0])
    return original(*words)

  for module in (ops, hashing):
    monkeypatch.setattr(module, "hash_uint32", recorded)
  keys = ops.example_keys(0, 0, np.arange(2))
  everything = Augmentation(zoom=0.1, flip=True, crop_padding=1, cutout=2)
  augmentation.augment(jnp.ones((2, 8, 8, 3)), keys, everything)
  ops.dropout(jnp.ones((2, 3)), 0.5, jnp.asarray(keys), 4)
  batches.epoch_order(0, 0, 5)
  assert all(isinstance(purpose, ops.Purpose) for purpose in purposes)
  assert set(purposes) == set(ops.Purpose)


def test_what_a_step_draws_is_not_the_order_of_an_epoch():
  order = batches.epoch_order(0, 0, 1000)
  assert not np.array_equal(order, np.argsort(ops.example_keys(0, 0, np.arange(1000))))


def test_ints_scalars_arrays_and_other_integer_types_agree():
  expected = ops.hash_uint32(7, 9)
  for seven in (np.uint32(7), np.int64(7), np.array([7]), jnp.int32(7)):
    assert np.all(np.asarray(ops.hash_uint32(seven, 9)) == expected)


@pytest.mark.parametrize("word", [-1, 2**32])
def test_refuses_ints_that_do_not_fit(word):
  with pytest.raises(ValueError, match="not in"):
    ops.hash_uint32(0, word)


def test_refuses_what_is_no_integer():
  with pytest.raises(TypeError, match="float"):
    ops.hash_uint32(np.ones(3))
  with pytest.raises(ValueError, match="no words"):
    ops.hash_uint32()


def test_the_last_word_is_permuted():
  assert len(np.unique(ops.hash_uint32(5, 1, counters(60_000)))) == 60_000


def test_order_and_number_of_words_matter():
  hashes = [
    int(ops.hash_uint32(*w)) for w in [(1, 2), (2, 1), (12,), (1, 2, 0), (0, 1, 2)]
  ]
  assert len(set(hashes)) == len(hashes)


# The words of a shuffle, of augmentation and of dropout, each counting in one place.
STREAMS = {
  "counter": lambda n: ops.hash_uint32(0, 0, n),
  "seed": lambda n: ops.hash_uint32(n, 0, 0),
  "epoch": lambda n: ops.hash_uint32(0, n, 0),
  "high bits": lambda n: ops.hash_uint32(0, n << np.uint32(16)),
  "one word": lambda n: ops.hash_uint32(n),
}


@pytest.mark.parametrize("stream", STREAMS)
def test_uniform(stream):
  values = ops.uniform(STREAMS[stream](counters()))
  assert values.dtype == np.float32 and values.min() >= 0 and values.max() < 1
  counts = np.histogram(values, 256, (0, 1))[0]
  assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4
  low = np.bincount(STREAMS[stream](counters()) & np.uint32(255), minlength=256)
  assert 1e-4 < stats.chisquare(low).pvalue < 1 - 1e-4


@pytest.mark.parametrize("stream", STREAMS)
def test_neighbours_are_independent(stream):
  """Pairs (u[n], u[n + lag]) fill the unit square evenly."""
  values = ops.uniform(STREAMS[stream](counters()))
  for lag in (1, 2, 16, 32, 900):
    pairs = np.histogram2d(values[:-lag], values[lag:], 16, [(0, 1), (0, 1)])[0]
    assert 1e-4 < stats.chisquare(pairs.ravel()).pvalue < 1 - 1e-4, lag


def test_streams_are_independent():
  """Same counters under neighbouring seeds and epochs: no correlation, no overlap."""
  keys = list(itertools.product(range(3), range(3)))
  streams = [ops.hash_uint32(seed, epoch, counters()) for seed, epoch in keys]
  for (i, a), (j, b) in itertools.combinations(enumerate(streams), 2):
    pairs = np.histogram2d(ops.uniform(a), ops.uniform(b), 16, [(0, 1), (0, 1)])[0]
    assert 1e-5 < stats.chisquare(pairs.ravel()).pvalue < 1 - 1e-5, (keys[i], keys[j])
    # Two random sets of n values out of 2**32 share n**2 / 2**32 = 1 on average.
    assert len(np.intersect1d(a, b)) < 10


@pytest.mark.parametrize("place", [0, 1, 2])
def test_avalanche(place):
  """Each input bit flips each output bit in half of all cases, within 5 sigma."""
  words = [counters(4096), counters(4096) * np.uint32(7919), counters(4096)]
  before = ops.hash_uint32(*words)
  for bit in range(32):
    flipped = list(words)
    flipped[place] = words[place] ^ np.uint32(1 << bit)
    changed = before ^ ops.hash_uint32(*flipped)
    rates = [np.mean(changed >> np.uint32(out) & np.uint32(1)) for out in range(32)]
    assert np.abs(np.array(rates) - 0.5).max() < 5 * 0.5 / np.sqrt(4096), bit


def test_shuffles_put_every_example_anywhere():
  """Over many epochs the first place of the order is uniform over the examples."""
  orders = [
    np.argsort(ops.hash_uint32(1, epoch, counters(10))) for epoch in range(4000)
  ]
  for place in (0, 1, 9):
    counts = np.bincount([order[place] for order in orders], minlength=10)
    assert stats.chisquare(counts).pvalue > 1e-4
  moves = np.mean([orders[i][0] == orders[i + 1][0] for i in range(3999)])
  assert abs(moves - 0.1) < 5 * 0.3 / np.sqrt(3999)
