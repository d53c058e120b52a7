"""Exported networks compute the same logits in a process without this package.

`test_description.py` has what they say of themselves.
"""

import json
import re
import resource
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cifar_flax import __main__ as commands
from cifar_flax import config as config_lib
from cifar_flax import models, registry, train
from cifar_flax.data import datasets
from cifar_flax.run import checkpoints
from cifar_flax.tools import export, formats
from cifar_flax.tools.trained import Trained

IMAGES = np.random.default_rng(0).random((5, 32, 32, 3), np.float32)
# The largest difference from the logits of the run's own arithmetic, relative to the
# largest logit: float32 rounds to 24 bits, bfloat16 to 8 in each of 20 layers.
TOLERANCES = {"float32": 1e-5, "bfloat16": 0.05, "float64": 1e-5}


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


def of_dtype(run, folder, dtype):
  """Returns a copy of a run as one that was trained in `dtype` would look."""
  content = checkpoints.read(run / "checkpoints" / "best.ckpt")
  about = json.loads(content["run"])
  about["config"]["model"]["dtype"] = dtype
  content["run"] = json.dumps(about)
  if dtype == "float64":
    for name in ("params", "batch_stats"):
      content["state"][name] = jax.tree.map(np.float64, content["state"][name])
  checkpoints.save_best(folder / "checkpoints", checkpoints.encode(content))
  (folder / "config.json").write_bytes((run / "config.json").read_bytes())
  return folder


def written(run, tmp_path, capsys, kind, *flags):
  """Exports to a file whose suffix says the format, without --format."""
  path = tmp_path / f"network.{kind}"
  code = commands.main(["export", f"--workdir={run}", f"--output={path}", *flags])
  out, error = capsys.readouterr()
  assert (code, error) == (0, "") and out.startswith(f"{path}: ")
  return path


def close(logits, wanted, tolerance=1e-5):
  assert logits.shape == wanted.shape == (5, 4)
  assert np.abs(logits - wanted).max() <= tolerance * np.abs(wanted).max()
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


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_stablehlo_runs_without_this_package(run, dtype, tmp_path, capsys):
  run = of_dtype(run, tmp_path, dtype)
  wanted = Trained(run).logits(IMAGES)
  path = written(run, tmp_path, capsys, "stablehlo")
  sources = re.findall(rb"[\w./-]+\.py\b", path.read_bytes())
  assert b"layers.py" in sources and not any(b"/" in name for name in sources)
  np.save(tmp_path / "images.npy", IMAGES)
  subprocess.run([sys.executable, "-c", PROGRAM, str(path)], cwd=tmp_path, check=True)
  with np.load(tmp_path / "logits.npz") as results:
    close(results["arr_0"], wanted, TOLERANCES[dtype])
    assert results["arr_1"].shape == (4, 4)


# ONNX Runtime writes its warnings to descriptor 2 itself.
RUNTIME = """
import sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
images = np.load("images.npy")
results = [session.run(["logits"], {"images": images[i:]})[0] for i in range(2)]
np.savez("logits.npz", *results)
"""


def in_onnx_runtime(path):
  """Returns the logits of all images and of all but one; nothing may be printed."""
  np.save(path.parent / "images.npy", IMAGES)
  command = [sys.executable, "-c", RUNTIME, path.name]
  done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True)
  assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
  with np.load(path.parent / "logits.npz") as results:
    return results["arr_0"], results["arr_1"]


@pytest.mark.parametrize(
  ("dtype", "opset"), [("float32", None), ("bfloat16", 28), ("float64", 23)]
)
def test_onnx_runs_in_onnx_runtime_without_a_word(
  run, wanted, dtype, opset, tmp_path, capsys, caplog
):
  pytest.importorskip("jax2onnx")
  pytest.importorskip("onnxruntime")
  onnx = pytest.importorskip("onnx")
  flags = [f"--opset={opset}"] if opset else []
  run = of_dtype(run, tmp_path, dtype)
  path = written(run, tmp_path, capsys, "onnx", *flags)
  assert not caplog.records
  logits, fewer = in_onnx_runtime(path)
  close(logits, wanted)  # computed in float32
  close(logits, Trained(run).logits(IMAGES), TOLERANCES[dtype])
  assert fewer.shape == (4, 4)
  [operators] = onnx.load(path).opset_import
  assert operators.version == (opset or 18)


NETWORKS = [("uniform", name) for name in registry.CONVOLUTIONS]
NETWORKS += [(name, "plain") for name in registry.NETWORKS if name != "uniform"]


@pytest.mark.full
@pytest.mark.parametrize("opset", export.OPSETS)
@pytest.mark.parametrize(("name", "convolution"), NETWORKS)
def test_every_network_in_every_operator_set(name, convolution, opset, tmp_path):
  pytest.importorskip("jax2onnx")
  pytest.importorskip("onnxruntime")
  config = config_lib.Config()
  config.model.name, config.model.convolution = name, convolution
  network = models.create(config.model, 4)
  variables = network.init(jax.random.key(0), IMAGES, train=False)
  rng = np.random.default_rng(2)
  moved = lambda x: x + 0.1 * rng.random(x.shape, np.float32)  # noqa: E731
  variables = jax.tree.map(moved, variables)
  trained = types.SimpleNamespace(
    config=config, class_names="abcd", variables=variables
  )
  path = tmp_path / "network.onnx"
  with jax.numpy_rank_promotion("allow"):  # jax2onnx adds a bias so
    path.write_bytes(formats.onnx(trained, opset, {}))
  wanted = np.asarray(network.apply(variables, IMAGES, train=False))
  close(in_onnx_runtime(path)[0], wanted)


def test_onnx_without_jax2onnx_names_the_package(run, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "jax2onnx", None)
  code = commands.main(
    ["export", f"--workdir={run}", "--format=onnx", f"--output={tmp_path}/x"]
  )
  assert code == 2 and "pip install -e '.[onnx]'" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_npz_contains_every_array_under_its_path(run, dtype, tmp_path, capsys):
  run = of_dtype(run, tmp_path, dtype)
  path = written(run, tmp_path, capsys, "npz")
  trained = Trained(run)
  every = flatten_dict(trained.variables, sep="/")
  with np.load(path, allow_pickle=False) as arrays:
    assert set(arrays) == set(every)
    assert arrays["params/stem/kernel"].shape == (3, 3, 3, 32)
    assert "batch_stats/stem_norm/mean" in arrays
    for name, array in every.items():
      assert arrays[name].dtype == ("float64" if dtype == "float64" else "float32")
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
    (["--output=x.onnx", "--opset=17"], 2, "--opset=17: must be 18 to 28"),
    (["--output=x.onnx", "--opset=29"], 2, "--opset=29: must be 18 to 28"),
    (["--output=x.onnx", "--opset=a"], 2, "invalid int value: 'a'"),
    (["--output=x.npz", "--opset=18"], 2, "only --format=onnx has operator sets"),
    (["--card=x.txt"], 2, "must end in .md"),
    (["--card=x.md", "--format=onnx"], 2, "--output=FILE is missing"),
    (["--workdir={run}", "--card=/nowhere/x.md"], 1, "/nowhere/x.md: No such file"),
    (["--workdir={run}", "--output=/nowhere/x"], 1, "/nowhere/x: No such file"),
  ],
)
def test_a_mistake_prints_one_line(run, argv, code, words, capsys):
  found = commands.main(["export", *(each.replace("{run}", str(run)) for each in argv)])
  out, error = capsys.readouterr()
  assert (found, out) == (code, "") and words in error and error.count("\n") == 1


def test_a_failed_export_leaves_the_former_file(run, tmp_path, capsys):
  path = tmp_path / "network.npz"
  path.write_bytes(b"former")
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
  try:
    code = commands.main(["export", f"--workdir={run}", f"--output={path}"])
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
  assert code == 1 and "File too large" in capsys.readouterr().err
  assert path.read_bytes() == b"former"
  assert [file.name for file in tmp_path.iterdir()] == ["network.npz"]
