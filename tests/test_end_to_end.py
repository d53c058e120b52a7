"""The command line from images on disk to a finished run directory."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cifar_flax.data.sources import archives, cifar

CLASSES = (
  "airplane",
  "automobile",
  "bird",
  "cat",
  "deer",
  "dog",
  "frog",
  "horse",
  "ship",
  "truck",
)


def run(program, *arguments, **environment):
  """Runs Python as a user would: one CPU device, nothing of the tests' own settings."""
  kept = {
    k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "TFDS_DATA_DIR")
  }
  return subprocess.run(
    [sys.executable, *program, *arguments],
    env=kept | environment,
    capture_output=True,
    text=True,
    timeout=300,
  )


def read_rows(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """A small cifar10 as TFDS keeps it, whose classes are shades of grey."""
  folder = tmp_path_factory.mktemp("tfds")

  def images(n, seed):
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 10).astype(np.uint8)
    pixels = rng.integers(0, 20, (n, 32, 32, 3)) + 22 * labels[:, None, None, None]
    return pixels.astype(np.uint8), {"label": labels}

  splits = {"train": images(200, 0), "test": images(60, 1)}
  contents = archives.Contents(splits, {"label": list(CLASSES)}, downloaded_size=0)
  builder = cifar.Cifar10(contents, data_dir=folder)
  builder.download_and_prepare(file_format="array_record")
  return folder


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
  """A run of a published config, shrunk to seconds, and what it printed."""
  workdir = tmp_path_factory.mktemp("runs") / "net6b"
  cache = str(tmp_path_factory.mktemp("cache"))
  arguments = (
    *("--config", "configs/net6b.py", "--workdir", str(workdir)),
    *(f"--config.data.data_dir={data_dir}", "--config.batch_size=20"),
    "--config.num_epochs=2",
    "--config.model.batch_norm_momentum=0.5",
    "--config.eval_batch_size=30",
  )
  program = ("-m", "cifar_flax.main")
  return workdir, arguments, run(program, *arguments, XDG_CACHE_HOME=cache), cache


def test_a_run_directory_says_how_it_went(finished):
  workdir, _, result, _ = finished
  assert result.returncode == 0, result.stderr
  rows = read_rows(workdir)
  keys = "epoch step lr train_loss train_accuracy eval_loss eval_accuracy"
  assert [list(row) for row in rows] == [
    [*keys.split(), "images_per_second", "seconds"]
  ] * 2
  assert [row["step"] for row in rows] == [10, 20]
  assert rows[1]["train_loss"] < rows[0]["train_loss"]
  summary = json.loads((workdir / "summary.json").read_text())
  assert summary["parameters"] == 151_404
  assert summary["final_eval_accuracy"] == rows[1]["eval_accuracy"]
  assert summary["data"]["download_size"] == 0
  assert summary["data"]["train_examples"] == 200
  assert len(summary["data"]["fingerprint"]) == 64
  with Image.open(workdir / "curves.png") as picture:
    assert picture.width > 300 and len(np.unique(picture.convert("L"))) > 20
  assert list(workdir.glob("events.out.tfevents.*"))
  text = result.stdout + result.stderr
  assert "published: -, because it was trained on 200 images" in text


def test_the_same_command_finds_the_finished_run_and_eval_repeats_its_figure(finished):
  workdir, arguments, first, cache = finished
  again = run(("-m", "cifar_flax.main"), *arguments, XDG_CACHE_HOME=cache)
  assert again.returncode == 0, again.stderr
  evaluated = run(
    ("-m", "cifar_flax.main"),
    *("--mode=eval", "--checkpoint=last", "--workdir", str(workdir)),
    XDG_CACHE_HOME=cache,
  )
  assert evaluated.returncode == 0, evaluated.stderr
  summary = json.loads((workdir / "summary.json").read_text())
  assert f"accuracy {summary['final_eval_accuracy']:.2%}" in evaluated.stdout


def test_tensorflow_is_never_imported(data_dir, tmp_path):
  program = """
import importlib, pathlib, pkgutil, sys
import cifar_flax
for module in pkgutil.walk_packages(cifar_flax.__path__, "cifar_flax."):
  importlib.import_module(module.name)
from cifar_flax import main
assert main.main(sys.argv[1:]) == 0
assert "tensorflow" not in sys.modules
print("imported", sum(name.startswith("cifar_flax") for name in sys.modules))
"""
  result = run(
    ("-c", program),
    *("--config", "configs/quickstart.py", "--workdir", str(tmp_path / "run")),
    *("--config.data.dataset=cifar10", f"--config.data.data_dir={data_dir}"),
    "--config.data.train_split=train",
    "--config.data.eval_split=test",
    "--config.num_epochs=1",
    XDG_CACHE_HOME=str(tmp_path),
  )
  assert result.returncode == 0, result.stderr
  modules = len(list(pathlib.Path("cifar_flax").rglob("*.py")))
  assert f"imported {modules}" in result.stdout


@pytest.mark.skipif(
  "CIFAR_FLAX_TEST_DATA" not in os.environ,
  reason="CIFAR_FLAX_TEST_DATA names no TFDS folder with CIFAR-10",
)
def test_real_images_are_learned(tmp_path):
  result = run(
    ("-m", "cifar_flax.main"),
    *("--config", "configs/net6b.py", "--workdir", str(tmp_path / "run")),
    f"--config.data.data_dir={os.environ['CIFAR_FLAX_TEST_DATA']}",
    "--config.num_epochs=3",
    "--config.batch_size=50",
    "--config.data.train_split=train[:1000]",
    "--config.data.eval_split=test[:200]",
    XDG_CACHE_HOME=str(tmp_path),
  )
  assert result.returncode == 0, result.stderr
  rows = read_rows(tmp_path / "run")
  assert rows[-1]["train_accuracy"] > 0.3 > rows[0]["train_accuracy"]


@pytest.mark.full
def test_a_sweep_of_all_types_goes_on_where_it_stopped_and_is_reported(
  data_dir, tmp_path
):
  output = tmp_path / "study"
  arguments = (
    "--config=configs/conv_study.py",
    "--vary=model.convolution=plain,grouped",
    *("--seeds=2", "--at_once=2", f"--output={output}"),
    *(f"--config.data.data_dir={data_dir}", "--config.batch_size=50"),
    "--config.num_epochs=2",
    "--config.schedule.warmup_epochs=1",
  )
  program, cache = ("-m", "cifar_flax", "sweep"), str(tmp_path / "cache")
  first = run(program, *arguments, XDG_CACHE_HOME=cache)
  assert first.returncode == 0, first.stderr
  page = (output / "report" / "report.html").read_text()
  for kind in ("plain", "grouped"):
    assert f"<div>convolution=<wbr>{kind}</div>" in page
  lost = output / "convolution=grouped" / "seed1"
  rows = read_rows(lost)
  (lost / "summary.json").unlink()
  again = run(program, *arguments, XDG_CACHE_HOME=cache)
  assert again.returncode == 0, again.stderr
  assert again.stdout.count("already finished") == 3
  assert read_rows(lost) == rows
