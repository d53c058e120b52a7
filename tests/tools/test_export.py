"""Exported networks compute the same logits in a process without this package."""

import subprocess
import sys

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cifar_flax import config as config_lib
from cifar_flax import train
from cifar_flax.data import datasets
from cifar_flax.tools import export
from cifar_flax.tools.trained import Trained

IMAGES = np.random.default_rng(0).random((5, 32, 32, 3), np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  rng = np.random.default_rng(1)
  images = rng.integers(0, 256, (24, 32, 32, 3)).astype(np.uint8)
  split = datasets.Split(images, np.int32(np.arange(24) % 4))
  info = datasets.Info("cifar10", "1", 0, "print", ("a", "b", "c", "d"))
  values = {"model.name": "net6b", "batch_size": "8", "num_epochs": "1"}
  values |= {"eval_batch_size": "8", "model.batch_norm_momentum": "0.5"}
  config = config_lib.override(config_lib.Config(), values)
  workdir = tmp_path_factory.mktemp("run")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(datasets, "load", lambda config: datasets.Dataset(split, split, info))
    train.train_and_evaluate(config, workdir)
  return workdir


@pytest.fixture(scope="module")
def wanted(run):
  trained = Trained(run)
  return np.asarray(trained.network.apply(trained.variables, IMAGES, train=False))


def written(run, tmp_path, capsys, kind):
  """Exports to a file whose suffix says the format, without --format."""
  path = tmp_path / f"network.{kind}"
  code = export.main([f"--workdir={run}", f"--output={path}"])
  out, error = capsys.readouterr()
  assert (code, error) == (0, "") and out.startswith(f"{path}: ")
  return path


def close(logits, wanted):
  assert logits.shape == wanted.shape == (5, 4)
  assert np.abs(logits - wanted).max() <= 1e-5 * np.abs(wanted).max()
  assert np.abs(wanted[0] - wanted[1]).max() > 1e-3 * np.abs(wanted).max()


PROGRAM = """
import sys
import numpy as np
import jax, jax.export
images = np.load("images.npy")
function = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
results = [function.call(images[i:]) for i in range(2)]  # of two sizes
np.savez("logits.npz", *results)
assert not {"cifar_flax", "flax", "optax"} & set(sys.modules)
"""


def test_stablehlo_runs_without_this_package(run, wanted, tmp_path, capsys):
  path = written(run, tmp_path, capsys, "stablehlo")
  np.save(tmp_path / "images.npy", IMAGES)
  subprocess.run([sys.executable, "-c", PROGRAM, str(path)], cwd=tmp_path, check=True)
  with np.load(tmp_path / "logits.npz") as results:
    close(results["arr_0"], wanted)
    assert results["arr_1"].shape == (4, 4)


def test_onnx_runs_in_onnx_runtime(run, wanted, tmp_path, capsys):
  pytest.importorskip("jax2onnx")
  runtime = pytest.importorskip("onnxruntime")
  path = written(run, tmp_path, capsys, "onnx")
  session = runtime.InferenceSession(str(path))
  close(session.run(["logits"], {"images": IMAGES})[0], wanted)
  assert session.run(["logits"], {"images": IMAGES[:2]})[0].shape == (2, 4)


def test_onnx_without_jax2onnx_names_the_package(run, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "jax2onnx", None)
  code = export.main([f"--workdir={run}", "--format=onnx", f"--output={tmp_path}/x"])
  assert code == 2 and "pip install -e '.[onnx]'" in capsys.readouterr().err


def test_npz_contains_every_array_under_its_path(run, tmp_path, capsys):
  path = written(run, tmp_path, capsys, "npz")
  trained = Trained(run)
  every = flatten_dict(trained.variables, sep="/")
  with np.load(path, allow_pickle=False) as arrays:
    assert set(arrays) == set(every)
    assert arrays["params/stem/kernel"].shape == (3, 3, 3, 32)
    assert "batch_stats/stem_norm/mean" in arrays
    for name, array in every.items():
      np.testing.assert_array_equal(arrays[name], array)
  # The published network, with 4 instead of 10 classes in the last three layers.
  total = 151_404 - 6 * 128 - 6 * 4 - (10 * 49 * 10 - 4 * 49 * 4)
  assert sum(array.size for array in every.values()) == total


@pytest.mark.parametrize(
  ("argv", "code", "words"),
  [
    (["--workdir={run}"], 2, "--output=FILE is missing"),
    (["--output=x"], 2, "--workdir=RUN is missing"),
    (["--workdir=/nowhere", "--output=x"], 2, "no run here"),
    (["--workdir={run}", "--output=x", "--format=onx"], 2, "did you mean"),
    (["--workdir={run}", "--output=x.ONNX", "--format=npz"], 2, "not npz; leave"),
    (["--workdir={run}", "--output=x.npz", "--format=stablehlo"], 2, "not stablehlo"),
    (["--workdir={run}", "--output=x.jax", "--format=onnx"], 2, "not onnx"),
    (["--workdir={run}", "--output=x.tflite"], 2, ".tflite is no format of an export"),
    (["--workdir={run}", "--output=/nowhere/x"], 1, "/nowhere/x: No such file"),
  ],
)
def test_a_mistake_prints_one_line(run, argv, code, words, capsys):
  found = export.main([argument.replace("{run}", str(run)) for argument in argv])
  out, error = capsys.readouterr()
  assert (found, out) == (code, "") and words in error and error.count("\n") == 1
