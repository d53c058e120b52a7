"""Devices that JAX cannot use are refused in one line, and so is a silent fallback."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
CHECKS = """
import sys
from cifar_flax import command_line
from cifar_flax.run import accelerators
def run(argv):
  accelerators.check()
  print("computes")
sys.exit(command_line.answer(run, []))
"""
COMPUTES = """
import sys
from cifar_flax import command_line
def run(argv):
  import jax
  print(jax.numpy.ones(3) + 1)
sys.exit(command_line.answer(run, []))
"""


def python(*arguments, platforms=None, folder=None):
  environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
  environment["PYTHONPATH"] = f"{folder or ''}{os.pathsep}{ROOT}"
  if platforms is not None:
    environment["JAX_PLATFORMS"] = platforms
  done = subprocess.run(
    [sys.executable, *arguments],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=environment,
  )
  return done.returncode, done.stdout, done.stderr


def module(folder, initialize):
  package = folder / "jax_plugins" / "xla_cuda12"
  package.mkdir(parents=True)
  (package / "__init__.py").write_text(f"def initialize():\n  {initialize}\n")


def distribution(folder, name, entry_points=""):
  info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
  info.mkdir()
  text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
  (info / "METADATA").write_text(text)
  (info / "entry_points.txt").write_text(entry_points)


@pytest.mark.parametrize(
  ("platforms", "words"),
  [
    ("cuda", "finds no such device"),
    ("tpu", "'tpu'"),
    ("gpuu", "not in the list of known backends"),
    ("gpuu", "did you mean 'gpu'?"),
    ("cpu,gpuu", "'gpuu'"),
  ],
)
@pytest.mark.parametrize("program", [CHECKS, COMPUTES])
def test_a_device_that_jax_cannot_use_is_an_error_of_one_line(
  platforms, words, program
):
  code, out, error = python("-c", program, platforms=platforms)
  assert (code, out, error.count("\n")) == (2, "", 1), error
  assert error.startswith(f"error: JAX_PLATFORMS={platforms!r}: JAX cannot use it (")
  assert words in error and "set JAX_PLATFORMS=cpu" in error


PLUGINS = {
  "a plugin that fails": (
    lambda folder: module(folder, "raise RuntimeError('no driver\\nfor it')"),
    "RuntimeError: no driver for it",
  ),
  "a plugin that does nothing": (
    lambda folder: module(folder, "pass"),
    "finds no such device",
  ),
  "jax-cuda13-plugin": (
    lambda folder: distribution(folder, "jax-cuda13-plugin"),
    "finds no such device",
  ),
  "libtpu": (lambda folder: distribution(folder, "libtpu"), "libtpu is installed"),
  "an entry point": (
    lambda folder: distribution(folder, "some", "[jax_plugins]\na = no_such_module\n"),
    "no_such_module",
  ),
}


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_that_jax_does_not_use_is_refused(name, tmp_path):
  install, words = PLUGINS[name]
  install(tmp_path)
  code, out, error = python("-c", CHECKS, folder=tmp_path)
  assert (code, out, error.count("\n")) == (2, "", 1), error
  assert error.startswith("error: JAX uses the CPU although ") and words in error
  assert error.endswith("or set JAX_PLATFORMS=cpu to use the CPU anyway\n")
  for platforms in ("cpu", "cpu,cpu"):
    code, out, error = python("-c", CHECKS, folder=tmp_path, platforms=platforms)
    assert (code, out) == (0, "computes\n")
    assert error.count("\n") <= 1


def test_hiding_all_gpus_asks_for_the_cpu(tmp_path, monkeypatch):
  PLUGINS["libtpu"][0](tmp_path)
  for none in ("", "-1"):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
    code, out, _ = python("-c", CHECKS, folder=tmp_path)
    assert (code, out) == (0, "computes\n")


def test_the_cpu_is_used_where_no_plugin_is_installed():
  assert python("-c", CHECKS) == (0, "computes\n", "")


CONFIG = "configs/quickstart.py"


@pytest.mark.parametrize(
  "command",
  [
    ["-m", "cifar_flax", "train", f"--config={CONFIG}", "--workdir={tmp}/run"],
    ["-m", "cifar_flax", "eval", f"--config={CONFIG}", "--workdir={tmp}/run"],
    ["-m", "cifar_flax", "summary", f"--config={CONFIG}", "--measure"],
    ["-c", f"import cifar_flax as cf; cf.fit({CONFIG!r}, '{{tmp}}/run')"],
  ],
)
def test_what_computes_is_refused(command, tmp_path):
  module(tmp_path, "raise RuntimeError('no driver')")
  command = [part.format(tmp=tmp_path) for part in command]
  code, _, error = python(*command, folder=tmp_path)
  assert "xla_cuda12 is installed" in error and not (tmp_path / "run").exists()
  if "-m" in command:
    assert (code, error.count("\n")) == (2, 1), error


def test_an_error_of_ours_is_not_taken_for_one_of_jax():
  code, _, error = python("-c", COMPUTES.replace("print", "1 / 0, print"))
  assert code == 1 and "ZeroDivisionError" in error
