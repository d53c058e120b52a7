"""Data are known by their fingerprint: a folder of pictures may have another path."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from cifar_flax import __main__, registry
from cifar_flax import config as config_lib
from cifar_flax.data.sources import download
from cifar_flax.errors import UserError
from cifar_flax.run import directory
from cifar_flax.tools import finished, jobs, predictions

RUN = [
  "--config.model.name=tiny",
  "--config.batch_size=8",
  "--config.eval_batch_size=8",
  "--config.data.eval_split=train",
  "--config.data.train_split=train",
  "--config.schedule.name=constant",
  "--config.checkpoint.min_seconds=0",
]


def draw(root, seed=0):
  for i in range(16):
    path = root / "train" / "ab"[i % 2] / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng((seed, i)).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def place(tmp_path, monkeypatch):
  """A folder with pictures in `ok` and a run on them in `run`, as current folder."""
  monkeypatch.setitem(registry.NETWORKS, "tiny", "tiny:Tiny")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
  monkeypatch.chdir(tmp_path)
  config = config_lib.to_dict(config_lib.Config(name="x"))
  (tmp_path / "x.py").write_text(
    f"from cifar_flax import config\ndef get_config():\n"
    f"  return config.from_dict({config!r}, 'x')\n"
  )
  draw(tmp_path / "ok")
  assert train("folder:ok", 1) == 0
  return tmp_path


def train(dataset, num_epochs, *more):
  command = ["train", "--config=x.py", "--workdir=run", *RUN, *more]
  command += [f"--config.data.dataset={dataset}", f"--config.num_epochs={num_epochs}"]
  return __main__.main(command)


def test_a_moved_or_respelled_folder_is_resumed_evaluated_and_reported(place, capsys):
  for number, path in enumerate(("./ok", "ok/", str(place / "ok")), start=2):
    assert train(f"folder:{path}", number) == 0, capsys.readouterr().err
  (place / "~no_such_user").symlink_to("ok")
  tilde = "--config.data.dataset=folder:~no_such_user"
  assert __main__.main(["eval", "--workdir=run", tilde]) == 0, capsys.readouterr().err
  shutil.copytree("ok", "elsewhere/new")  # other times of modification
  shutil.rmtree("ok")
  assert train("folder:elsewhere/new", 5) == 0, capsys.readouterr().err
  (place / "elsewhere").rename(place / "moved")
  capsys.readouterr()
  assert __main__.main(["eval", "--workdir=run"]) == 2
  error = capsys.readouterr().err
  assert "data.dataset=folder:elsewhere/new: No such file" in error
  moved = "--config.data.dataset=folder:moved/new"
  assert __main__.main(["eval", "--workdir=run", moved]) == 0
  assert "on the 16 images of 'train'" in capsys.readouterr().out
  assert __main__.main(["report", "run", "--output=report"]) == 0
  assert "no predictions: data.dataset=folder:elsewhere/new" in capsys.readouterr().out
  assert __main__.main(["report", "run", "--output=report", moved]) == 0
  assert "no predictions" not in capsys.readouterr().out


def test_other_pictures_are_refused_by_the_key_that_was_set(place, capsys):
  draw(place / "other", seed=1)
  assert train("folder:other", 2) == 2
  error = capsys.readouterr().err
  assert "config.data.dataset='folder:other': contains other data" in error
  assert "data_dir" not in error
  assert train("shapes10", 2) == 2
  assert "config.data.dataset='shapes10': this run directory" in capsys.readouterr().err
  other = "--config.data.dataset=folder:other"
  assert __main__.main(["eval", "--workdir=run", other]) == 0
  assert "; these are other data (" in capsys.readouterr().out
  assert __main__.main(["report", "run", "--output=report", other]) == 0
  assert "config.data.dataset='folder:other' holds now" in capsys.readouterr().out


def test_a_sweep_compares_the_data_of_a_finished_run(place):
  draw(place / "other", seed=1)
  values = [argument.removeprefix("--config.").split("=") for argument in RUN]
  overrides = dict(values) | {"num_epochs": "1"}
  for path in ("./ok", str(place / "ok")):
    overrides["data.dataset"] = f"folder:{path}"
    assert directory.finished_summary(
      place / "run", jobs.plan("x.py", overrides, place / "run").config
    )
  overrides["data.dataset"] = "folder:other"
  with pytest.raises(UserError, match=r"'folder:other': .*run was trained on other"):
    jobs.plan("x.py", overrides, place / "run")


def test_runs_on_one_folder_under_two_paths_are_one_row(place, capsys):
  link = place / "link"
  link.symlink_to(place / "ok")
  more = ["--config.seed=1", "--workdir=run2"]
  assert train("folder:link", 1, *more) == 0
  runs = [finished.load(place / name) for name in ("run", "run2")]
  [[first, second]], _ = finished.group(runs)
  assert {first.config.seed, second.config.seed} == {0, 1}


def test_a_report_does_not_download(monkeypatch, tmp_path, place, capsys):
  def receive(*args):
    raise AssertionError("nothing must be downloaded")

  monkeypatch.setattr(download, "_receive_all", receive)
  [run] = [finished.load(place / "run")]
  for name in ("cifar10", "cifar100", "svhn_cropped"):
    config = config_lib.Data(dataset=name)
    run.config.data = config
    with pytest.raises(UserError, match="and report does not download it") as error:
      predictions.predict(run, "last")
    assert "data.data_dir" in str(error.value) and "eval --workdir" in str(error.value)
    files = list((tmp_path / "tfds").rglob(f"{name}/incomplete.*"))
    assert not files and not os.path.exists(tmp_path / "tfds" / "downloads" / "manual")


def test_a_report_takes_only_places(place, capsys):
  for argument in ("seed=1", "data.dataset=cifar10", "data.eval_split=train"):
    argv = ["report", "run", "--output=report", f"--config.{argument}"]
    assert __main__.main(argv) == 2
    assert "a report takes only where the data are" in capsys.readouterr().err
