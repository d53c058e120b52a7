"""Measured costs: memory beside a count by hand, speed beside a clock."""

import time

import jax
import numpy as np
import pytest

from cifar_flax import config as config_lib
from cifar_flax import registry
from cifar_flax.tools import measurement, summary


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  monkeypatch.setitem(registry.NETWORKS, "tiny", "tiny:Tiny")
  monkeypatch.setattr(measurement, "SECONDS_PER_WINDOW", 0.05)


def make_config(**assignments):
  values = {"model.name": "tiny", "batch_size": "64", "eval_batch_size": "64"}
  values |= {name.replace("__", "."): str(v) for name, v in assignments.items()}
  return config_lib.override(config_lib.Config(), values)


def test_peak_memory_is_that_of_arguments_results_and_temporaries(monkeypatch):
  """A function whose memory is known: x [n] -> outer(x, x) summed after a sort."""
  n = 1000
  function = jax.jit(lambda x: jax.numpy.sort(jax.numpy.outer(x, x), axis=0)[0])
  memory = function.lower(np.zeros(n, np.float32)).compile().memory_analysis()
  found = measurement._peak_bytes(memory)
  least = 4 * (n + n + n * n)  # argument, result, the matrix that is sorted
  assert least <= found <= 3 * least


def test_a_larger_batch_needs_more_memory_and_a_larger_state_too():
  configs = {
    "base": make_config(),
    "batch": make_config(batch_size=256),
    "sgd": make_config(optimizer__name="sgd"),
  }
  found = measurement.measure(configs, 10, windows=1)
  peaks = {name: costs.peak_bytes for name, costs in found.items()}
  assert peaks["batch"] > 2 * peaks["base"]
  parameters = 4 * summary_parameters()
  # SGD keeps one average per parameter, Adam two; the state is on every device.
  assert peaks["base"] - peaks["sgd"] == pytest.approx(parameters, rel=0.5)


def summary_parameters():
  from cifar_flax.tools import structure

  return summary.totals(structure.layers(make_config().model))["trainable"]


def test_speeds_are_images_by_seconds_one_per_window(monkeypatch):
  calls = []
  timer = measurement._Timer(lambda: calls.append(time.sleep(0.01)), images=5)
  before = len(calls)
  speed = timer.images_per_second()
  assert 350 < speed <= 500  # 5 images in a little more than 0.01 s
  assert len(calls) - before == pytest.approx(5, abs=1)  # a window of 0.05 s
  found = measurement.measure({"a": make_config()}, 10, windows=3)["a"]
  assert len(found.training) == len(found.inference) == 3
  assert all(speed > 0 for speed in found.training + found.inference)


def test_summary_prints_what_was_measured(capsys):
  line = summary.measured_line(make_config(), 10)
  assert "a training step of 64 images takes" in line and "MiB at its peak" in line
  assert "load" in line and line.count("images/s") == 2
