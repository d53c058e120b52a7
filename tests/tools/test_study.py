"""Studies: what is planned, the search, coinciding runs, the page, and a whole one."""

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

import pytest

from cifar_flax import __main__ as commands
from cifar_flax import config as config_lib
from cifar_flax import main, registry
from cifar_flax.errors import UserError
from cifar_flax.tools import jobs, measurement, study, study_page
from tests.tools.test_reproduce import DATA, Ended, summary_of

ROOT = pathlib.Path(__file__).parents[2]


class FakeRuns:
  """Stands for the workers: a run's accuracy is a function of its config.

  Types differ by `GAINS`; each has the best accuracy at the rate in `BEST`.
  """

  GAINS = {"plain": 0.0, "grouped": -0.05, "depthwise_separable": 0.03}
  BEST = {"plain": 0.01, "grouped": 0.03, "depthwise_separable": 0.003}

  def __init__(self, failing=()):
    self.failing, self.configs = failing, {}
    self.without_a_hit = None  # a type

  def __call__(self, job, slot):
    config, workdir, _ = main.parse(job.command[3:])
    assert workdir not in self.configs
    self.configs[workdir] = config
    kind, rate = config.model.convolution, config.schedule.learning_rate
    if (kind, rate) in self.failing:
      return Ended(1)
    accuracy = 0.7 + self.GAINS[kind] - 0.1 * (rate != self.BEST[kind])
    accuracy += 0.001 * [0, 2, 5][config.seed]
    accuracy *= kind != self.without_a_hit
    data = DATA | {"train_split": config.data.train_split, "train_examples": 45_000}
    summary = summary_of(config, final_eval_accuracy=accuracy, data=data, numerics=1)
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
    (workdir / "summary.json").write_text(json.dumps(summary))
    return Ended(0)


@pytest.fixture
def fake(monkeypatch):
  runs = FakeRuns()
  monkeypatch.setattr(jobs, "Workers", lambda number: FakeWorkers(runs))
  monkeypatch.setattr(study, "check_parameters", lambda parsed: None)  # made up
  return runs


def test_runs_of_a_class_that_was_changed_are_refused(tmp_path, monkeypatch):
  runs = FakeRuns()
  monkeypatch.setattr(jobs, "Workers", lambda number: FakeWorkers(runs))
  flags = [f"--output={tmp_path}", "--types=plain", "--compare=slots", "--windows=0"]
  assert commands.main(["study", *flags]) == 0
  with pytest.raises(UserError, match=r"'plain' had 1,234 .* and not 71,034"):
    study.run(flags)


class FakeWorkers:
  def __init__(self, runs):
    self.runs = runs

  def __call__(self, job, slot):
    return self.runs(job, slot)

  def close(self):
    pass


TYPES = "--types=plain,grouped,depthwise_separable"


def go(tmp_path, *flags):
  return study.run([f"--output={tmp_path}", "--windows=0", TYPES, *flags])


def results(tmp_path):
  return json.loads((tmp_path / "study.json").read_text())


def test_each_type_is_trained_with_its_best_rate_at_three_widths(tmp_path, fake):
  assert go(tmp_path) == 0
  searched = {w: c for w, c in fake.configs.items() if "search" in w.parts}
  compared = {w: c for w, c in fake.configs.items() if "search" not in w.parts}
  tried = [(c.model.convolution, c.schedule.learning_rate) for c in searched.values()]
  kinds = ("plain", "depthwise_separable", "grouped")
  expected = [(k, r) for k in kinds for r in (0.003, 0.01, 0.03)]
  # Where the best rate is the lowest or highest, the next one is tried, too.
  expected += [("depthwise_separable", 0.001), ("grouped", 0.1)]
  assert sorted(tried) == sorted(expected)
  for config in searched.values():
    assert (config.num_epochs, config.seed, config.model.width) == (5, 0, 1.0)
    assert config.data.train_split == "train[:90%]"
    assert config.data.eval_split == "train[90%:100%]"
  for config in compared.values():
    assert config.schedule.learning_rate == FakeRuns.BEST[config.model.convolution]
    assert (config.num_epochs, config.data.train_split) == (20, "train")
    assert (config.data.eval_split, config.eval_every) == ("test", 0)
    assert config.schedule.name == "one_cycle"
  widths = {(c.model.convolution, c.model.width) for c in compared.values()}
  assert len(compared) == 3 * len(widths) == 21  # plain is the same in all three
  assert {w for k, w in widths if k == "plain"} == {1.0}
  order = [w.relative_to(tmp_path).parts for w in compared]
  assert [parts[2] for parts in order[:9]] == ["seed0"] * 3 + ["seed1"] * 3 + [
    "seed2"
  ] * 3
  assert {parts[1] for parts in order[:9]} == {"width=1"}
  found = results(tmp_path)
  assert found["search"]["grouped"]["chosen"] == 0.03
  comparisons = found["comparisons"]
  assert comparisons["slots"]["grouped"]["costs"]["parameters"] == 19_194
  for name, cost in (("multiply_adds", "multiply-adds"), ("parameters", "parameters")):
    plain = comparisons[name]["plain"]["costs"][cost]
    for kind in kinds:
      row = comparisons[name][kind]
      assert row["costs"][cost] / plain - 1 == pytest.approx(row["deviation"])
      assert abs(row["deviation"]) < 0.02


def test_widths_and_what_they_cost_are_said_first(tmp_path, fake, capsys):
  go(tmp_path, "--compare=slots,parameters")
  first, second, *_ = capsys.readouterr().out.splitlines()
  assert first == (  # 8,232,640 / 7,561,216
    "same parameters: depthwise_separable at width 2.84375, 1.1 times the "
    "multiply-adds of plain"
  )
  assert second.startswith("same parameters: grouped at width 1.9375, 1 times")


def test_the_page_says_what_is_better_and_by_how_much(tmp_path, fake):
  go(tmp_path, "--compare=slots")
  text = (tmp_path / "study.md").read_text()
  found = results(tmp_path)
  better, worse = found["conclusions"]
  assert better == (
    "In the same slots, depthwise_separable is better than plain by 3.00 points "
    "(95 % interval 3.00 to 3.00, n = 3), with 0.15 times the parameters and "
    "0.19 times the multiply-adds."
  )
  assert worse.startswith("In the same slots, grouped is worse than plain by 5.00 p")
  assert better in text and worse in text
  accuracies = [70.0, 70.2, 70.5]
  mean, std = statistics.fmean(accuracies), statistics.stdev(accuracies)
  assert f"| plain | 3 | {mean:.2f} ± {std:.2f} | - | 71,034 | 7,561,216 |" in text
  assert "45,000 images" in text and "python -m cifar_flax study" in text
  assert "| grouped | - | 55.00 | 55.00 | 65.00 | 55.00 | 0.03 |" in text
  page = (tmp_path / "study.html").read_text()
  pictures = list((tmp_path / "pictures").glob("*.svg"))
  assert page.count("data:image/svg") == len(pictures) > 0
  slots = json.loads((tmp_path / "tables" / "slots.json").read_text())["rows"]
  assert slots[0]["accuracy on test, %"] == pytest.approx(mean)


def test_with_two_seeds_nothing_is_concluded(tmp_path, fake):
  go(tmp_path, "--seeds=2", "--compare=slots")
  assert results(tmp_path)["conclusions"] == []
  assert "No conclusions: they need 3 seeds" in (tmp_path / "study.md").read_text()


def test_a_comparison_is_added_without_training_anything_twice(tmp_path, fake):
  go(tmp_path, "--compare=slots")
  first = set(fake.configs)
  go(tmp_path, "--compare=slots,parameters")
  added = set(fake.configs) - first
  assert len(first) == 9 + 2 + 9 and len(added) == 2 * 3
  assert {w.relative_to(tmp_path).parts[0] for w in added} == {
    "grouped",
    "depthwise_separable",
  }


def test_a_rate_that_diverges_is_not_chosen_and_said(tmp_path, fake):
  fake.failing = [("grouped", 0.03)]
  assert go(tmp_path, "--compare=slots") == 1
  search = results(tmp_path)["search"]["grouped"]
  assert search["accuracies"]["0.03"] is None and search["chosen"] == 0.003
  assert search["accuracies"]["0.001"] == pytest.approx(55)  # below the best, as well
  text = (tmp_path / "study.md").read_text()
  assert "| grouped | 55.00 | 55.00 | 55.00 | - | 0.003 |" in text


def test_a_rate_without_a_single_hit_is_a_result(tmp_path, fake):
  fake.without_a_hit = "grouped"
  assert go(tmp_path, "--compare=slots") == 0
  search = results(tmp_path)["search"]["grouped"]
  assert search["chosen"] == 0.003  # no other is better
  assert search["accuracies"] == {"0.001": 0, "0.003": 0, "0.01": 0, "0.03": 0}


def test_a_type_without_any_rate_is_left_out(tmp_path, fake):
  fake.failing = [("grouped", rate) for rate in study.RATES]
  assert go(tmp_path, "--compare=slots") == 1
  assert "grouped" not in results(tmp_path)["comparisons"]["slots"]
  assert "| grouped | - | - | - | - |" in (tmp_path / "study.md").read_text()


def test_runs_with_other_data_are_not_compared(tmp_path, fake):
  go(tmp_path, "--compare=slots")
  file = tmp_path / "grouped" / "width=1" / "seed1" / "summary.json"
  summary = json.loads(file.read_text())
  for changed in (
    {"numerics": 2},
    {"data": summary["data"] | {"fingerprint": "other"}},
  ):
    file.write_text(json.dumps(summary | changed))
    with pytest.raises(UserError, match="seed.* and .*seed1 have different data"):
      go(tmp_path, "--compare=slots")


def test_rates_are_chosen_on_the_data_of_the_study(tmp_path, fake):
  go(tmp_path, "--compare=slots")
  file = tmp_path / "grouped" / "search" / "rate=0.003" / "summary.json"
  summary = json.loads(file.read_text())
  for changed in (
    {"numerics": 2},
    {"data": summary["data"] | {"fingerprint": "other"}},
  ):
    file.write_text(json.dumps(summary | changed))
    with pytest.raises(UserError, match="rate=0.003 have different data"):
      go(tmp_path, "--compare=slots")


@pytest.mark.parametrize(
  ("split", "expected"),
  [
    ("train", ("train[:90%]", "train[90%:100%]")),
    ("train[:45000]", ("train[:40500]", "train[40500:45000]")),
    ("train[:20%]", ("train[:18%]", "train[18%:20%]")),
  ],
)
def test_the_search_judges_on_the_last_tenth(split, expected):
  assert study.search_splits(split) == expected


@pytest.mark.parametrize("split", ["train+test", "train[5:]", "train[:1]", "train[:0]"])
def test_a_split_without_a_last_tenth_is_refused(split):
  with pytest.raises(UserError, match="train_split"):
    study.search_splits(split)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--config=configs/net6b.py"], "its network is 'net6b'"),
    (["--types=plian"], "no such name 'plian'; did you mean 'plain'"),
    (["--compare=slot"], "did you mean 'slots'"),
    (["--config.model.width=2"], "the study sets this key"),
    (["--config.seed=2"], "the study sets this key"),
    (["--config.schedule.learning_rate=2"], "the study sets this key"),
    (["--config.optimizer.momentum=0.5"], "has no effect"),
    (["--seeds=0"], "must be an integer >= 1"),
  ],
)
def test_mistakes_are_one_line(flags, message, capsys):
  assert commands.main(["study", *flags]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1


def test_all_types_of_the_registry_take_part(monkeypatch):
  monkeypatch.setitem(registry.CONVOLUTIONS, "shuffled", "no.such:Module")
  parsed, _ = study.parse([])
  assert parsed.types == list(registry.CONVOLUTIONS) and "shuffled" in parsed.types
  parsed, _ = study.parse(["--types=grouped"])
  assert parsed.types == ["plain", "grouped"]


def test_the_page_of_a_study_with_unfinished_runs_says_so(tmp_path, fake):
  go(tmp_path, "--compare=slots")
  (tmp_path / "grouped" / "width=1" / "seed2" / "summary.json").unlink()
  parsed, _ = study.parse([f"--output={tmp_path}", TYPES, "--compare=slots"])
  study.find_widths(parsed)
  study.search_rates(parsed, jobs.train_all)
  study_page.write(parsed)
  assert "1 of 9 runs are not finished" in (tmp_path / "study.md").read_text()


def test_a_damaged_measurement_is_made_again(tmp_path, fake, monkeypatch, caplog):
  (tmp_path / "measured.json").write_text("{")
  measured = measurement.Measured(2**20, [100.0, 350.0, 150.0], [500.0])
  monkeypatch.setattr(
    measurement,
    "measure",
    lambda configs, classes, windows: dict.fromkeys(configs, measured),
  )
  go(tmp_path, "--compare=slots", "--windows=3")
  assert "measured.json: damaged" in caplog.text and "measuring again" in caplog.text
  text = (tmp_path / "study.md").read_text()
  assert "| 1.0 | 150 ± 132 | 500 |" in text
  costs = results(tmp_path)["comparisons"]["slots"]["plain"]["costs"]
  assert costs["training time per image, µs"] == pytest.approx(1e6 / 150)


def wait_for(condition, process):
  end = time.monotonic() + 240
  while not condition() and process.poll() is None and time.monotonic() < end:
    time.sleep(0.05)


@pytest.mark.full
def test_a_study_that_is_killed_and_stopped_ends_with_the_runs_bytes(tmp_path):
  """A whole study of two types, beside one of its runs trained by itself."""
  output, data = tmp_path / "study", tmp_path / "tfds"
  environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
  environment["XLA_FLAGS"] = ""  # one device
  keys = (
    f"--config.data.data_dir={data}",
    "--config.data.dataset=shapes10",
    "--config.schedule.warmup_epochs=1",
    "--config.data.train_split=train[:200]",
    "--config.data.eval_split=test[:50]",
    "--config.num_epochs=2",
    "--config.batch_size=20",
    "--config.checkpoint.every_steps=3",
  )
  command = [sys.executable, "-m", "cifar_flax", "study", f"--output={output}", *keys]
  command += ["--types=grouped", "--search_epochs=1", "--seeds=3", "--windows=1"]
  command += ["--compare=slots"]

  def start():
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

  def finished():
    return len(list(output.glob("*/*/*/summary.json")))

  def is_between(seed):
    folder = output / "plain" / "width=1" / f"seed{seed}" / "checkpoints"
    return any(folder.glob("step_*.ckpt"))

  for ready, number in (
    (lambda: finished() >= 2, signal.SIGKILL),
    (lambda: is_between(1), signal.SIGTERM),
  ):
    process = start()
    wait_for(ready, process)
    process.send_signal(number)
    assert process.wait(60) == (-number if number == signal.SIGKILL else 128 + number)
    wait_for(lambda: False, subprocess.Popen(["sleep", "1"]))  # a worker ends itself
  process = start()
  assert process.wait(300) == 0
  found = results(output)
  measured = found["measured"]["networks"]
  assert len(measured) == 2 and all(c["peak_bytes"] > 1e6 for c in measured.values())
  assert len(found["runs"]) == 2 * 3
  text = (output / "study.md").read_text()
  assert "than plain" in text or "could not be told from plain" in text
  rate = found["search"]["plain"]["chosen"]
  alone = tmp_path / "alone"
  single = [sys.executable, "-m", "cifar_flax.main", "--config=configs/conv_study.py"]
  single += [f"--workdir={alone}", *keys, "--config.seed=1"]
  single += [f"--config.schedule.learning_rate={rate:g}"]
  subprocess.run(single, env=environment, check=True, stdout=subprocess.DEVNULL)
  assert arrays(alone) == arrays(output / "plain" / "width=1" / "seed1")


def arrays(workdir):
  """Returns the bytes of every array in a run's last checkpoint."""
  import jax

  from cifar_flax.run import checkpoints

  state = checkpoints.restore(workdir / "checkpoints", "last")["state"]
  return [leaf.tobytes() for leaf in jax.tree.leaves(state)]
