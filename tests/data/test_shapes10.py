"""Tests shapes10: reproducible pixels, correct shapes, no linear solution."""

import concurrent.futures
import fcntl
import hashlib
import math
import threading

import numpy as np
import pytest
from stand_ins import make_config

from cifar_flax.data import datasets
from cifar_flax.data.sources import preparing, shapes10, shapes10_drawing

# The checksum of the first 100 training images, in order. Change it only together with
# `Shapes10.VERSION`, because prepared datasets of a version keep their images.
SHA256 = "a21454f8f88a3aff9bc6d34b1721288c466f2f9cab611fcfaa46de06f1caadae"


def draw_many(key: int, number: int) -> tuple[np.ndarray, np.ndarray]:
  labels = [index % 10 for index in range(number)]
  images = [
    shapes10_drawing.draw(label, key, index) for index, label in enumerate(labels)
  ]
  return np.stack(images), np.array(labels)


def test_same_pixels_on_every_machine():
  images, _ = draw_many(0, 100)
  assert images.shape == (100, 32, 32, 3) and images.dtype == np.uint8
  assert hashlib.sha256(images.tobytes()).hexdigest() == SHA256


def test_prepared_like_cifar10(monkeypatch, capfd):
  monkeypatch.setattr(shapes10, "NUM_TRAIN", 50)
  monkeypatch.setattr(shapes10, "NUM_TEST", 30)
  dataset = datasets.load(make_config(dataset="shapes10"))
  for key, (split, number) in enumerate([(dataset.train, 50), (dataset.eval, 30)]):
    images, labels = draw_many(key, number)
    np.testing.assert_array_equal(split.images, images)
    np.testing.assert_array_equal(split.labels, labels)
  info = dataset.info
  assert (info.name, info.version, info.download_size) == ("shapes10", "1.0.0", 0)
  assert (
    info.class_names == shapes10_drawing.CLASS_NAMES
    and len(set(info.class_names)) == 10
  )
  shown = capfd.readouterr()
  assert shown.out == ""
  assert shown.err.splitlines()[0].startswith("Preparing shapes10 in ")


def test_two_runs_at_once_prepare_once(monkeypatch, tmp_path):
  monkeypatch.setattr(shapes10, "NUM_TRAIN", 20)
  monkeypatch.setattr(shapes10, "NUM_TEST", 10)
  made, asked, flock = [], threading.Semaphore(0), fcntl.flock

  def count_and_flock(*args):
    asked.release()
    flock(*args)

  def make_builder():
    made.append(threading.get_ident())
    for _ in range(2):  # both threads have asked for the lock, and this one holds it
      assert asked.acquire(timeout=10)
    return shapes10.Shapes10(data_dir=tmp_path / "data")

  monkeypatch.setattr(fcntl, "flock", count_and_flock)
  folder = tmp_path / "data" / "shapes10" / "1.0.0"
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    runs = [pool.submit(preparing.prepare, folder, make_builder) for _ in range(2)]
  assert [run.result() for run in runs] == [None, None]
  assert len(made) == 1 and (folder / "dataset_info.json").is_file()


def test_all_images_differ():
  images = np.concatenate([draw_many(key, 100)[0] for key in (0, 1)])
  assert len({image.tobytes() for image in images}) == 200


def lens(first: float, second: float, distance: float) -> float:
  """Returns the area shared by two circles of given radii and centre distance."""
  a = math.acos((distance**2 + first**2 - second**2) / (2 * distance * first))
  b = math.acos((distance**2 + second**2 - first**2) / (2 * distance * second))
  heron = (first + second) ** 2 - distance**2, distance**2 - (first - second) ** 2
  return first**2 * a + second**2 * b - math.sqrt(heron[0] * heron[1]) / 2


AREAS = {
  "circle": math.pi * 0.9**2,
  "ring": math.pi * (0.98**2 - 0.58**2),
  "square": 1.56**2,
  "frame": 1.72**2 - 0.96**2,
  "triangle": 3 * math.sqrt(3) / 4 * 1.1**2,
  "star": 5 * 1.1 * 0.46 * math.sin(math.radians(36)),
  "cross": 2 * 2 * 0.6 - 0.6**2,
  "crescent": math.pi - lens(1, 0.82, 0.5),
  "arrow": 1.7 * 1.0 / 2 + 0.6 * 1.1,
}


@pytest.mark.parametrize("name", shapes10_drawing.CLASS_NAMES)
def test_shapes_have_the_area_and_reach_of_their_names(name):
  steps = (np.arange(1200, dtype=np.float32) - 599.5) / 480  # -1.25 to 1.25
  x, y = np.meshgrid(steps, steps)
  inside = shapes10_drawing.SHAPES[name](x, y)
  if name in AREAS:
    assert inside.sum() / 480**2 == pytest.approx(AREAS[name], rel=0.003)
  assert not inside[x * x + y * y > 1.22**2].any()
  rows, columns = np.nonzero(inside)
  if name not in ("crescent", "arrow"):
    np.testing.assert_array_equal(inside, inside[:, ::-1])  # mirror symmetry
  hollow = name in ("ring", "frame")
  assert inside[600, 600] == (not hollow and name != "crescent")
  if name == "heart":  # two bulges at the top, one point at the bottom
    tops = [rows[columns == column].min() for column in (350, 600, 850)]
    assert tops[0] < tops[1] > tops[2]
    assert (rows == rows.max()).sum() < 40


def test_shape_stands_out_from_its_background():
  """Checks that the pixels of every image vary by more than the noise."""
  for label, name in enumerate(shapes10_drawing.CLASS_NAMES):
    images = np.stack([shapes10_drawing.draw(label, 7, index) for index in range(20)])
    spread = images.astype(float).std(axis=(1, 2)).max(axis=-1)
    assert spread.min() > 12, name


def test_linear_model_fails():
  """Fits ridge regression to one-hot labels, solved exactly by its Gram matrix."""

  def flat(key, number):
    images, labels = draw_many(key, number)
    return images.reshape(number, -1) / 255 - 0.5, labels

  images, labels = flat(0, 1500)
  gram = images @ images.T
  found = np.linalg.solve(gram + 100 * np.eye(len(gram)), np.eye(10)[labels])
  assert np.mean((gram @ found).argmax(axis=1) == labels) > 0.5, "it fits training"
  others, other_labels = flat(1, 500)
  found_labels = (others @ images.T @ found).argmax(axis=1)
  assert np.mean(found_labels == other_labels) < 0.25
