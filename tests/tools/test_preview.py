"""The preview shows the stored images and what a training step sees of them."""

import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from cifar_flax import __main__ as commands
from cifar_flax import config as config_lib
from cifar_flax import steps
from cifar_flax.data import datasets, samples

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def dataset():
  rng = np.random.default_rng(0)
  labels = np.int32([2, 0, 0, 2, 0, 0])
  images = rng.integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
  split = datasets.Split(images, labels)
  info = datasets.Info("cifar10", "1", 0, "print", ("ant", "bee", "cow"))
  return datasets.Dataset(split, split, info)


def test_rows_are_classes_in_the_order_of_the_data(dataset):
  numbers, names = samples.choose(dataset, 3)
  np.testing.assert_array_equal(numbers, [[1, 2, 4], [0, 3, 0]])  # two cows, no bee
  assert names == ["ant", "cow"]


def test_augmentation_flips_whole_images_by_step_and_index(dataset):
  config = config_lib.Config()
  images = dataset.train.images
  numbers = np.arange(6)
  np.testing.assert_array_equal(samples.augmented(config, images, numbers, 0), images)
  config.augmentation.flip = True
  seen = [samples.augmented(config, images, numbers, step) for step in range(8)]
  flips = [
    [np.array_equal(new, old[:, ::-1]) for new, old in zip(step, images, strict=True)]
    for step in seen
  ]
  for step, flipped in zip(seen, flips, strict=True):
    for new, old, turned in zip(step, images, flipped, strict=True):
      np.testing.assert_array_equal(new, old[:, ::-1] if turned else old)
  assert 12 < np.sum(flips) < 36  # of 48
  again = samples.augmented(config, images[3:], numbers[3:], 2)
  np.testing.assert_array_equal(again, seen[2][3:])  # in another batch


class Recorder:
  """A linear network that records the images that a training step gives it."""

  def __init__(self):
    self.seen = []

  def apply(self, variables, x, *, train, example_keys, mutable):
    jax.debug.callback(lambda x: self.seen.append(np.asarray(x)), x)
    return x.mean((1, 2)) @ variables["params"]["kernel"], {}


def test_the_augmentation_is_that_of_the_training_step(dataset):
  config = config_lib.Config()
  config.seed, step = 3, 5
  config.augmentation = config_lib.Augmentation(
    zoom=0.15, flip=True, crop_padding=4, cutout=8
  )
  network, tx = Recorder(), optax.sgd(0.1)
  params = {"kernel": jnp.zeros((3, 3))}
  state = steps.TrainState(
    jnp.int32(step), params, {}, tx.init(params), {}, steps.Metrics.empty()
  )
  numbers = np.int32([5, 0, 3, 2])
  train_step = steps.make_train_step(config, network, tx, 10, config.seed)
  train_step = jax.vmap(train_step, in_axes=(None, None, None, 0), axis_name=steps.AXIS)
  data = jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels)
  train_step(state, *data, numbers[None])
  jax.effects_barrier()
  (seen,) = network.seen
  images = dataset.train.images[numbers]
  shown = samples.augmented(config, images, numbers, step)
  assert shown.shape == seen.shape == images.shape and shown.dtype == np.uint8
  np.testing.assert_allclose(shown, 255 * np.clip(seen, 0, 1), atol=0.51)


def test_every_image_is_in_the_picture(dataset):
  config = config_lib.Config()
  picture = samples.render(config, dataset, columns=3, step=0)
  canvas = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
  pixels = {tuple(color) for color in canvas.reshape(-1, 3)}
  for image in dataset.train.images[:5]:  # those drawn, enlarged twice
    wanted = {tuple(color) for color in image.reshape(-1, 3)}
    assert len(wanted & pixels) > 0.95 * len(wanted)


def test_a_thousand_classes_have_a_largest_size_and_it_is_said(
  monkeypatch, tmp_path, capsys
):
  labels = np.int32(np.arange(3000) % 999)
  split = datasets.Split(np.zeros((3000, 32, 32, 3), np.uint8), labels)
  names = tuple(f"$x_{{{i}$ | <b>\tend" for i in range(1000))
  info = datasets.Info("folder_$x_{$", "1", 0, "print", names)
  large = datasets.Dataset(split, split, info)
  monkeypatch.setattr(datasets, "load", lambda config: large)
  path, config = tmp_path / "grid.png", str(ROOT / "configs" / "net6b.py")
  argv = ["preview", "--config", config, "--output", str(path), "--columns=900"]
  assert commands.main(argv) == 0
  with Image.open(path) as picture:
    assert max(picture.size) <= 3000
  assert capsys.readouterr().err == (
    "note: the first 40 of 999 classes are shown; 20 instead of 900 images of each"
    " class are shown; 1 class has no image in this split: $x_{999$ | <b>\\tend\n"
  )
  side = samples.side_by_side(config_lib.Config(), large)
  assert side.shape == (40 * 32, 2 * 8 * 32 + 8, 3)


def test_a_wrong_path_is_found_before_the_data_are_loaded(
  monkeypatch, tmp_path, capsys
):
  monkeypatch.setattr(datasets, "load", None)
  config = str(ROOT / "configs" / "net6b.py")
  for path in (tmp_path, tmp_path / "absent" / "a.png"):
    assert commands.main(["preview", "--config", config, "--output", str(path)]) == 1
    assert f"error: {path}: " in capsys.readouterr().err
  assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_file(dataset, monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(datasets, "load", lambda config: dataset)
  path = tmp_path / "grid.png"
  config = str(ROOT / "configs" / "net6b.py")
  argv = ["preview", "--config", config, "--output", str(path), "--columns=2"]
  assert commands.main(argv) == 0
  assert capsys.readouterr().out == f"{path}\n"
  assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
  ("argv", "code", "words"),
  [
    ([], 2, "--config=FILE is missing"),
    (["--config={net6b}", "--columns=0"], 2, "--columns=0: must be an integer >= 1"),
    (["--config={net6b}", "--output=a.jpg"], 2, "its name must end in .png"),
    (["--config={net6b}", "--output=/nowhere/a.png"], 1, "/nowhere/a.png: No such"),
  ],
)
def test_a_mistake_prints_one_line(argv, code, words, dataset, monkeypatch, capsys):
  monkeypatch.setattr(datasets, "load", lambda config: dataset)
  config = str(ROOT / "configs" / "net6b.py")
  filled = [argument.replace("{net6b}", config) for argument in argv]
  assert commands.main(["preview", *filled]) == code
  error = capsys.readouterr().err
  assert words in error and error.count("\n") == 1
