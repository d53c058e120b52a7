import functools
import json
import re
import statistics
import subprocess
import sys

import pytest

from cifar_flax import __main__ as commands
from cifar_flax import config as config_lib
from cifar_flax import main, published
from cifar_flax.errors import UserError
from cifar_flax.tools import jobs, reproduce

DATA = {
  "name": "cifar10",
  "version": "3.0.2",
  "download_size": 170_498_071,
  "fingerprint": "abc123",
  "train_split": "train",
  "eval_split": "test",
  "train_examples": 50_000,
  "eval_examples": 10_000,
}
PARAMETERS = {
  row.config: row.parameters
  for row in (published.lookup(name) for name in published.CONFIGS)
  if row
}


def summary_of(config, **changes):
  """Returns a plausible summary of a run; its accuracy depends on the seed."""
  summary = {
    "name": config.name,
    "network": config.model.name,
    "parameters": PARAMETERS.get(config.name, 1234),
    "trainable_parameters": 1000,
    "num_epochs": config.num_epochs,
    "seed": config.seed,
    "final_eval_accuracy": 0.80 + 0.01 * config.seed**2,
    "best_eval_accuracy": 0.9,
    "best_epoch": 1,
    "flip_eval_accuracy": None,
    "max_train_accuracy": 0.90 + 0.02 * config.seed,
    "final_train_accuracy": 0.9,
    "seconds": 100.0 + 10 * config.seed,
    "device": "2 x ABC accelerator",
    "device_count": 2,
    "versions": {"jax": "9.9.9"},
    "data": DATA,
  }
  return summary | changes


class Ended:
  """A process that has exited."""

  def __init__(self, code):
    self.code = code

  def poll(self):
    return self.code


class FakeMain:
  """Replaces the training processes; parses their commands with the real parser."""

  def __init__(self, codes=None, **changes):
    self.codes, self.changes, self.workdirs = codes or {}, changes, []

  def __call__(self, job, slot):
    assert slot is None
    command = job.command
    assert command[:3] == [sys.executable, "-m", "cifar_flax.main"]
    config, workdir, flags = main.parse(command[3:])
    assert flags.mode == "train"
    name = "/".join(workdir.parts[-2:])
    self.workdirs.append(name)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
    if self.codes.get(name, 0) == 0:
      summary = summary_of(config, **self.changes)
      (workdir / "summary.json").write_text(json.dumps(summary))
    return Ended(self.codes.get(name, 0))


def go(tmp_path, *flags, run=None):
  run = run or FakeMain()
  planned, output, _ = reproduce.plan([f"--output={tmp_path / 'out'}", *flags])
  train_all = functools.partial(jobs.train_all, start=run)
  code = reproduce.reproduce(planned, output, "the command", train_all)
  return code, run.workdirs


def table_of(tmp_path):
  """Returns the table's cells by config, and the whole text."""
  text = (tmp_path / "out" / "results.md").read_text()
  rows = [line[2:-2].split(" | ") for line in text.splitlines() if line[:3] == "| `"]
  return {row[0].strip("`"): row[1:] for row in rows}, text


def test_every_published_config_runs_five_times_to_its_full_length(tmp_path):
  planned, output, _ = reproduce.plan([])
  assert str(output) == "runs/reproduce"
  assert [str(job.workdir.relative_to(output)) for job in planned] == [
    f"{name}/seed{seed}"
    for name in (
      "net6a_dense",
      "net6a_wide",
      "net6a",
      "net6a_constant",
      "net6b",
      "net6a_dense_tuned",
      "net6a_wide_tuned",
      "net6a_tuned",
      "net6b_tuned",
    )
    for seed in range(5)
  ]
  epochs = [job.config.num_epochs for job in planned[::5]]
  assert epochs == [100, 100, 100, 100, 50, 30, 30, 30, 25]
  assert [job.config.seed for job in planned] == [0, 1, 2, 3, 4] * 9


def test_the_table_has_the_mean_and_the_deviation_by_hand(tmp_path):
  code, workdirs = go(tmp_path, "--configs=net6b", "--seeds=3")
  assert code == 0
  assert workdirs == ["net6b/seed0", "net6b/seed1", "net6b/seed2"]
  # Accuracies 80, 81, 84; 90, 92, 94; gaps 10, 11, 10; seconds 100, 110, 120.
  # The squared distances from the mean sum to 78/9, 8, 6/9 and 200; divided by n - 1.
  table, text = table_of(tmp_path)
  assert table["net6b"] == [
    "151,404",
    "50",
    "3",
    "85.48",
    "81.67 ± 2.08",
    "92.27",
    "92.00 ± 2.00",
    "6.79",
    "10.33 ± 0.58",
    "1,243",
    "110 ± 10",
  ]
  for what in (
    "2 x ABC accelerator (3 runs)",
    "jax 9.9.9",
    "abc123",
    "170,498,071",
    "the command",
    "(50,000 images)",
    "(10,000 images)",
  ):
    assert what in text
  assert "**" not in text  # no warnings
  saved = json.loads((tmp_path / "out" / "results.json").read_text())
  ours = saved["configs"][0]["ours"]["test_accuracy"]
  assert ours["mean"] == pytest.approx(statistics.mean([0.80, 0.81, 0.84]))
  assert ours["std"] == pytest.approx(statistics.stdev([0.80, 0.81, 0.84]))


def test_tuned_configs_are_compared_with_faithful_and_published(tmp_path):
  class Run(FakeMain):
    def __call__(self, job, slot):
      if "tuned" in job.config.name:
        self.changes = {"final_eval_accuracy": 0.90 + 0.01 * job.config.seed}
        self.changes |= {"flip_eval_accuracy": 0.92, "parameters": 151_404}
      return super().__call__(job, slot)

  go(tmp_path, "--configs=net6b,net6b_tuned", "--seeds=2", run=Run())
  text = (tmp_path / "out" / "results.md").read_text()
  (line,) = (
    text.partition("## Faithful and tuned")[2].split("|---|\n")[1].splitlines()[:1]
  )
  # Faithful: 80 and 81; tuned: 90 and 91; training in both 90 and 92.
  assert line[2:-2].split(" | ") == [
    "`net6b`",
    "151,404",
    "50",
    "25",
    "85.48",
    "80.50 ± 0.71",
    "90.50 ± 0.71",
    "92.00 ± 0.00",
    "6.79",
    "10.50 ± 0.71",
    "0.50 ± 0.71",
    "105 ± 7",
    "105 ± 7",
  ]
  assert "was chosen without the test images" in text
  go(tmp_path / "other", "--configs=net6b", "--seeds=1")
  text = (tmp_path / "other" / "out" / "results.md").read_text()
  assert "tuned" not in text


def test_one_seed_has_no_deviation(tmp_path):
  go(tmp_path, "--configs=net6b", "--seeds=1")
  row = table_of(tmp_path)[0]["net6b"]
  assert row[2:5] == ["1", "85.48", "80.00"]
  saved = json.loads((tmp_path / "out" / "results.json").read_text())
  assert saved["configs"][0]["ours"]["gap"]["std"] is None


def test_net6a_as_described_has_no_published_result(tmp_path):
  go(tmp_path, "--configs=net6a,net6a_constant", "--seeds=1")
  table, text = table_of(tmp_path)
  assert table["net6a"][3::2] == ["-"] * 4
  assert table["net6a_constant"][3::2] == ["84.84", "94.00", "9.16", "2,209"]
  assert "obtained with the constant rate of `net6a_constant`" in text


def test_fewer_epochs_are_compared_at_the_same_epoch_and_marked(tmp_path):
  go(tmp_path, "--configs=net6b", "--seeds=1", "--config.num_epochs=3")
  table, text = table_of(tmp_path)
  assert table["net6b"][1] == "**3 of 50**"
  assert table["net6b"][3] == "67.91 (at 50: 85.48)"
  assert table["net6b"][9] == "77 (at 50: 1,243)"
  assert "**Fewer epochs than published**" in text


def test_a_finished_run_is_skipped_and_a_started_one_is_resumed(tmp_path):
  flags = ("--configs=net6b", "--seeds=3")
  go(tmp_path, *flags)
  (tmp_path / "out" / "net6b" / "seed1" / "summary.json").unlink()
  assert go(tmp_path, *flags) == (0, ["net6b/seed1"])
  assert go(tmp_path, *flags) == (0, [])
  assert table_of(tmp_path)[0]["net6b"][2] == "3"


def test_a_run_of_fewer_epochs_is_not_a_finished_one(tmp_path):
  flags = ("--configs=net6b", "--seeds=1")
  go(tmp_path, *flags, "--config.num_epochs=3")
  assert go(tmp_path, *flags) == (0, ["net6b/seed0"])
  assert table_of(tmp_path)[0]["net6b"][1:5] == ["50", "1", "85.48", "80.00"]


def test_a_summary_that_is_short_does_not_count(tmp_path, capsys):
  code, _ = go(tmp_path, "--configs=net6b", "--seeds=1", run=FakeMain(num_epochs=49))
  assert code == 1
  assert table_of(tmp_path)[0]["net6b"][2:5] == ["0", "85.48", "-"]


def test_only_keys_that_do_not_affect_the_result_may_differ_between_two_calls(tmp_path):
  flags = ("--configs=net6b", "--seeds=2")
  go(tmp_path, *flags)
  free = ("--config.data.data_dir=/elsewhere", "--config.steps_per_dispatch=7")
  assert go(tmp_path, *flags, *free) == (0, [])
  with pytest.raises(UserError, match=r"batch_size=64.*seed0.*128.*--output"):
    go(tmp_path, *flags, "--config.batch_size=64")


def test_a_failed_run_does_not_stop_the_others(tmp_path, capsys):
  run = FakeMain({"net6b/seed0": -9})
  code, workdirs = go(tmp_path, "--configs=net6b,net6a", "--seeds=2", run=run)
  assert code == 1
  assert workdirs == ["net6b/seed0", "net6b/seed1", "net6a/seed0", "net6a/seed1"]
  table, text = table_of(tmp_path)
  assert table["net6b"][2:5] == ["1", "85.48", "81.00"]
  assert re.search(r"\*\*Failed\*\*: .*net6b/seed0, exit code -9", text)
  assert "**3 of 4 runs are finished.**" in text


@pytest.mark.parametrize("code", [2, 130])
def test_no_run_is_started_after_a_user_error_or_interrupt(tmp_path, capsys, code):
  run = FakeMain({"net6b/seed1": code})
  flags = ("--configs=net6b,net6a", "--seeds=2")
  assert go(tmp_path, *flags, run=run) == (code, ["net6b/seed0", "net6b/seed1"])
  table, text = table_of(tmp_path)
  assert table["net6b"][2:5] == ["1", "85.48", "80.00"]
  assert table["net6a"][2:5] == ["0", "-", "-"]
  assert go(tmp_path, *flags)[1] == ["net6b/seed1", "net6a/seed0", "net6a/seed1"]


def test_the_table_is_written_before_the_first_run_and_after_each(tmp_path):
  seen = []

  def run(job, slot):
    seen.append(table_of(tmp_path)[0]["net6b"][2])
    return FakeMain()(job, slot)

  run.workdirs = []
  go(tmp_path, "--configs=net6b", "--seeds=3", run=run)
  assert seen == ["0", "1", "2"]


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"download_size": None}, "**not made from the original files**"),
    ({"train_examples": 1000, "train_split": "train[:1000]"}, "**Not all images**"),
    ({"eval_split": "train[:10000]"}, "**Not the training and test images.**"),
    ({"name": "shapes10"}, "**Not cifar10"),
  ],
)
def test_other_data_are_marked(tmp_path, changes, said):
  go(tmp_path, "--configs=net6b", "--seeds=1", run=FakeMain(data=DATA | changes))
  assert said in table_of(tmp_path)[1]


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"data": DATA | {"fingerprint": "def456"}}, "fingerprint=def456"),
    ({"numerics": 0}, "numerics=0"),
  ],
)
def test_other_data_or_numerics_are_another_row(tmp_path, changes, words):
  class Run(FakeMain):
    def __call__(self, job, slot):
      self.changes = {"numerics": 1, "flip_eval_accuracy": 0.9} | (
        changes if job.config.seed == 2 else {}
      )
      return super().__call__(job, slot)

  go(tmp_path, "--configs=net6b,net6b_tuned", "--seeds=3", run=Run())
  text = (tmp_path / "out" / "results.md").read_text()
  first = text.partition("## Faithful")[0]
  rows = [line[2:-2].split(" | ") for line in first.splitlines() if line[:3] == "| `"]
  ours = {row[0]: (row[3], row[5]) for row in rows}
  assert [value for key, value in ours.items() if key.startswith("`net6b` ")] == [
    ("2", "80.50 ± 0.71"),
    ("1", "84.00"),
  ]
  assert any(words in key for key in ours)
  assert "**Different data or NUMERICS**" in text
  assert text.partition("## Faithful")[2].count("| `net6b` (") == 2


@pytest.mark.parametrize(
  "flag", ["data.train_split=train[:9000]", "data.eval_split=train[9000:]"]
)
def test_published_is_absent_before_the_first_run_of_other_splits(tmp_path, flag):
  go(
    tmp_path,
    "--configs=net6b",
    "--seeds=1",
    f"--config.{flag}",
    run=FakeMain({"net6b/seed0": 1}),
  )
  table, text = table_of(tmp_path)
  assert table["net6b"][3::2] == ["-"] * 4
  assert "Published: - for `net6b`, because it was" in text


def test_another_data_set_has_no_published_result(tmp_path):
  go(tmp_path, "--configs=net6b", "--seeds=1", "--config.data.dataset=shapes10")
  assert table_of(tmp_path)[0]["net6b"][3::2] == ["-"] * 4


def test_overrides_reach_every_run(tmp_path):
  flags = ["--configs=net6b,net6a", "--seeds=2", "--config.model.dtype", "bfloat16"]
  planned, _, _ = reproduce.plan(flags)
  assert len(planned) == 4
  for job in planned:
    config, workdir, _ = main.parse(job.command[3:])
    assert config == job.config and workdir == job.workdir
    assert config.model.dtype == "bfloat16"


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--config.seed=3"], "config.seed='3'.*--seeds"),
    (["--config.name=mine"], "config.name='mine'.*--configs"),
    (["--seeds=0"], "--seeds=0.*>= 1"),
    (["--seeds=many"], "seeds.*many"),
    (["--configs=net6c"], "configs/net6c.py.*no such file.*net6"),
    (["--config.num_epoch=3"], "num_epoch.*num_epochs"),
    (["--frobnicate"], "frobnicate"),
  ],
)
def test_a_mistake_prints_one_line_and_returns_2(flags, message, capsys):
  assert commands.main(["reproduce", *flags]) == 2
  error = capsys.readouterr().err
  assert re.search(message, error) and error.count("\n") == 1


def test_mistakes_are_reported_before_jax_is_imported(tmp_path):
  taken = config_lib.load("configs/net6b.py")
  folder = tmp_path / "net6b" / "seed0"
  folder.mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps(config_lib.to_dict(taken)))
  lines = [
    ["--seeds=0"],
    ["--configs=nett6b"],
    ["--config.sed=3"],
    ["--frobnicate"],
    [f"--output={tmp_path}", "--configs=net6b", "--config.batch_size=64"],
  ]
  program = (
    "import json, resource, sys\n"
    "from cifar_flax import __main__ as commands\n"
    "lines = json.loads(sys.argv[1])\n"
    "codes = {commands.main(['reproduce', *argv]) for argv in lines}\n"
    "loaded = {'jax', 'flax', 'numpy', 'tensorflow_datasets'} & set(sys.modules)\n"
    "usage = resource.getrusage(resource.RUSAGE_SELF)\n"
    "print(codes, loaded, usage.ru_utime + usage.ru_stime)\n"
  )
  command = [sys.executable, "-c", program, json.dumps(lines)]
  done = subprocess.run(command, capture_output=True, text=True)
  *found, seconds = (
    done.stdout.split()
  )  # of CPU time, because other processes may be busy
  assert found == ["{2}", "set()"], done.stderr
  assert done.stderr.count("error: ") == done.stderr.count("\n") == len(lines)
  assert float(seconds) < 1
