"""Runs that an earlier version of this project left are still read and resumed.

`fixtures/numerics_1` is a run directory of its time, stopped within its second epoch,
and `expected.json` holds what the unbroken run reached. It was made, once, by

    python tests/run/test_compatibility.py tests/fixtures/numerics_1
"""

import dataclasses
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest

from cifar_flax import config as config_lib
from cifar_flax import ops, train
from cifar_flax.data import datasets
from cifar_flax.errors import Stopped
from cifar_flax.run import checkpoints
from cifar_flax.run.observers import files
from cifar_flax.tools import trained

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "numerics_1"


def split(number, seed):
  """Images with something to learn, a function of `seed` on every machine."""
  index = np.arange(number * 32 * 32 * 3)
  images = (ops.hash_uint32(seed, index) >> np.uint32(24)).astype(np.uint8)
  images, labels = images.reshape(number, 32, 32, 3), np.arange(number) % 10
  images[..., 0] = 25 * labels[:, None, None]
  return datasets.Split(images, labels.astype(np.int32))


def dataset():
  classes = tuple("abcdefghij")
  info = datasets.Info("cifar10", "3.0.2", 0, "made for this fixture", classes)
  return datasets.Dataset(split(72, 0), split(50, 1), info)


def run_config():
  """A small run with everything in its state."""
  config = config_lib.Config(name="numerics_1", num_epochs=3, batch_size=24)
  config.ema_decay = 0.9
  config.steps_per_dispatch = 1
  config.checkpoint.keep = 1
  config.model.name = "uniform"
  config.model.convolution = "depthwise_separable"
  config.model.dropout_rate = 0.1
  config.model.batch_norm_momentum = 0.9
  config.augmentation.flip = True
  config.augmentation.crop_padding = 4
  config.schedule.name = "one_cycle"
  config.schedule.learning_rate = 0.01
  config.schedule.warmup_epochs = 1.0
  return config


class StopAt:
  """A `signals.Watch` that asks to stop after some calls to the devices."""

  def __init__(self, calls):
    self.left = calls

  def defer(self):
    self.left -= 1

  @property
  def signal(self):
    return 15 * (self.left <= 0)


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  monkeypatch.setattr(datasets, "load", lambda config: dataset())
  shutil.copytree(FIXTURE, tmp_path / "run")
  return tmp_path / "run"


def test_an_earlier_run_is_resumed_to_the_end_it_had(workdir):
  config = config_lib.load(str(workdir / "config.json"))
  expected = json.loads((FIXTURE / "expected.json").read_text())
  summary = train.train_and_evaluate(config, workdir, [])
  assert summary["interruptions"] == 1
  (before,) = summary["earlier_parts"]
  assert before["first_step"] == 0 and before["numerics"] == 1
  rows = [json.loads(r) for r in (workdir / "metrics.jsonl").read_text().splitlines()]
  assert rows[0] == expected[0]  # kept as it was, to the byte
  content = checkpoints.restore(workdir / "checkpoints", "last")
  found = json.loads(content["run"])["history"]
  for row, wanted in zip(found, expected, strict=True):
    for key in ("epoch", "step"):
      assert row[key] == wanted[key]
    for key in ("lr", "train_loss", "eval_loss"):  # other processors round otherwise
      assert row[key] == pytest.approx(wanted[key], rel=1e-3)


def test_an_earlier_run_answers_as_it_did(workdir):
  network = trained.Trained(workdir, "last")
  expected = np.load(FIXTURE / "logits.npy")
  found = network.logits(dataset().eval.images[:8])
  assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_an_earlier_config_has_every_key_of_its_time(workdir):
  values = json.loads((workdir / "config.json").read_text())
  config = config_lib.to_dict(config_lib.load(str(workdir / "config.json")))

  def check(was, now):
    for key, value in was.items():
      if isinstance(value, dict):
        check(value, now[key])
      else:
        assert now[key] == value, key

  check(values, config)


def make(folder):
  """Writes the fixture; see the top of this file."""
  datasets.load = lambda config: dataset()
  config, watchers = run_config(), [files.ConfigFile(), files.MetricsFile()]
  whole = folder / "unbroken"
  train.train_and_evaluate(config, whole, watchers)
  rows = (whole / "metrics.jsonl").read_text().splitlines()
  shutil.rmtree(whole)
  try:  # three calls train an epoch and one evaluates it
    watchers = [files.ConfigFile(), files.MetricsFile()]
    train.train_and_evaluate(
      dataclasses.replace(config), folder, watchers, stop=StopAt(6)
    )
  except Stopped:
    pass
  (folder / "checkpoints" / "best.ckpt").unlink()
  (folder / "lock").unlink()
  first = (folder / "metrics.jsonl").read_text().splitlines()[:1]
  found = [json.loads(row) for row in [*first, *rows[1:]]]
  (folder / "expected.json").write_text(json.dumps(found, indent=1) + "\n")
  network = trained.Trained(folder, "last")
  np.save(folder / "logits.npy", network.logits(dataset().eval.images[:8]))


if __name__ == "__main__":
  make(pathlib.Path(sys.argv[1]))
