"""Reports: metrics by hand, figures, Markdown and HTML."""

import base64
import csv
import dataclasses
import json
import pathlib
import re
import shutil
import types
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from cifar_flax import __main__ as commands
from cifar_flax import config as config_lib
from cifar_flax import train
from cifar_flax.data import datasets
from cifar_flax.errors import UserError
from cifar_flax.tables import cell_text
from cifar_flax.tools import finished, plots, predictions, report

CLASSES = ("ant", "bee", "cow")


def split(n, seed):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 3, n).astype(np.int32)
  images = rng.integers(0, 100, (n, 32, 32, 3))
  images[..., 1] += 60 * labels[:, None, None]
  return datasets.Split(images.astype(np.uint8), labels)


DATASET = datasets.Dataset(
  split(64, 0), split(50, 1), datasets.Info("cifar10", "1", 0, "print", CLASSES)
)


# Of `summary.json`, what grouping reads.
FACTS = {"parameters": 9} | {
  "data": {
    "name": "cifar10",
    "fingerprint": "print",
    "train_split": "train",
    "eval_split": "test",
    "train_examples": 64,
    "eval_examples": 50,
  },
  "numerics": 1,
}


@pytest.fixture(autouse=True)
def data(monkeypatch):
  monkeypatch.setattr(datasets, "load", lambda config: DATASET)
  predictions._evaluation_data.cache_clear()


def with_data(run, **changes):
  """Returns a run that read other data."""
  facts = {**run.facts, "data": {**run.facts["data"], **changes}}
  return dataclasses.replace(run, facts=facts)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Trains two seeds of one config and one seed of another."""
  made = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(datasets, "load", lambda config: DATASET)
    for name, kind, seed in (("p", "plain", 0), ("g", "grouped", 0), ("p", "plain", 1)):
      values = {"name": name, "model.name": "uniform", "model.convolution": kind}
      values |= {"seed": str(seed), "batch_size": "16", "num_epochs": "2"}
      values |= {"eval_batch_size": "50", "model.batch_norm_momentum": "0.5"}
      config = config_lib.override(config_lib.Config(), values)
      made.append(tmp_path_factory.mktemp("runs") / f"{name}{seed}")
      train.train_and_evaluate(config, made[-1])
  return made


def shown_row(group, groups):
  return {name: cell_text(cell) for name, cell in report.row(group, groups).items()}


def read(workdir):
  return [json.loads(s) for s in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_seeds_are_one_row_with_the_mean_and_deviation_of_the_runs(folders):
  found, _ = finished.group([finished.load(folder) for folder in folders])
  assert [[run.workdir.name for run in same] for same in found] == [
    ["p0", "p1"],
    ["g0"],
  ]
  plain, grouped = (finished.Group(same) for same in found)
  last = [read(folder)[-1] for folder in (folders[0], folders[2])]
  tests = [100 * row["eval_accuracy"] for row in last]
  highest = [max(r["train_accuracy"] for r in read(folders[i])) for i in (0, 2)]
  gaps = [100 * (t - r["eval_accuracy"]) for t, r in zip(highest, last, strict=True)]
  cells = shown_row(plain, [plain, grouped])
  assert cells["config"] == "p" and cells["n"] == "2" and cells["epochs"] == "2"
  mean, deviation = np.mean(tests), np.std(tests, ddof=1)
  assert cells["accuracy on test, %"] == f"{mean:.2f} ± {deviation:.2f}"
  assert cells["gap, points"] == f"{np.mean(gaps):.2f} ± {np.std(gaps, ddof=1):.2f}"
  speed = np.mean([row["images_per_second"] for row in last])  # after the first
  assert float(cells["images/s"].split(" ±")[0].replace(",", "")) == pytest.approx(
    speed, abs=0.51
  )
  assert cells["published"] == "-"
  assert "±" not in shown_row(grouped, [grouped])["accuracy on test, %"]
  # 3*3*16*32 + 3*3*32*32 and so on: grouped have a quarter of plain's kernels.
  assert plain.parameters > 3 * grouped.parameters


def test_groups_are_named_by_what_differs(folders):
  def runs_of(*changes):
    return [
      [
        finished.FinishedRun(
          pathlib.Path("x"), config_lib.override(config_lib.Config(), c), [], FACTS
        )
      ]
      for c in changes
    ]

  a, b = {"name": "a", "seed": "1"}, {"name": "b", "batch_size": "64"}
  assert finished.labels(runs_of(a)) == ["a"]
  assert finished.labels(runs_of(a, b)) == ["a", "b"]
  kinds = [{"name": "a", "model.convolution": k} for k in ("plain", "grouped")]
  words = [f"convolution={kind}" for kind in ("plain", "grouped")]
  assert finished.labels(runs_of(*kinds)) == words
  assert finished.labels(runs_of(*kinds, b)) == [*(f"a, {w}" for w in words), "b"]
  rates = [{"name": "a", "schedule.learning_rate": rate} for rate in ("0.003", "0.1")]
  assert finished.labels(runs_of(*rates))[0] == "learning_rate=0.003"
  flips = [{"name": "a", "augmentation.flip": flip} for flip in ("True", "False")]
  assert finished.labels(runs_of(*flips)) == ["flip=True", "flip=False"]
  optimizers = [{"name": "a", "optimizer.name": o} for o in ("adam", "sgd")]
  assert finished.labels(runs_of(*optimizers))[1] == "optimizer.name=sgd"
  both = [{**kind, "batch_size": str(n)} for kind in kinds for n in (1, 2)]
  assert finished.labels(runs_of(*both))[3] == "batch_size=2, convolution=grouped"
  # Keys that do not affect the result do not separate groups.
  free = {**a, "seed": "2", "eval_every": "7", "data.data_dir": "/elsewhere"}
  (group,), _ = finished.group([same[0] for same in runs_of(a, free)])
  assert [run.config.seed for run in group] == [1, 2]


def test_predictions_are_counted_by_class(folders):
  group = finished.Group([finished.load(folders[0])])
  found = group.predictions
  matrix = predictions.confusion(found)
  assert matrix.sum() == 50
  np.testing.assert_array_equal(matrix.sum(1), np.bincount(DATASET.eval.labels))
  accuracy = read(folders[0])[-1]["eval_accuracy"]
  assert np.trace(matrix) == round(50 * accuracy)
  for label, line in enumerate(predictions.class_table(found, "", "").rows):
    accuracy = 100 * matrix[label, label] / matrix[label].sum()
    assert list(map(cell_text, line[:3])) == [
      CLASSES[label],
      str(matrix[label].sum()),
      f"{accuracy:.1f}",
    ]
  wrong = predictions.mistakes(found, 100)
  assert len(wrong) == 50 - np.trace(matrix)
  assert (np.diff(found.confidence[wrong]) <= 0).all()
  assert all(found.predicted[i] != DATASET.eval.labels[i] for i in wrong)


def test_a_published_network_is_compared_with_its_published_result(folders):
  run = finished.load(folders[0])
  run.config.name = "net6b"
  run = with_data(run, train_examples=50_000, eval_examples=10_000)
  group = finished.Group([run])
  cells = shown_row(group, [group])
  assert cells["published"] == "64.40"  # after two epochs
  assert finished.Group([run], "net6b, sgd").published is None  # another recipe
  figure = plots.curves([group])["accuracy"]
  (line,) = [line for line in figure.axes[0].get_lines() if line.get_gid()]
  texts = [text.get_text() for text in figure.legends[0].get_texts()]
  assert texts == ["net6b", "net6b, published"]
  np.testing.assert_allclose(np.round(line.get_ydata()[1], 2), 64.40)


@pytest.fixture(scope="module")
def groups(folders):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(datasets, "load", lambda config: DATASET)
    grouped, _ = finished.group([finished.load(folder) for folder in folders])
    return [finished.Group(same) for same in grouped]


def history(folders, name):
  """Returns a metric of the runs, `[runs, epochs]`."""
  return np.array([[row[name] for row in read(folder)] for folder in folders])


@pytest.fixture
def uncertain(groups):
  """Predictions that are often wrong, with random probabilities."""
  probabilities = np.random.default_rng(0).dirichlet((1, 1, 1), 50)
  return dataclasses.replace(
    groups[0].predictions,
    predicted=probabilities.argmax(-1),
    confidence=probabilities.max(-1),
  )


def test_curves_are_the_means_over_the_seeds(folders, groups):
  both = (folders[0], folders[2])
  test, train = (100 * history(both, f"{s}_accuracy") for s in ("eval", "train"))
  losses = [history(both, f"{s}_loss") for s in ("eval", "train")]
  gap = np.maximum.accumulate(train, 1) - test
  drawn = {"accuracy": [train, test], "loss": losses[::-1], "gap": [gap]}
  for name, figure in plots.curves(groups).items():
    assert figure.legends[0].get_texts()[0].get_text() == "p"
    lines = figure.axes[0].get_lines()
    for line, values in zip(lines, drawn.pop(name), strict=False):
      np.testing.assert_array_equal(line.get_xdata(), [1, 2])
      np.testing.assert_allclose(line.get_ydata(), values.mean(0))
  assert not drawn
  assert np.abs(test - train).max() > 0


def test_an_entry_has_the_accuracies_by_seed_and_the_costs(folders, groups):
  plain, grouped = (group.entry() for group in groups)
  last = {seed: read(folders[i])[-1] for seed, i in ((0, 0), (1, 2))}
  assert plain.name == "p" and plain.group == ""
  assert plain.accuracies == pytest.approx(
    {seed: 100 * row["eval_accuracy"] for seed, row in last.items()}
  )
  assert list(grouped.accuracies) == [0]
  speed = np.mean([row["images_per_second"] for row in last.values()])
  summaries = [json.loads((folders[i] / "summary.json").read_text()) for i in (0, 2)]
  assert plain.costs == {
    "parameters": summaries[0]["parameters"],
    "multiply-adds": groups[0].multiply_adds,
    "training time per image, µs": pytest.approx(1e6 / speed),
  }
  assert 3 * grouped.costs["multiply-adds"] < plain.costs["multiply-adds"]


def changed(group, epochs, **data):
  """Returns a group with one run, of this many epochs and on these data."""
  run = group.runs[0]
  facts = {**run.facts, "data": {**run.facts["data"], **data}}
  runs = [dataclasses.replace(run, rows=run.rows[:1] * epochs, facts=facts)]
  return types.SimpleNamespace(runs=runs)


def test_the_budget_names_data_epochs_and_n_or_their_ranges(groups):
  assert finished.budget(groups[:1]) == "cifar10, 64 training images, 2 epochs, n = 2"
  assert finished.budget(groups) == "cifar10, 64 training images, 2 epochs, n = 1 to 2"
  other = changed(groups[0], 1, name="shapes10", train_examples=10_000)
  assert finished.budget([other]) == (
    "shapes10, 10,000 training images, 1 epoch, n = 1"
  )
  assert finished.budget([groups[0], other]) == (
    "cifar10, shapes10, 64 to 10,000 training images, 1 to 2 epochs, n = 1 to 2"
  )


def test_the_report_says_what_the_front_joins_or_that_there_is_none(
  groups, monkeypatch
):
  (section,) = report._costs(groups)
  *pictures, text = section.parts
  assert section.title == "Costs"
  assert [picture.name for picture in pictures] == ["cost_0", "cost_1", "cost_2"]
  assert "No Pareto front is drawn: no two configs have 3 seeds in common." in text
  same = {seed: 50.0 + seed for seed in range(3)}
  for group in groups:
    entry = dataclasses.replace(group.entry(), accuracies=same)
    monkeypatch.setattr(group, "entry", lambda entry=entry: entry)
  text = report._costs(groups)[0].parts[-1]
  assert "No Pareto front" not in text and "the 95 % interval" in text


def test_confusion_has_true_classes_in_rows(uncertain):
  predicted = uncertain.predicted
  axes = plots.confusion(uncertain).axes[0]
  shown = {text.get_position(): float(text.get_text()) for text in axes.texts}
  for row in range(3):
    own = predicted[DATASET.eval.labels == row]
    for column in range(3):
      share = 100 * (own == column).mean()
      assert shown.get((column, row), 0) == pytest.approx(share, abs=0.51)
  assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


def test_mistakes_show_image_true_and_predicted_class(uncertain):
  panels = [axes for axes in plots.mistakes(uncertain).axes if axes.images]
  assert len(panels) == 16
  for axes in panels:
    pixels = axes.images[0].get_array()
    (image,) = np.flatnonzero((DATASET.eval.images == pixels).all((1, 2, 3)))
    true, predicted = axes.get_title().splitlines()
    likeliest = int(uncertain.predicted[image])
    assert true == CLASSES[DATASET.eval.labels[image]] != CLASSES[likeliest]
    share = uncertain.confidence[image]
    assert predicted == f"{CLASSES[likeliest]} {share:.0%}"


def test_seconds_are_those_of_all_epochs(folders, groups):
  seconds = history((folders[0], folders[2]), "seconds").sum(1)
  assert groups[0].values("seconds") == pytest.approx(list(seconds))


@pytest.fixture(scope="module")
def written(folders, tmp_path_factory):
  output = tmp_path_factory.mktemp("report") / "new"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(datasets, "load", lambda config: DATASET)
    code = commands.main(["report", *map(str, folders), "--output", str(output)])
  assert code == 0
  return output


def test_markdown_has_tables_and_pictures_that_are_there(written):
  text = (written / "report.md").read_text()
  assert text.count("| config | n | accuracy on test, % |") == 1
  assert "\n| p | 2 | " in text and "\n| g | 1 | " in text
  pictures = re.findall(r"\]\(pictures/(\w+)\.png\)", text)
  assert {f"cost_{i}" for i in range(3)} <= set(pictures)
  assert {"curves_gap", "confusion_0", "confusion_1"} <= set(pictures)
  for name in pictures:
    with Image.open(written / "pictures" / f"{name}.png") as picture:
      assert min(picture.size) > 100
    root = ElementTree.parse(written / "pictures" / f"{name}.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_the_page_embeds_the_pictures(written):
  text = (written / "report.html").read_text()
  data = re.findall(r'<img [^>]*src="data:image/svg\+xml;base64,(.*?)"', text)
  pictures = [file.read_bytes() for file in (written / "pictures").glob("*.svg")]
  assert sorted(base64.b64decode(each) for each in data) == sorted(pictures)
  assert len(data) == len(pictures) == text.count("<img")
  assert not re.findall(r'(?:src|href)="(?!data:)', text) and "<script" not in text


def test_the_page_says_on_top_how_it_was_made_and_what_differs(written):
  text = (written / "report.html").read_text()
  top = text[text.index("<dl>") : text.index("</dl>")]
  facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", top))
  assert {"date", "command", "commit", "trained on", "data"} <= set(facts)
  assert facts["settings that differ"] == "model.convolution: plain, grouped"
  assert facts["data"].startswith("cifar10 1, trained on train (64 images)")
  assert re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d ", facts["date"])


def test_tables_are_written_for_other_programs(folders, written):
  expected = [100 * read(folders[i])[-1]["eval_accuracy"] for i in (0, 2)]
  with open(written / "tables" / "runs.csv", newline="") as file:
    plain, grouped = csv.DictReader(file)
  assert float(plain["accuracy on test, %"]) == pytest.approx(np.mean(expected))
  assert float(plain["accuracy on test, %, std"]) == pytest.approx(
    np.std(expected, ddof=1)
  )
  assert grouped["accuracy on test, %, std"] == "" and plain["n"] == "2"
  content = json.loads((written / "tables" / "runs.json").read_text())
  assert content["rows"][0]["accuracy on test, %"] == pytest.approx(np.mean(expected))
  (row,) = [
    line
    for line in (written / "tables" / "runs.tex").read_text().splitlines()
    if line.startswith("p & $2$ &")
  ]
  mean, deviation = np.mean(expected), np.std(expected, ddof=1)
  assert rf"{mean:.2f}" in row and rf" \pm {deviation:.2f}$" in row


def test_runs_that_cannot_be_compared_are_refused(
  folders, tmp_path, monkeypatch, capsys
):
  with pytest.raises(UserError, match="it is not finished"):
    finished.load(tmp_path)
  info = datasets.Info("cifar10", "1", 0, "another", CLASSES)
  other = datasets.Dataset(DATASET.train, DATASET.eval, info)
  monkeypatch.setattr(datasets, "load", lambda config: other)
  predictions._evaluation_data.cache_clear()
  group = finished.Group([finished.load(folders[0])])
  assert group.predictions is None
  assert "evaluated on other data" in group.trouble[0]
  for argv, words in (
    ([], "no RUN is given"),
    (["x"], "x: left out: does not exist"),
    ([str(tmp_path), f"--output={tmp_path}"], "no finished run"),
    (["none", "--output=x"], "none: left out: does not exist"),
    (["x", "--output=x", "--checkpoint=first"], "--checkpoint='first'"),
  ):
    assert commands.main(["report", *argv]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def copied(source, target, **facts):
  """Copies a run and changes its `summary.json`; a key of `data` changes that."""
  shutil.copytree(source, target)
  summary = json.loads((target / "summary.json").read_text())
  for name, value in facts.items():
    (summary["data"] if name in summary["data"] else summary)[name] = value
  (target / "summary.json").write_text(json.dumps(summary))
  return target


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"fingerprint": "another"}, ["fingerprint=print", "fingerprint=another"]),
    ({"numerics": 0}, ["numerics=1", "numerics=0"]),
    ({"train_examples": 63}, ["train_examples=64", "train_examples=63"]),
  ],
)
def test_a_row_never_mixes_data_or_numerics(folders, tmp_path, changes, words):
  other = copied(folders[2], tmp_path / "p1", **changes)
  runs = [finished.load(folder) for folder in (folders[0], other)]
  grouped, _ = finished.group(runs)
  assert [len(same) for same in grouped] == [1, 1]
  assert finished.labels(grouped) == words
  groups = [finished.Group(same) for same in grouped]
  table = report.table(groups)
  head, rows = table.columns, table.rows
  if "train_examples" in changes:  # evaluated on the same images
    assert "accuracy on test, %" in head and "evaluated on" not in head
    assert report._costs(groups)
    assert table.marked()
  else:
    cells = [row[head.index("evaluated on")] for row in rows]
    assert len(set(cells)) == 2 and cells[0].startswith("test of cifar10 (50 images")
    assert not report._costs(groups)
    assert "comparable only between rows" in " ".join(table.notes)
    assert "accuracy, %" not in {head[column] for _, column in table.marked()}


def test_splits_are_named_in_the_heading_or_in_the_rows(folders):
  runs = [finished.load(folders[0]), finished.load(folders[1])]
  runs[1] = with_data(runs[1], eval_split="train[9000:]", eval_examples=1000)
  groups = [finished.Group([run]) for run in runs]
  assert "accuracy on train[9000:], %" in report.row(groups[1], groups[1:])
  cells = report.row(groups[1], groups)
  assert cells["evaluated on"].startswith("train[9000:] of cifar10 (1,000 images")
  assert "accuracy, %" in cells
  text = " ".join(report.facts(groups, "")["data"])
  assert "evaluated on train[9000:] (1,000 images)" in text
  assert "evaluated on test (50 images)" in text


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"train_split": "train[:9000]", "train_examples": 9000}, "9,000 images of"),
    ({"eval_examples": 500}, "evaluated on 500 images"),
    ({"name": "shapes10"}, "its data set is shapes10"),
  ],
)
def test_published_stands_only_beside_all_images(folders, changes, words):
  run = finished.load(folders[0])
  run.config.name = "net6b"
  whole = {"train_examples": 50_000, "eval_examples": 10_000}
  group = finished.Group([with_data(run, **whole | changes)])
  assert report.row(group, [group])["published"] is None
  assert "published" not in report.table([group]).columns
  text = " ".join(report.notes([group]))
  assert "No published result for net6b, because" in text and words in text
  assert len(plots.curves([group])["accuracy"].legends[0].get_texts()) == 1


def test_evaluating_training_images_is_said(folders):
  run = with_data(finished.load(folders[0]), common_images=7)
  text = " ".join(report.notes([finished.Group([run])]))
  assert "Warning: 7 of the 50 evaluated images (test) are training images too" in text


def test_a_folder_is_searched_and_what_is_no_run_is_said(folders, tmp_path, capsys):
  runs = tmp_path / "runs"
  copied(folders[0], runs / "study" / "plain" / "seed0")
  copied(folders[1], runs / "grouped")
  (runs / "link").symlink_to(runs / "grouped")
  (runs / "up").symlink_to(runs)
  (runs / "report").mkdir()
  (runs / "report" / "report.md").write_text("# Runs")
  (runs / "notes.txt").write_text("a file")
  damaged = {
    "unfinished": ("summary.json", None, "is not finished (no summary.json)"),
    "half": ("metrics.jsonl", "{}\n{}\n", "damaged (train_accuracy"),
    "no json": ("summary.json", "{", "damaged"),
    "no object": ("summary.json", "[1]", "damaged"),
    "no config": ("config.json", '{"no_such_key": 1}', "no_such_key"),
    "bytes": ("metrics.jsonl", "\xff\xfe", "damaged"),
  }
  for name, (file, content, _) in damaged.items():
    copied(folders[0], runs / name)
    if content is None:
      (runs / name / file).unlink()
    else:
      (runs / name / file).write_bytes(content.encode("latin1"))
  copied(folders[0], runs / "short")
  lines = (runs / "short" / "metrics.jsonl").read_text().splitlines()
  (runs / "short" / "metrics.jsonl").write_text(lines[0] + "\n")
  every = sorted(map(str, runs.iterdir()))
  for paths in (every, [str(runs)]):
    output = tmp_path / f"output{len(paths)}"
    assert commands.main(["report", *paths, f"--output={output}"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\np +1 ", out) and re.search(r"\ng +1 ", out)
    for name, (_, _, words) in damaged.items():
      (line,) = [s for s in out.splitlines() if f"/{name}: left out" in s]
      assert words in line, line
    assert "/short: left out: it is not finished (1 of 2 epochs" in out
    assert out.count("/grouped") == 0  # once, and so without a line
    text = (output / "report.md").read_text()
    assert "unfinished: left out" in text
  assert (
    "notes.txt: left out: is a file"
    in (tmp_path / f"output{len(every)}" / "report.md").read_text()
  )
  assert "report: left out: there is no run in it" in " ".join(finished.find(every)[1])
  found, notes = finished.find([str(folders[0]), str(folders[0])])
  assert len(found) == 1 and not notes


def test_a_copy_of_a_run_is_not_counted_again(folders, tmp_path):
  copy = copied(folders[0], tmp_path / "copy")
  runs, _ = finished.find([str(folders[0]), str(copy)])
  (same,), notes = finished.group(runs)
  assert len(same) == 1
  assert f"{copy}: left out: {folders[0]} has the same config, data and seed" in notes


def test_a_run_without_its_checkpoints_still_has_a_row(folders, tmp_path):
  lost = copied(folders[0], tmp_path / "lost")
  shutil.rmtree(lost / "checkpoints")
  group = finished.Group([finished.load(lost), finished.load(folders[2])])
  assert group.predictions.run.workdir == folders[2]
  alone = finished.Group([finished.load(lost)])
  sections = report._predictions([alone])
  assert [section.title for section in sections if section.parts] == ["No predictions"]
  assert "no checkpoint here" in sections[0].parts[0]
  assert shown_row(alone, [alone])["n"] == "1"


def test_the_best_checkpoint_is_reported_as_chosen_on_its_split(folders):
  runs = [finished.load(folders[i]) for i in (0, 2)]
  runs = [
    dataclasses.replace(
      run,
      rows=[
        {**run.rows[0], "eval_accuracy": 0.9, "train_accuracy": 0.5},
        {**run.rows[1], "eval_accuracy": 0.8, "train_accuracy": 0.6},
      ],
    )
    for run in runs
  ]
  best, last = (finished.Group(runs, which=which) for which in ("best", "last"))
  assert best.values("eval_accuracy") == [0.9, 0.9]
  assert best.values("gap") == pytest.approx([-0.4, -0.4])
  assert last.values("gap") == pytest.approx([-0.2, -0.2])
  assert shown_row(best, [best])["best accuracy on test, %"] == "90.00 ± 0.00"
  assert "best of 2 epochs, chosen on test" in " ".join(report.notes([best]))
  assert "chosen on" not in " ".join(report.notes([last]))
  assert predictions.predict(finished.load(folders[0]), "best")


def test_many_classes_show_the_worst_and_the_best():
  count = 1000
  labels = np.repeat(np.arange(count), 10)
  wrong = np.arange(10 * count) % 10 < (labels // 100)[:]  # class 999: 9 of 10 wrong
  predicted = np.where(wrong, (labels + 1) % count, labels)
  names = [f"class {i}" for i in range(count)]
  found = predictions.Predictions(None, None, labels, names, predicted, None)
  table = predictions.class_table(found, "", "")
  rows = [list(map(cell_text, row)) for row in table.rows]
  assert len(rows) == predictions.MOST_CLASSES
  assert table.notes[0].startswith("40 of 1,000 classes")
  assert {row[2] for row in rows[:20]} == {"10.0"}
  assert {row[2] for row in rows[20:]} == {"100.0"}
  assert rows[0] == ["class 900", "10", "10.0", "class 901 (9)"]


def test_names_are_shown_as_they_are_in_every_file(folders, tmp_path, monkeypatch):
  names = ("$a_{$|<b>&amp;", "_x_ *y*\n# z", "\udcff\u732b")
  info = dataclasses.replace(DATASET.info, class_names=names)
  dataset = dataclasses.replace(DATASET, info=info)
  monkeypatch.setattr(datasets, "load", lambda config: dataset)
  runs = [finished.load(folders[0])]
  runs[0].config.name = names[0] + names[1] + names[2]
  document = report.compose([finished.Group(runs)], [f"{names[1]}: left out"])
  document.write(tmp_path, "report")
  text = (tmp_path / "report.md").read_text()
  name = r"\$a\_{\$\|\<b>\&amp;"
  assert f"| {name}\\_x\\_ \\*y\\*\\\\n# z\\\\xff\u732b | 1 |" in text
  assert f"| {name} |" in text and f"![{name}" in text
  assert "\\_x\\_ \\*y\\*\\\\n# z: left out" in text
  page = (tmp_path / "report.html").read_text()
  assert '<th class="text"><div>$a_{$|&lt;b&gt;&amp;amp;</div></th>' in page
  assert r">_x_ *y*\n# z<" in page and r">\xff猫<" in page


def test_a_folder_that_cannot_be_created_is_named(folders, capsys):
  assert commands.main(["report", str(folders[0]), "--output=/proc/none/here"]) == 1
  assert capsys.readouterr().err.startswith("error: /proc/none/here: ")


def test_the_report_is_written_to_the_output_folder(written):
  assert {path.name for path in pathlib.Path(written).iterdir()} >= {
    "report.md",
    "report.html",
  }
