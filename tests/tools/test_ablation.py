"""Ablations: the planned runs, and the table of the finished ones."""

import json
import re

import pytest

from cifar_flax import __main__ as commands
from cifar_flax import config as config_lib
from cifar_flax import main
from cifar_flax.tables import cell_text
from cifar_flax.tools import ablation, jobs, report, sweep
from tests.tools.test_reproduce import DATA, FakeMain, summary_of

TUNED, BASE = "configs/net6b_tuned.py", "configs/net6b.py"


def plan(config, base, *flags):
  planned, output, _ = sweep.plan([f"--config={config}", f"--ablate={base}", *flags])
  return [str(job.workdir.relative_to(output)) for job in planned], planned, output


def test_ablation_sets_each_change_back_by_itself_then_all(tmp_path):
  """Compares the plan with two configs written by hand, value by value."""
  text = "from cifar_flax.config import Config\ndef get_config():\n  c = Config()\n"
  changes = {
    "batch_size": ("32", "128"),
    "augmentation.flip": ("True", "False"),
    "augmentation.crop_padding": ("4", "0"),
    "model.dropout_rate": ("0.5", "0.0"),
    "model.batch_norm_momentum": ("0.9", "0.99"),
    "schedule.name": ("'cosine'", "constant"),
    "schedule.warmup_epochs": ("1.0", "0.0"),
    "eval_every": ("5", None),  # does not affect the result
    "num_epochs": ("7", None),  # overridden in every run
  }
  lines = [f"  c.{key} = {now}\n" for key, (now, _) in changes.items()]
  (tmp_path / "new.py").write_text(text + "".join(lines) + "  return c\n")
  (tmp_path / "old.py").write_text(text + "  return c\n")
  folders, planned, output = plan(
    *(tmp_path / "new.py", tmp_path / "old.py", "--seeds=2", "--config.num_epochs=3")
  )
  names = ["new", "without_batch_size", "without_augmentation"]
  names += ["without_dropout_rate", "without_batch_norm_momentum", "without_schedule"]
  names += ["without_all"]
  assert {f.split("/")[0] for f in folders} == set(names) and folders[::7] == [
    "new/seed0",
    "new/seed1",
  ]
  assert str(output) == "runs/new-against-old"
  whole = config_lib.flatten(planned[0].config)
  for job in planned:
    config, workdir, _ = main.parse(job.command[3:])
    assert (config, workdir) == (job.config, job.workdir)
    assert config.name == workdir.parent.name and config.num_epochs == 3
    now = config_lib.flatten(config)
    found = {key: str(now[key]) for key in whole if now[key] != whole[key]}
    part = config.name.removeprefix("without_")
    expected = {
      key: old
      for key, (_, old) in changes.items()
      if old and (part == "all" or part in key.split("."))
    }
    for free in ("name", "seed"):
      found.pop(free, None)
    assert found == expected, config.name


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([f"--ablate={TUNED}"], "net6b_tuned and net6b_tuned have no differences$"),
    (["--ablate="], "^error: --ablate='': no such file"),
    (["--ablate=configs/net6b.pt"], "^error: --ablate='configs/net6b.pt'.*net6b.py"),
    ([f"--ablate={BASE}", "--vary=model.convolution"], "not allowed with"),
    ([f"--ablate={BASE}", "--config.name=x"], "the sweep sets this key"),
    (["--ablate=configs/cifar100.py"], "config.data.dataset differs"),
  ],
)
def test_a_mistake_prints_one_line_and_returns_2(flags, message, capsys):
  assert commands.main(["sweep", f"--config={TUNED}", *flags]) == 2
  error = capsys.readouterr().err
  assert re.search(message, error.strip()) and error.count("\n") == 1


def test_an_overridden_key_is_not_a_difference(capsys):
  flags = ["--config=configs/net6a.py", "--ablate=configs/net6a_constant.py"]
  assert commands.main(["sweep", *flags, "--config.schedule.name=constant"]) == 2
  message = (
    "net6a_constant and net6a have no differences, "
    "ignoring the keys that --config.KEY sets"
  )
  assert message in capsys.readouterr().err


def test_a_config_with_the_name_of_one_of_its_runs_is_refused(tmp_path, capsys):
  values = config_lib.to_dict(config_lib.load(BASE)) | {"name": "without_all"}
  (tmp_path / "config.json").write_text(json.dumps(values))
  flags = [f"--config={tmp_path / 'config.json'}", f"--ablate={TUNED}"]
  assert commands.main(["sweep", *flags]) == 2
  assert (
    "the config has the name of one of the runs, without_all" in capsys.readouterr().err
  )


def test_configs_in_folders_of_the_same_name_import_their_own_folder(tmp_path):
  """Two folders of the same name contain modules of the same names."""
  names = []
  for rate in (0.1, 0.2):
    folder = tmp_path / str(rate) / "experiments"
    folder.mkdir(parents=True)
    text = "from cifar_flax.config import Config\ndef get_config():\n  c = Config()\n"
    (folder / "first.py").write_text(
      text + f"  c.label_smoothing = {rate}\n  return c\n"
    )
    text = "from experiments import first\nget_config = first.get_config\n"
    (folder / "second.py").write_text(text)
    names.append(str(folder / "second.py"))
  assert [config_lib.load(name).label_smoothing for name in names] == [0.1, 0.2]


def test_the_gain_of_a_change_is_the_difference_of_equal_seeds(tmp_path):
  """Compares with results by hand; seeds without a partner are ignored."""
  _, planned, _ = plan(TUNED, BASE, "--seeds=3", f"--output={tmp_path}")
  accuracies = {
    "net6b_tuned": (0.70, 0.72, None),
    "without_schedule": (0.64, 0.67, 0.10),
    "without_all": (0.71, None, None),
  }
  for job in planned:
    value = accuracies.get(job.config.name, (None, None, None))[job.config.seed]
    if value is not None:
      job.workdir.mkdir(parents=True)
      summary = summary_of(
        job.config, final_eval_accuracy=value, flip_eval_accuracy=0.9
      )
      (job.workdir / "summary.json").write_text(json.dumps(summary))
  table = ablation.table(planned)
  rows = {name: list(map(cell_text, cells)) for name, *cells in table.rows}
  assert list(rows)[0] == "net6b_tuned" and len(rows) == len(planned) / 3
  assert rows.pop("net6b_tuned") == ["2", "71.00 ± 1.41", "-"]
  assert rows.pop("without_schedule") == ["2", "65.50 ± 2.12", "+5.50 ± 0.71"]
  assert rows.pop("without_all") == ["1", "71.00", "-1.00"]
  assert all(cells == ["0", "-", "-"] for cells in rows.values())
  assert f"{len(planned) - 6} of {len(planned)} runs are not finished" in table.notes
  assert "without_batch_size: batch_size=128, not 64" in table.notes


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"data": DATA | {"fingerprint": "def456"}}, "fingerprint=def456"),
    ({"numerics": 0}, "numerics=0"),
  ],
)
def test_gains_are_taken_between_runs_of_the_same_data(tmp_path, changes, words):
  _, planned, _ = plan(TUNED, BASE, "--seeds=2", f"--output={tmp_path}")
  values = {"net6b_tuned": (0.70, 0.80), "without_all": (0.60, 0.50)}
  for job in planned:
    if job.config.name in values:
      seed = job.config.seed
      different = changes if (job.config.name, seed) == ("without_all", 1) else {}
      summary = summary_of(
        job.config,
        final_eval_accuracy=values[job.config.name][seed],
        flip_eval_accuracy=0.9,
        **{"numerics": 1, **different},
      )
      job.workdir.mkdir(parents=True)
      (job.workdir / "summary.json").write_text(json.dumps(summary))
  table = ablation.table(planned)
  rows = {name: list(map(cell_text, cells)) for name, *cells in table.rows}
  (name,) = [n for n in rows if n.startswith("without_all (") and words not in n]
  assert rows[name] == ["1", "60.00", "+10.00"]
  (name,) = [n for n in rows if n.startswith("without_all (") and words in n]
  assert rows[name] == ["0", "-", "-"]  # nothing to compare it with
  assert "accuracy on test, %" in table.columns
  assert "runs with other data or NUMERICS are neither averaged nor compared" in (
    table.notes
  )


def test_the_table_is_written_and_printed(tmp_path, monkeypatch, capsys):
  train_all, start = jobs.train_all, FakeMain(flip_eval_accuracy=0.9)
  monkeypatch.setattr(
    jobs, "train_all", lambda planned, at_once: train_all(planned, start=start)
  )
  reported = []
  monkeypatch.setattr(report, "run", reported.append)
  flags = [f"--config={TUNED}", f"--ablate={BASE}", f"--output={tmp_path}"]
  assert commands.main(["sweep", *flags]) == 0
  text = (tmp_path / "ablation.md").read_text()
  assert "| without_schedule | 1 | 80.00 | +0.00 |" in text
  assert "Gain of each change in net6b_tuned" in capsys.readouterr().out
  assert len(reported[0]) == 10 + len(["--output", "DIR"])
