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
RESULTS = ROOT / "results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/summary.json"))
ALL_FOLDERS = sorted(path.parent for path in RESULTS.rglob("summary.json"))
STUDY = RESULTS / "study"
MEGABYTES = 12  # all of them together
WITHOUT_WEIGHTS = "net6a_dense_tuned"  # 4.7 MB, beyond this limit


def records(folder):
  return [
    json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
  ]


def test_there_are_runs_and_they_are_small():
  assert FOLDERS
  files = [file for file in RESULTS.rglob("*") if file.is_file()]
  assert sum(file.stat().st_size for file in files) < MEGABYTES * 1e6


@pytest.mark.parametrize(
  "folder", ALL_FOLDERS, ids=lambda folder: str(folder.relative_to(RESULTS))
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
  parts = folder.relative_to(RESULTS).parts
  if {"search", "short"} & {*parts} and "on_test" not in parts:  # sees no test image
    assert counts == (45_000, 5_000)
    assert config.data.eval_split in ("train[90%:100%]", "train[45000:]")
  else:
    assert counts == (50_000, 10_000)
    assert (config.data.train_split, config.data.eval_split) == ("train", "test")


def test_no_place_on_a_machine_is_named():
  for file in RESULTS.rglob("*"):
    if file.suffix in (".json", ".jsonl", ".md", ".csv", ".tex"):
      assert not re.search(r"(?<![\w.:])(/|~/)\w+/", file.read_text()), file


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_its_weights_answer(folder):
  if not checkpoints.has_weights_only(folder / "checkpoints"):
    seed = json.loads((folder / "summary.json").read_text())["seed"]
    assert seed > 0 or folder.name == WITHOUT_WEIGHTS
    return
  images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
  probabilities = cf.load(folder.name).predict(images)
  assert probabilities.shape == (4, 10) and np.isfinite(probabilities).all()
  np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def cells_of(table, file=evidence.README):
  """Returns the rows of a table in a Markdown file, without its head."""
  text = (ROOT / file).read_text()
  lines = text.split(evidence.BEGIN.format(table))[1].split(evidence.END)[0]
  rows = lines.strip().splitlines()[2:]
  return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def readme_rows():
  """Returns the cells of README's table of networks by network and recipe."""
  network, found = "", {}
  for name, recipe, *cells in cells_of(evidence.NETWORKS):
    network = name.strip("`") or network
    found[network, recipe] = cells
  return found


def test_readme_states_every_run():
  """Each cell is computed from metrics.jsonl anew."""
  stated = {key: row for key, row in readme_rows().items() if key[1] != "published"}
  runs, devices = collections.defaultdict(list), collections.defaultdict(list)
  for folder in FOLDERS:
    name = json.loads((folder / "config.json").read_text())["name"]
    runs[name].append(records(folder))
    device = json.loads((folder / "summary.json").read_text())["device"]
    devices[name].append("CPU" if " cpu" in device else "GPU")
  assert len(stated) == len(runs)
  speeds = json.loads((RESULTS / "measured.json").read_text())["networks"]
  for name, of_name in runs.items():
    tuned = publications.TUNED.get(name)
    number = len(of_name[0])
    hours = number * 50_000 / np.median(speeds[name]["training"]) / 3600
    expected = [str(number), *outcome(of_name), f"{hours:.1f}"]
    n, where, *others = stated[tuned or name, "tuned" if tuned else "faithful"]
    assert (n, others) == (str(len(of_name)), expected)
    counted = collections.Counter(devices[name])
    assert where == (
      ", ".join(f"{counted[kind]} {kind}" for kind in sorted(counted))
      if len(counted) > 1
      else devices[name][0]
    )


def outcome(runs):
  """Returns the cells with test accuracy, highest training accuracy and gap."""
  test = np.array([100 * epochs[-1]["eval_accuracy"] for epochs in runs])
  train = [100 * max(e["train_accuracy"] for e in epochs) for epochs in runs]
  return [spread(test), spread(train), spread(train - test)]


def spread(values):
  mean = f"{np.mean(values):.2f}"
  return f"{mean} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else mean


def test_readme_says_what_the_tuned_recipe_gains():
  """Means over seeds, with one digit for differences, as in the sentences there."""
  found = collections.defaultdict(list)
  for folder in FOLDERS:
    summary = json.loads((folder / "summary.json").read_text())
    mirrored = summary["flip_eval_accuracy"] or np.nan
    found[summary["name"]].append((summary["final_eval_accuracy"], mirrored))
  mean = {name: 100 * np.mean(values, axis=0) for name, values in found.items()}
  text = " ".join((ROOT / "README.md").read_text().split())
  gain = mean["net6b_tuned"][0] - mean["net6b"][0]
  mirrored = mean["net6b_tuned"][1]
  accuracy, dense = mean["net6a_tuned"][0], mean["net6a_dense_tuned"][0]
  gains = [accuracy - mean[name][0] for name in ("net6a", "net6a_constant")]
  for words in (
    f"gains {gain:.1f} points",
    f"image and its mirror image, it reaches {mirrored:.2f} %",
    f"to {accuracy:.2f} %, {gains[0]:.1f} and {gains[1]:.1f} points above",
    f"`net6a_dense` gains {dense - mean['net6a_dense'][0]:.1f} points",
  ):
    assert words in text, words


def test_readme_states_the_published_figures():
  for (network, recipe), cells in readme_rows().items():
    if recipe == "published":
      known = publications.lookup(network)
      test, train = 100 * known.test_accuracy, 100 * known.max_train_accuracy
      figures = [f"{test:.2f}", f"{train:.2f}", f"{train - test:.2f}"]
      assert cells == ["1", "-", str(known.epochs), *figures, "-"]


def test_a_study_becomes_a_table_for_each_comparison():
  def found(accuracies, **costs):
    known = {"parameters": 1234, "multiply-adds": 56789, **costs}
    return {"accuracies": dict(enumerate(accuracies)), "costs": known}

  plain = found([80.0, 81.0, 82.0], **{"training time per image, µs": 500.0})
  # Seed by seed -3, -2.5 and -3: mean -2.833, deviation 0.289, t(2) = 4.303.
  slots = {"plain": plain, "grouped": found([77.0, 78.5, 79.0])}
  wide = {"plain": plain, "grouped": found([81.0, 82.0, 83.0])}
  made = evidence.types({"comparisons": {"slots": slots, "multiply_adds": wide}})
  cells = {
    name: [[tables.cell_text(cell) for cell in row] for row in table.rows]
    for name, table in made.items()
  }
  base = ["`plain`", "1,234", "56,789", "2,000", "81.00 ± 1.00", "-"]
  grouped = ["`grouped`", "1,234", "56,789", "-"]
  assert cells == {
    "slots": [base, [*grouped, "78.17 ± 1.04", "-2.83 [-3.55, -2.12]"]],
    "multiply_adds": [base, [*grouped, "82.00 ± 1.00", "+1.00 [+1.00, +1.00]"]],
  }


def interval(gaps):
  low, high = stats.t.interval(0.95, len(gaps) - 1, np.mean(gaps), stats.sem(gaps))
  return f"{np.mean(gaps):+.2f} [{low:+.2f}, {high:+.2f}]"


@pytest.mark.parametrize("comparison", ["slots", "multiply_adds"])
def test_readme_states_the_study(comparison):
  """Each accuracy is computed from metrics.jsonl anew."""
  compared = json.loads((STUDY / "study.json").read_text())["comparisons"][comparison]
  speeds = json.loads((STUDY / "measured.json").read_text())["networks"]
  widths = {k: str(of["width"]).removesuffix(".0") for k, of in compared.items()}

  def folders(kind):
    return sorted((STUDY / kind / f"width={widths[kind]}").glob("seed*"))

  def accuracies(kind):
    return np.array([100 * records(f)[-1]["eval_accuracy"] for f in folders(kind)])

  rows = cells_of(comparison)
  assert [row[0] for row in rows] == [f"`{kind}`" for kind in compared]
  for kind, row in zip(compared, rows, strict=True):
    costs = cf.costs(config_lib.load(str(folders(kind)[0] / "config.json")))
    speed = np.median(speeds[f"{kind}, width {widths[kind]}"]["training"])
    gap = accuracies(kind) - accuracies("plain")
    assert row[1:] == [
      f"{costs.parameters:,}",
      f"{costs.multiply_adds:,}",
      f"{speed:,.0f}",
      spread(accuracies(kind)),
      "-" if kind == "plain" else interval(gap),
    ]


def configured(name, **changes):
  """Returns the values of a config file by key, with some of them replaced."""
  return config_lib.flatten(config_lib.load(str(ROOT / f"configs/{name}.py"))) | changes


TUNED = {
  "net6a": configured("net6a_tuned"),
  "net6a_dense": configured("net6a_dense_tuned"),
  "net6b": configured("net6b_tuned"),
}
WITHOUT = {"optimizer.weight_decay": 0.0, "label_smoothing": 0.0}
FIRST = configured("net6b_tuned", **WITHOUT)


@pytest.mark.parametrize(
  ("table", "bases"),
  [("search", {"net6a": FIRST, "net6b": FIRST}), ("short", TUNED)],
)
def test_what_was_tried_is_stated_as_it_was(table, bases):
  """Each row has the outcome of the runs whose configs have the keys that it names."""
  ran = collections.defaultdict(list)
  folders = [file.parent for file in (RESULTS / table).rglob("config.json")]
  if table == "short":  # stands beside the whole runs of the tuned configs
    folders += [folder for folder in FOLDERS if "_tuned" in folder.name]
  for folder in folders:
    config = config_lib.flatten(config_lib.load(str(folder / "config.json")))
    key = tuple(
      f"`{name}={value}`"
      for name, value in config.items()
      if value != bases[config["model.name"]][name]
      and name not in ("seed", "name", "num_epochs", "model.name")
      and not name.startswith(("data.", "checkpoint."))
    )
    network, split = (f"`{config[k]}`" for k in ("model.name", "data.eval_split"))
    where = (network, str(config["num_epochs"]), split)
    ran[(*where, frozenset(key))].append(records(folder))
  stated = {}
  for *where, changed, n, accuracy, train, gap in cells_of(table, evidence.RECIPE):
    keys = [] if changed == "nothing" else changed.split(", ")
    stated[(*where, frozenset(keys))] = [n, accuracy, train, gap]
  expected = {key: [str(len(runs)), *outcome(runs)] for key, runs in ran.items()}
  assert stated == expected


def rows_of(table):
  """Returns accuracy, its text, and gap by network, epochs, split and changed keys."""
  found = {}
  for network, epochs, split, changed, _, accuracy, _, gap in cells_of(
    table, evidence.RECIPE
  ):
    keys = frozenset(re.findall(r"(\w+=[\w.]+)`", changed))
    mean, points = (float(text.split(" ")[0]) for text in (accuracy, gap))
    found[network.strip("`"), int(epochs), split.strip("`"), keys] = (
      mean,
      f"{accuracy} %",
      points,
    )
  return found


def test_recipe_says_what_its_tables_show():
  search, short = rows_of("search"), rows_of("short")
  decay, smoothing = "weight_decay=0.05", "label_smoothing=0.1"
  val = "train[45000:]"

  def tried(network, epochs, split, *keys):
    return search[network, epochs, split, frozenset(keys)]

  first = tried("net6b", 25, val)
  both = tried("net6b", 25, val, decay, smoothing)
  first_6a = tried("net6a", 30, val)
  both_6a = tried("net6a", 30, val, decay, smoothing)
  kept = tried("net6a", 30, val, decay, smoothing, "dropout_rate=0.05")
  test_6b, test_6a = (
    short[network, epochs, "test", frozenset()]
    for network, epochs in (("net6b", 25), ("net6a", 30))
  )
  first_test = tried("net6b", 25, "test")
  first_test_6a = tried("net6a", 30, "test")
  faithful = float(readme_rows()["net6b", "faithful"][3].split(" ")[0])
  published = 100 * publications.lookup("net6a_constant").test_accuracy
  crop = "crop_padding={}".format
  dense = short["net6a_dense", 20, "test", frozenset({crop(2)})]
  dense_val = [
    short["net6a_dense", epochs, val, frozenset({crop(2)})] for epochs in (20, 12)
  ]
  doubled = short["net6a_dense", 12, val, frozenset({crop(2), "learning_rate=0.004"})]
  shortest = short["net6a", 12, val, frozenset({crop(3), "dropout_rate=0.0"})]
  shorter = short["net6b", 20, val, frozenset()]
  weaker = short["net6a", 20, "test", frozenset({crop(3), "dropout_rate=0.0"})]
  text = " ".join((ROOT / evidence.RECIPE).read_text().split())
  for words in (
    f"gains {test_6b[0] - faithful:.1f} points on the faithful `net6b`",
    f"no label smoothing and gained {first_test[0] - faithful:.1f}",
    f"weight decay gains {tried('net6b', 25, val, decay)[0] - first[0]:.1f} points",
    f"Both together gain {both[0] - first[0]:.1f} points",
    f"they reach {test_6b[1]}",
    f"the first recipe reached {first_test[1]} (three",
    f"The two changes gain {both_6a[0] - first_6a[0]:.1f} points here",
    f"known to be {first_test_6a[2]:.1f} on the test images",
    f"takes it from {both_6a[2]:.1f} to {kept[2]:.1f} points, for"
    f" {both_6a[0] - kept[0]:.1f} points of accuracy",
    f"that reaches {test_6a[1]} with a gap of {test_6a[2]:.1f}",
    f"the first recipe reached {first_test_6a[1]} (one",
    f"and a weaker crop as well: {dense[1]}, one run",
    f"it gets {dense_val[1][1]} on `train[45000:]`,"
    f" {dense_val[0][0] - dense_val[1][0]:.1f} points less than with 20,"
    f" and {doubled[1]} at twice the learning rate",
    f"With 12 epochs of that recipe one run gets {shortest[1]} on `{val}`",
    f"one run gets {shorter[1]} on `{val}`,"
    f" {both[0] - shorter[0]:.1f} points less than three with 25",
    f"it ends {published - weaker[0]:.1f} points below (one run)",
  ):
    assert words in text, words


def test_the_shortest_schedule_that_reaches_the_published_accuracy_is_stated():
  """Of all tuned runs on the test images, by length, the first that is as accurate."""
  tuned = {network: name for name, network in publications.TUNED.items()}
  speeds = json.loads((RESULTS / "measured.json").read_text())["networks"]
  whole = collections.defaultdict(list)
  for file in [
    *(RESULTS / "short").rglob("config.json"),
    *RESULTS.glob("*/config.json"),
  ]:
    config = config_lib.flatten(config_lib.load(str(file)))
    if (config["data.train_split"], config["data.eval_split"]) == ("train", "test"):
      recipe = tuple(value for key, value in config.items() if key != "seed")
      last = records(file.parent)[-1]
      key = config["name"], config["num_epochs"], recipe
      whole[key].append(100 * last["eval_accuracy"])
  rows = {network.strip("`"): cells for network, *cells in cells_of(evidence.REACHED)}
  assert list(rows) == ["net6a_dense", "net6a_constant", "net6b"]
  for network, (published, length, *ours) in rows.items():
    known, name = publications.lookup(network), tuned[network]
    assert published == f"{100 * known.test_accuracy:.2f}"
    assert length == str(known.epochs)
    passed = [
      (epochs, -np.mean(of), of)
      for (config, epochs, _), of in whole.items()
      if config == name and np.mean(of) >= 100 * known.test_accuracy
    ]
    if not passed:
      assert ours == ["-", "-", "-"]
      continue
    epochs, _, accuracies = min(passed)
    minutes = epochs * 50_000 / np.median(speeds[name]["training"]) / 60
    assert ours == [str(epochs), spread(accuracies), f"{minutes:.0f}"]


def test_the_command_that_made_the_tables_makes_them_again(tmp_path):
  for name in ("results", "docs", "configs"):
    shutil.copytree(ROOT / name, tmp_path / name)
  shutil.copy(ROOT / "README.md", tmp_path)
  for file, names in evidence.made(ROOT).items():
    text = (ROOT / file).read_text()
    for name in names:
      text = evidence.replace(text, name, ["nothing"])
    assert text.count("nothing") >= len(names)
    (tmp_path / file).write_text(text)
  evidence.write(tmp_path)
  for file in evidence.made(ROOT):
    assert (tmp_path / file).read_text() == (ROOT / file).read_text()
