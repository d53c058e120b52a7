"""Predictions agree with the trainer's; every kind of picture is read or refused."""

import io
import json
import pathlib
import re

import jax
import numpy as np
import pytest
from PIL import Image

from cifar_flax import __main__ as commands
from cifar_flax import config as config_lib
from cifar_flax import train
from cifar_flax.data import datasets, pictures
from cifar_flax.errors import UserError
from cifar_flax.tools import explain
from cifar_flax.tools.trained import Trained, likeliest, softmax

NO_PICTURE = (
  "not a picture in a format that is read (PNG, JPEG, WebP, GIF, TIFF, BMP and most"
  " others of pixels)"
)
CLASSES = ("ant", "bee", "cow")


def split(n, seed):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 3, n).astype(np.int32)
  pixels = rng.integers(0, 100, (n, 32, 32, 3))
  pixels[..., 1] += 70 * labels[:, None, None]
  return datasets.Split(pixels.astype(np.uint8), labels)


DATASET = datasets.Dataset(
  split(64, 0), split(70, 1), datasets.Info("cifar10", "1", 0, "print", CLASSES)
)


@pytest.fixture(scope="module", params=[0.0, 0.3], ids=["", "moving_average"])
def run(request, tmp_path_factory):
  """Trains a run; returns its directory and its summary."""
  values = {"model.name": "uniform", "batch_size": "8", "num_epochs": "3"}
  values |= {"eval_batch_size": "32", "ema_decay": str(request.param)}
  values |= {"schedule.learning_rate": "0.005", "checkpoint.min_seconds": "0"}
  values |= {"model.batch_norm_momentum": "0.5"}
  config = config_lib.override(config_lib.Config(), values)
  workdir = tmp_path_factory.mktemp("run")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(datasets, "load", lambda config: DATASET)
    summary = train.train_and_evaluate(config, workdir)
  return workdir, summary


def test_predictions_are_those_of_the_trainers_evaluation(run):
  workdir, summary = run
  logits = Trained(workdir, "last").logits(DATASET.eval.images)
  assert logits.shape == (70, 3) and logits.dtype == np.float32
  right = (logits.argmax(-1) == DATASET.eval.labels).mean()
  assert right == pytest.approx(summary["final_eval_accuracy"], abs=1e-6)
  logits = Trained(workdir, "best").logits(DATASET.eval.images)
  right = (logits.argmax(-1) == DATASET.eval.labels).mean()
  assert right == pytest.approx(summary["best_eval_accuracy"], abs=1e-6)
  assert len(set(logits.argmax(-1))) > 1


def test_probabilities_and_their_order():
  probabilities = softmax(np.float32([[0, np.log(3), 1000]]))
  np.testing.assert_allclose(probabilities, [[0, 0, 1]])
  np.testing.assert_allclose(softmax(np.log([[1.0, 3.0]])), [[0.25, 0.75]])
  assert likeliest([0.2, 0.5, 0.3], CLASSES, 2) == [("bee", 0.5), ("cow", 0.3)]


@pytest.fixture
def folder(tmp_path):
  Image.fromarray(DATASET.eval.images[0]).save(tmp_path / "a.png")
  Image.fromarray(DATASET.eval.images[1]).resize((90, 50)).save(tmp_path / "b.JPG")
  (tmp_path / "c.png").write_bytes(b"not a picture")
  (tmp_path / "notes.txt").write_text("no picture")
  return tmp_path


def test_each_picture_has_a_line_and_bad_files_are_reported(
  run, folder, capsys, monkeypatch
):
  listed = io.StringIO(f"{folder}/a.png\n\n{folder}/none.png\n")
  monkeypatch.setattr("sys.stdin", listed)
  code = commands.main(
    ["predict", "--workdir", str(run[0]), str(folder), "-", "--top=2"]
  )
  out, error = capsys.readouterr()
  lines = out.splitlines()
  assert code == 1
  assert [line.partition(":")[0] for line in lines] == [
    f"{folder}/{name}" for name in ("a.png", "b.JPG", "a.png")
  ]
  assert lines[0] == lines[2] and lines[0].count("%") == 2
  assert error.splitlines()[1:] == [  # below the line on the checkpoint
    f"error: {folder}/c.png: {NO_PICTURE}",
    f"error: {folder}/none.png: No such file or directory",
    f"note: {folder}: 3 pictures; passed over 1 .txt",
  ]


def test_json(run, folder, capsys):
  arguments = ["--workdir", str(run[0]), f"{folder}/a.png", "--format=json"]
  assert commands.main(["predict", *arguments, "--checkpoint=last"]) == 0
  answer = json.loads(capsys.readouterr()[0])
  wanted = softmax(Trained(run[0], "last").logits(DATASET.eval.images[:1]))[0]
  assert answer["file"] == f"{folder}/a.png"
  found = {item["class"]: item["probability"] for item in answer["classes"]}
  assert found == pytest.approx(dict(zip(CLASSES, wanted, strict=True)), abs=1e-6)
  assert list(found.values()) == sorted(found.values(), reverse=True)


def test_grad_cam_by_hand(run, folder):
  """The logits of `uniform` are the mean of its last feature map over 8x8 pixels.

  The gradient of a logit is therefore 1/64 in its own channel and 0 in the others.
  """
  trained = Trained(run[0], "last")
  images = DATASET.eval.images[:30]
  _, state = trained.network.apply(
    trained.variables, images / np.float32(255), train=False, capture_intermediates=True
  )
  features = np.asarray(state["intermediates"]["head"]["__call__"][0])
  assert features.shape == (30, 8, 8, 3)
  labels = features.max((1, 2)).argmax(-1)
  expected = np.maximum(features[np.arange(30), :, :, labels], 0) / 64
  assert (expected.max((1, 2)) > 0).sum() >= 15 and len(set(labels)) > 1
  heat = explain.maps(trained, images, labels)
  assert heat.dtype == np.float32
  np.testing.assert_allclose(heat, expected, atol=1e-5 * expected.max())
  picture = explain.render(trained, [(folder / "a.png", images[0])], 3)
  assert picture.startswith(b"\x89PNG")


def test_a_map_without_a_region_is_drawn_in_grey(run, monkeypatch):
  heat = np.ones((1, 8, 8), np.float32)
  pictures_ = [(pathlib.Path("a $x_{1$ <b>.png"), DATASET.eval.images[0])]
  trained, colored = Trained(run[0]), []
  for low in (0.0, 0.3, 0.6, 1.0):
    heat[0, 0, 0] = low
    monkeypatch.setattr(explain, "maps", lambda *arguments: heat)
    assert explain.is_flat(heat[0]) == (low > 0.5)
    picture = Image.open(io.BytesIO(explain.render(trained, pictures_, 3)))
    middle = np.int32(picture.convert("RGB"))[60:160, 150:270]
    colored.append(np.ptp(middle, axis=-1).max() > 50)
  assert colored == [True, True, False, False]
  assert explain.is_flat(np.zeros((8, 8)))


def test_grad_cam_folds_no_constants(run, monkeypatch):
  """Neither weights nor images are constants of the compiled program."""
  trained, programs, jit = Trained(run[0]), [], jax.jit

  def recorded(function, **options):
    def call(*arguments):
      programs.append(jax.make_jaxpr(function)(*arguments))
      return jit(function, **options)(*arguments)

    return call

  monkeypatch.setattr(jax, "jit", recorded)
  explain.maps(trained, DATASET.eval.images[:2], np.int32([0, 1]))
  assert len(programs) == 1
  assert sum(np.size(constant) for constant in programs[0].consts) < 100


def test_explain_says_how_many_it_leaves_out(run, tmp_path, capsys):
  pictures_ = tmp_path / "many"
  pictures_.mkdir()
  for i in range(explain.MAX_PICTURES + 2):
    Image.new("RGB", (32, 32), (i, 0, 0)).save(pictures_ / f"{i}.png")
  path = tmp_path / "cam.png"
  command = ["--workdir", str(run[0]), str(pictures_), f"--explain={path}"]
  assert commands.main(["predict", *command]) == 0
  out, error = capsys.readouterr()
  assert out.count("\n") == explain.MAX_PICTURES + 2
  chosen, note = error.splitlines()
  assert re.fullmatch(r"note: epoch \d, best of 3 epochs, chosen on test", chosen)
  assert note == f"note: {path} shows the first 24 of 26 pictures"
  with Image.open(path) as picture:
    assert picture.size[1] < 1500


@pytest.mark.parametrize("name", ["absent/cam.png", "."])
def test_a_wrong_path_of_explain_is_found_before_the_work(
  run, tmp_path, name, capsys, monkeypatch
):
  monkeypatch.setattr("cifar_flax.tools.trained.Trained.__init__", None)
  path = tmp_path / name
  command = ["--workdir", str(run[0]), str(tmp_path), f"--explain={path}"]
  assert commands.main(["predict", *command]) == 1
  assert f"error: {path}: " in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "I;16"])
def test_every_colour_mode(mode, tmp_path):
  grey = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32) % 200
  if mode == "I;16":
    image = Image.fromarray(np.uint16(grey) * 257)
  else:
    image = Image.fromarray(grey).convert("RGB").convert(mode)
  path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
  image.save(path, **({"quality": 100} if mode == "CMYK" else {}))
  found = pictures.read(path)
  assert found.shape == (32, 32, 3) and found.dtype == np.uint8
  if mode == "1":
    assert set(np.unique(found)) <= {0, 255}
  else:
    tolerance = {"CMYK": 5, "P": 52}.get(mode, 0)  # P: 6 levels, dithered
    assert np.abs(np.int32(found[..., 0]) - grey).max() <= tolerance


def test_transparency_becomes_white_and_the_middle_is_cropped(tmp_path):
  clear = Image.new("RGBA", (32, 32), (9, 9, 9, 0))
  clear.save(tmp_path / "clear.png")
  assert (pictures.read(tmp_path / "clear.png") == 255).all()
  wide = np.zeros((32, 96, 3), np.uint8)
  wide[:, 32:64] = 200
  Image.fromarray(wide).save(tmp_path / "wide.png")
  assert (pictures.read(tmp_path / "wide.png") == 200).all()


def test_the_orientation_of_the_camera_is_applied(tmp_path):
  picture = np.zeros((32, 32, 3), np.uint8)
  picture[:16] = 255
  image = Image.fromarray(picture)
  exif = image.getexif()
  exif[0x0112] = 3  # upside down
  image.save(tmp_path / "turned.jpg", exif=exif, quality=100)
  found = pictures.read(tmp_path / "turned.jpg")
  assert found[:14].max() < 20 and found[18:].min() > 235


def test_too_large_damaged_and_other_pictures_are_refused(tmp_path, monkeypatch):
  Image.new("RGB", (64, 64)).save(tmp_path / "large.png")
  Image.new("RGB", (64, 64)).save(tmp_path / "x.eps")
  (tmp_path / "x.eps").rename(tmp_path / "eps.png")
  data = (tmp_path / "large.png").read_bytes()
  (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
  for name in ("large.png", "eps.png", "cut.png"):
    with pytest.raises(UserError, match=name) as error:
      pictures.read(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("argv", "words"),
  [
    (["a.png"], "--workdir=RUN is missing"),
    (["--workdir=/nowhere", "a.png"], "no run here"),
    (["--workdir={run}"], "no IMAGE is given"),
    (["--workdir={run}", "a.png", "--top=0"], "--top=0: must be an integer >= 1"),
    (["--workdir={run}", "a.png", "--format=jso"], "did you mean"),
    (["--workdir={run}", "a.png", "--checkpoint=lst"], "best, last"),
    (["--workdir={run}", "a.png", "--explain=cam.pdf"], "must end in .png"),
  ],
)
def test_a_mistake_prints_one_line(run, argv, words, capsys):
  code = commands.main(
    ["predict", *(each.replace("{run}", str(run[0])) for each in argv)]
  )
  out, error = capsys.readouterr()
  assert (code, out) == (2, "") and words in error and error.count("\n") == 1
