"""The published runs in `results/`: complete, of one piece, and as README states."""

import json
import pathlib
import re

import numpy as np
import pytest

import cifar_flax as cf
from cifar_flax import config as config_lib
from cifar_flax import published as publications
from cifar_flax.run import checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = sorted(path.parent for path in ROOT.glob("results/*/summary.json"))
MEGABYTES = 12  # all of them together


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request):
  return request.param


def records(folder):
  return [
    json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
  ]


def test_there_are_runs_and_they_are_small():
  assert FOLDERS
  files = [file for file in (ROOT / "results").rglob("*") if file.is_file()]
  assert sum(file.stat().st_size for file in files) < MEGABYTES * 1e6


def test_config_metrics_and_summary_are_of_one_finished_run(folder):
  config = config_lib.load(str(folder / "config.json"))
  summary = json.loads((folder / "summary.json").read_text())
  epochs = records(folder)
  assert [epoch["epoch"] for epoch in epochs] == [*range(1, config.num_epochs + 1)]
  accuracies = [epoch["eval_accuracy"] for epoch in epochs]
  known = [accuracy for accuracy in accuracies if accuracy is not None]
  assert summary["final_eval_accuracy"] == accuracies[-1]
  assert summary["best_eval_accuracy"] == max(known)
  assert summary["max_train_accuracy"] == max(e["train_accuracy"] for e in epochs)
  assert summary["seconds"] == pytest.approx(sum(e["seconds"] for e in epochs))
  assert (summary["seed"], summary["num_epochs"]) == (config.seed, config.num_epochs)
  assert (config.data.train_split, config.data.eval_split) == ("train", "test")
  counts = (summary["data"]["train_examples"], summary["data"]["eval_examples"])
  assert counts == (50_000, 10_000) and summary["data"]["name"] == "cifar10"


def test_no_place_on_a_machine_is_named(folder):
  for file in folder.glob("*.json*"):
    assert not re.search(r"(?<![\w.:])(/|~/)\w+/", file.read_text()), file


def test_its_weights_answer(folder):
  if not checkpoints.has_weights_only(folder / "checkpoints"):
    assert json.loads((folder / "summary.json").read_text())["seed"] > 0
    return
  images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
  probabilities = cf.load(folder.name).predict(images)
  assert probabilities.shape == (4, 10) and np.isfinite(probabilities).all()
  np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_readme_states_the_figures_of_published_networks():
  """Each cell of the row in README is computed from metrics.jsonl anew."""
  text = (ROOT / "README.md").read_text()
  rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| (.*) \|$", text, re.MULTILINE)
  stated = {name: (published, *rest.split(" | ")) for name, published, rest in rows}
  assert stated.keys() == {folder.name for folder in FOLDERS}
  for folder in FOLDERS:
    epochs = records(folder)
    test = 100 * epochs[-1]["eval_accuracy"]
    train = 100 * max(epoch["train_accuracy"] for epoch in epochs)
    published, ours, difference, trained, gap, number = stated[folder.name]
    assert ours == f"{test:.2f}"
    assert difference == f"{test - float(published):+.2f}"
    assert trained == f"{train:.2f}" and gap == f"{train - test:.2f}"
    assert int(number) == len(epochs)
    known = publications.lookup(folder.name)
    assert known and published == f"{100 * known.test_accuracy:.2f}"
