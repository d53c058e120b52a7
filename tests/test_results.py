"""The published runs in `results/`: complete, of one piece, and as README states."""

import collections
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from scipy import stats

import cifar_flax as cf
from cifar_flax import config as config_lib
from cifar_flax import published as publications
from cifar_flax import tables
from cifar_flax.run import checkpoints
from cifar_flax.tools import evidence

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = sorted(path.parent for path in ROOT.glob("results/*/summary.json"))
STUDY = ROOT / "results" / "study"
OF_STUDY = sorted(path.parent for path in STUDY.rglob("summary.json"))
MEGABYTES = 12  # all of them together


def records(folder):
  return [
    json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
  ]


def test_there_are_runs_and_they_are_small():
  assert FOLDERS
  files = [file for file in (ROOT / "results").rglob("*") if file.is_file()]
  assert sum(file.stat().st_size for file in files) < MEGABYTES * 1e6


@pytest.mark.parametrize(
  "folder", FOLDERS + OF_STUDY, ids=lambda f: str(f.relative_to(ROOT / "results"))
)
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
  assert summary["data"]["name"] == "cifar10"
  counts = (summary["data"]["train_examples"], summary["data"]["eval_examples"])
  if "search" in folder.parts:  # of a learning rate, which never sees a test image
    assert counts == (45_000, 5_000) and config.data.eval_split == "train[90%:100%]"
  else:
    assert counts == (50_000, 10_000)
    assert (config.data.train_split, config.data.eval_split) == ("train", "test")


def test_no_place_on_a_machine_is_named():
  for file in (ROOT / "results").rglob("*.json*"):
    assert not re.search(r"(?<![\w.:])(/|~/)\w+/", file.read_text()), file


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_its_weights_answer(folder):
  if not checkpoints.has_weights_only(folder / "checkpoints"):
    assert json.loads((folder / "summary.json").read_text())["seed"] > 0
    return
  images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
  probabilities = cf.load(folder.name).predict(images)
  assert probabilities.shape == (4, 10) and np.isfinite(probabilities).all()
  np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def cells_of_readme(table):
  """Returns the rows of one of README's tables, without its head."""
  text = (ROOT / "README.md").read_text()
  lines = text.split(evidence.BEGIN.format(table))[1].split(evidence.END)[0]
  rows = lines.strip().splitlines()[2:]
  return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def readme_rows():
  """Returns the cells of README's table of networks by network and recipe."""
  network, found = "", {}
  for name, recipe, *cells in cells_of_readme(evidence.NETWORKS):
    network = name.strip("`") or network
    found[network, recipe] = cells
  return found


def test_readme_states_every_run():
  """Each cell is computed from metrics.jsonl anew."""
  stated = {key: row for key, row in readme_rows().items() if key[1] != "published"}
  runs = collections.defaultdict(list)
  for folder in FOLDERS:
    config = json.loads((folder / "config.json").read_text())
    name = config["name"]
    tuned = publications.TUNED.get(name)
    runs[tuned or name, "tuned" if tuned else "faithful"].append(records(folder))
  assert stated.keys() == runs.keys()
  for key, of_key in runs.items():
    test = np.array([100 * epochs[-1]["eval_accuracy"] for epochs in of_key])
    train = [100 * max(e["train_accuracy"] for e in epochs) for epochs in of_key]
    speed = max(e["images_per_second"] for epochs in of_key for e in epochs)
    number = len(of_key[0])
    assert stated[key] == [
      str(len(of_key)),
      str(number),
      spread(test),
      spread(train),
      spread(train - test),
      f"{number * 50_000 / speed / 3600:.1f}",
    ]


def spread(values):
  mean = f"{np.mean(values):.2f}"
  return f"{mean} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else mean


def test_readme_states_the_published_figures():
  for (network, recipe), cells in readme_rows().items():
    if recipe == "published" and cells[0] != "-":
      known = publications.lookup(network)
      test, train = 100 * known.test_accuracy, 100 * known.max_train_accuracy
      figures = [f"{test:.2f}", f"{train:.2f}", f"{train - test:.2f}"]
      assert cells == ["1", str(known.epochs), *figures, "-"]


def test_a_study_becomes_a_row_for_each_type():
  def found(accuracies, **costs):
    known = {"parameters": 1234, "multiply-adds": 56789, **costs}
    return {"accuracies": dict(enumerate(accuracies)), "costs": known}

  plain = found([80.0, 81.0, 82.0], **{"training time per image, µs": 500.0})
  # Seed by seed -3, -2.5 and -3: mean -2.833, deviation 0.289, t(2) = 4.303.
  slots = {"plain": plain, "grouped": found([77.0, 78.5, 79.0])}
  wide = {"plain": plain, "grouped": found([81.0, 82.0, 83.0])}
  made = evidence.types({"comparisons": {"slots": slots, "multiply_adds": wide}})
  rows = [[tables.cell_text(cell) for cell in row] for row in made.rows]
  plainly = ["81.00 ± 1.00", "-"]
  assert rows == [
    ["`plain`", "1,234", "56,789", "2,000", *plainly, *plainly],
    ["`grouped`", "1,234", "56,789", "-", "78.17 ± 1.04", "-2.83 [-3.55, -2.12]"]
    + ["82.00 ± 1.00", "+1.00 [+1.00, +1.00]"],
  ]


def interval(gaps):
  low, high = stats.t.interval(0.95, len(gaps) - 1, np.mean(gaps), stats.sem(gaps))
  return f"{np.mean(gaps):+.2f} [{low:+.2f}, {high:+.2f}]"


@pytest.mark.skipif(not OF_STUDY, reason="no study is published")
def test_readme_states_the_study():
  """Each accuracy is computed from metrics.jsonl anew."""
  compared = json.loads((STUDY / "study.json").read_text())["comparisons"]
  speeds = json.loads((STUDY / "measured.json").read_text())["networks"]

  def accuracies(comparison, kind):
    width = str(compared[comparison][kind]["width"]).removesuffix(".0")
    runs = sorted((STUDY / kind / f"width={width}").glob("seed*"))
    return np.array([100 * records(run)[-1]["eval_accuracy"] for run in runs])

  rows = cells_of_readme(evidence.TYPES)
  assert [row[0] for row in rows] == [f"`{kind}`" for kind in compared["slots"]]
  for kind, row in zip(compared["slots"], rows, strict=True):
    config = config_lib.load(str(STUDY / kind / "width=1" / "seed0" / "config.json"))
    costs = cf.costs(config)
    speed = np.median(speeds[f"{kind}, width 1"]["training"])
    expected = [f"{costs.parameters:,}", f"{costs.multiply_adds:,}", f"{speed:,.0f}"]
    for comparison in compared:
      of_kind = accuracies(comparison, kind)
      gap = of_kind - accuracies(comparison, "plain")
      expected += [spread(of_kind), "-" if kind == "plain" else interval(gap)]
    assert row[1:] == expected


def test_the_command_that_made_the_tables_makes_them_again(tmp_path):
  for name in ("results", "docs"):
    shutil.copytree(ROOT / name, tmp_path / name)
  text = (ROOT / "README.md").read_text()
  emptied = evidence.replace(text, evidence.NETWORKS, ["nothing"])
  if OF_STUDY:
    emptied = evidence.replace(emptied, evidence.TYPES, ["nothing"])
  (tmp_path / "README.md").write_text(emptied)
  evidence.write(tmp_path)
  assert (tmp_path / "README.md").read_text() == text
