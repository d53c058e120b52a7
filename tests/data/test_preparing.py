"""What an ended preparation leaves, and how much copies and caches may take."""

import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from stand_ins import make_config

from cifar_flax import caches
from cifar_flax.data import datasets, hashes
from cifar_flax.data.sources import preparing, shapes10

# Prepares shapes10 as a training does, and says when it is in the middle of it.
PREPARE = """
import pathlib, signal, sys, time
from cifar_flax.data import datasets
from cifar_flax.data.sources import shapes10
from cifar_flax.run import signals
draw = shapes10.shapes10_drawing.draw
def slowly(label, key, index):
  if index == 3:
    print("drawing", file=sys.__stdout__, flush=True)
    time.sleep(90)
  return draw(label, key, index)
shapes10.shapes10_drawing.draw = slowly
sys.path.insert(0, sys.argv[1])
from stand_ins import make_config
for number in signals.SIGNALS:  # whatever the tests were started with
  signal.signal(number, signal.SIG_DFL)
with signals.Watch():
  datasets.load(make_config(dataset="shapes10"))
"""


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
  monkeypatch.setattr(shapes10, "NUM_TRAIN", 20)
  monkeypatch.setattr(shapes10, "NUM_TEST", 10)
  return tmp_path / "tfds"


def stopped_by(number):
  """Ends a preparation by a signal."""
  process = subprocess.Popen(
    [sys.executable, "-c", PREPARE, os.path.dirname(__file__)],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  )
  assert process.stdout
  with process.stdout:
    assert process.stdout.readline() == "drawing\n"
    process.send_signal(number)
    assert process.wait(60) == -number


def leftovers(data_dir):
  return list(data_dir.glob("*/incomplete.*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_preparation_without_leftovers(number, data_dir):
  stopped_by(number)
  assert (data_dir / ".shapes10.lock").is_file()
  assert leftovers(data_dir) == []


def test_what_a_killed_preparation_left_is_deleted_by_the_next_one(data_dir):
  for _ in range(2):
    stopped_by(signal.SIGKILL)
    assert len(leftovers(data_dir)) == 1
  with preparing.locked(data_dir / ".shapes10.lock"):  # so the owner is alive
    preparing._remove_leftovers(data_dir)
    assert len(leftovers(data_dir)) == 1
  (data_dir / "other").mkdir()
  preparing._remove_leftovers(data_dir)
  assert leftovers(data_dir) == []
  assert len(datasets.load(make_config(dataset="shapes10")).train.labels) == 20


def test_what_other_programs_left_is_deleted_after_a_day(data_dir):
  place = data_dir / "cifar10" / "incomplete.ABC_3.0.2"
  place.mkdir(parents=True)
  file = place / "shard"
  file.write_text("x")
  ages = {file: 25 * 3600.0, place: 23 * 3600.0}
  for kept in (True, False):
    for path, age in ages.items():
      os.utime(path, (time.time() - age, time.time() - age))
    preparing._remove_leftovers(data_dir)
    assert place.exists() == kept
    ages[place] = 25 * 3600.0


def test_a_lock_cannot_name_another_folder(data_dir):
  (data_dir / "cifar10").mkdir(parents=True)
  for name in ("../cifar10", "incomplete.x/../../cifar10", ""):
    (data_dir / ".cifar10.lock").write_text(name)
    preparing._remove_leftovers(data_dir)
  assert (data_dir / "cifar10").is_dir()


@pytest.fixture
def pictures(tmp_path):
  root = tmp_path / "pictures"
  for i in range(4):
    path = root / "train" / "ab"[i % 2] / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path)
  return root


def load(pictures, number):
  """Loads the folder in its state of that number; returns its copy."""
  for path in pictures.rglob("*.png"):
    os.utime(path, (10**9 + number, 10**9 + number))
  before = set(datasets_of(pictures))
  config = make_config(dataset=f"folder:{pictures}", eval_split="train")
  datasets.load(config)
  return [path for path in datasets_of(pictures) if path not in before]


def datasets_of(pictures):
  return sorted((pictures.parent / "tfds").glob("folder_*"))


def test_copies_of_a_folder_are_bounded(pictures, monkeypatch):
  [first], [second], [third] = (load(pictures, number) for number in range(3))
  size = sum(path.stat().st_size for path in first.rglob("*"))
  monkeypatch.setattr(preparing, "MAX_COPIES_BYTES", int(3.5 * size))
  assert load(pictures, 0) == []  # it is there, and used again
  for age, path in ((1, first), (3, second), (2, third)):
    used = path.stat().st_mtime
    assert time.time() - used < 60
    os.utime(path, (used - age, used - age))
  [fourth] = load(pictures, 3)
  assert datasets_of(pictures) == sorted([first, third, fourth])
  locks = sorted(path.name for path in (pictures.parent / "tfds").glob(".*.lock"))
  assert locks == sorted(f".{path.name}.lock" for path in (first, third, fourth))
  monkeypatch.setattr(preparing, "MAX_COPIES_BYTES", 0)
  with preparing.in_use(third / "1.0.0") as exists:  # as by another process
    assert exists
    [fifth] = load(pictures, 4)
    assert datasets_of(pictures) == sorted([third, fifth])


def test_a_copy_that_is_deleted_before_it_is_read_is_made_again(pictures, monkeypatch):
  in_use, calls = preparing.in_use, []

  def late(folder):
    if not calls:
      assert preparing._delete_copy(folder.parent)
    calls.append(folder)
    return in_use(folder)

  monkeypatch.setattr(preparing, "in_use", late)
  assert len(load(pictures, 0)) == 1 and len(calls) == 2


def test_a_killed_copy_is_deleted_and_one_that_is_made_is_not(pictures):
  data_dir = pictures.parent / "tfds"
  place = data_dir / f"folder_{'0' * 16}" / "incomplete.ABC_1.0.0"
  place.mkdir(parents=True)
  with preparing.locked(data_dir / f".folder_{'0' * 16}.lock"):
    load(pictures, 0)
    assert place.exists()
  load(pictures, 0)
  assert not place.parent.exists() and len(datasets_of(pictures)) == 1


def test_other_folders_beside_the_copies_stay(pictures, monkeypatch):
  monkeypatch.setattr(preparing, "MAX_COPIES_BYTES", 0)
  others = ["folder_of_mine", "cifar10", f"folder_{'g' * 16}", f"folder_{'0' * 17}"]
  for name in others:
    (pictures.parent / "tfds" / name).mkdir(parents=True)
  load(pictures, 0), load(pictures, 1)
  left = {path.name for path in (pictures.parent / "tfds").glob("[cf]*")}
  assert left > set(others) and len(left) == len(others) + 1


def test_a_lock_that_is_deleted_meanwhile_is_made_again(tmp_path):
  path = tmp_path / ".x.lock"
  flock = fcntl.flock
  calls = []

  def late(file, how):
    flock(file, how)
    calls.append(how)
    if len(calls) == 1:
      path.unlink()

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(fcntl, "flock", late)
    with preparing.locked(path) as file:
      assert path.stat().st_ino == os.fstat(file.fileno()).st_ino
  assert len(calls) == 2


def test_decoded_images_are_bounded(pictures, monkeypatch):
  load(pictures, 0)
  folder = caches.folder(caches.DATA)
  [path] = folder.iterdir()
  size = path.stat().st_size
  monkeypatch.setitem(caches.MAX_BYTES, caches.DATA, int(2.5 * size))
  files = [folder / f"{name}.npz" for name in "abc"]
  for age, file in enumerate(files):
    file.write_bytes(b"x" * size)
    os.utime(file, (10**9 - age, 10**9 - age))
  os.utime(path, (10**9 - 9, 10**9 - 9))
  # A process is writing the one, and the other was killed long ago.
  young, old = folder / "tmp1.incomplete", folder / "tmp2.incomplete"
  young.write_bytes(b"x" * 3 * size)
  old.write_bytes(b"x")
  hours_ago = time.time() - 2 * 3600
  os.utime(old, (hours_ago, hours_ago))
  config = make_config(dataset=f"folder:{pictures}", eval_split="train")
  datasets.load(config)
  kept = {each.name for each in folder.iterdir()}
  assert len(kept) == 3 and {"a.npz", "tmp1.incomplete"} < kept
  assert len(list(folder.glob("*.npz"))) == 2
  monkeypatch.setitem(caches.MAX_BYTES, caches.DATA, 0)
  datasets.load(config)
  assert len(list(folder.glob("*.npz"))) == 1, "the last used one stays in any case"


@pytest.fixture
def large(tmp_path):
  path = tmp_path / "large"
  path.write_bytes(os.urandom(hashes.MIN_BYTES))
  an_hour_ago = time.time() - 3600
  os.utime(path, (an_hour_ago, an_hour_ago))
  return path


@pytest.fixture
def reads(monkeypatch):
  """The files that were hashed; they count as unchanged for long."""
  found, read = [], hashes._read
  monkeypatch.setattr(hashes, "_read", lambda path: found.append(path) or read(path))
  monkeypatch.setattr(hashes, "_SETTLED_SECONDS", -1.0)
  return found


def test_a_large_file_is_hashed_once(large, reads):
  first = hashes.of_file(large)
  assert hashes.of_file(large) == first and len(reads) == 1
  [entry] = caches.folder(caches.HASHES).iterdir()
  entry.write_text("damaged")
  assert hashes.of_file(large) == first and len(reads) == 2
  assert hashes.of_file(large) == first and len(reads) == 2


def rewritten(path: pathlib.Path):
  """Other content of the same size, and the same time of modification."""
  status = path.stat()
  path.write_bytes(os.urandom(status.st_size))
  os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced(path: pathlib.Path):
  other = path.with_name("other")
  other.write_bytes(os.urandom(path.stat().st_size))
  os.replace(other, path)


def grown(path: pathlib.Path):
  with path.open("ab") as file:
    file.write(b"x")


@pytest.mark.parametrize("change", [rewritten, replaced, grown])
def test_a_changed_file_is_hashed_again(change, large, reads):
  first = hashes.of_file(large)
  time.sleep(0.02)  # the resolution of the time of a file
  change(large)
  assert hashes.of_file(large) != first and len(reads) == 2


def test_a_small_or_a_new_file_is_not_remembered(large, monkeypatch):
  assert hashes.of_file(large)  # its status has changed just now
  large.write_bytes(b"small")
  monkeypatch.setattr(hashes, "_SETTLED_SECONDS", -1.0)
  assert hashes.of_file(large)
  assert not caches.folder(caches.HASHES).exists()


def test_hashes_are_bounded_and_optional(large, reads, monkeypatch, tmp_path):
  monkeypatch.setitem(caches.MAX_BYTES, caches.HASHES, 3 * 64)
  for number in range(6):
    hashes.of_file(large)
    os.utime(large, (number, number))
  assert len(list(caches.folder(caches.HASHES).iterdir())) == 3
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  assert len(hashes.of_file(large)) == 64


def test_a_second_start_reads_no_record_file_for_its_hash(
  prepared_once, reads, monkeypatch
):
  monkeypatch.setattr(hashes, "MIN_BYTES", 1)
  config = make_config(data_dir=str(prepared_once))
  datasets.load(config)
  once = len(reads)
  datasets.load(config)
  assert len(reads) == once >= 4
