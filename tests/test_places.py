"""Paths as people type them, in every flag and key that is one."""

import os
import pathlib
import subprocess
import sys

import pytest

from cifar_flax import __main__, api, command_line, main, places
from cifar_flax import config as config_lib
from cifar_flax.config import Config
from cifar_flax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
URLS = ["gs://bucket/run", "s3://b/x", "https://host/x", "file:///x", "gs:/bucket/x"]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
  "line",
  [
    "train --config=configs/net6b.py --workdir={}",
    "train --config={}",
    "eval --workdir={}",
    "summary --config={}",
    "summary --config=configs/net6b.py --plot={}",
    "preview --config=configs/net6b.py --output={}",
    "predict --workdir={} x.png",
    "predict --workdir=x {}",
    "predict --workdir=x --explain={} x.png",
    "export --workdir={} --output=x",
    "export --workdir=x --output={}",
    "export --workdir=x --card={}",
    "report {} --output=x",
    "report x --output={}",
    "sweep --config=configs/net6b.py --output={}",
    "sweep --config=configs/net6b.py --ablate={}",
    "study --output={}",
    "reproduce --output={}",
    "reproduce --configs=net6b,{}",
    "train --config=configs/net6b.py --config.data.data_dir={}",
    "train --config=configs/net6b.py --config.data.archive={}",
    "train --config=configs/net6b.py --config.data.dataset=folder:{}",
    "sweep --config=configs/net6b.py --vary=data.dataset=folder:{}",
  ],
)
def test_a_url_is_refused_in_one_line(line, url, capsys, tmp_path, monkeypatch):
  (tmp_path / "configs").symlink_to(ROOT / "configs")
  monkeypatch.chdir(tmp_path)
  assert __main__.main(line.format(url).split()) == 2
  error = capsys.readouterr().err
  assert len(error.splitlines()) == 1
  assert f"{url!r}: is a URL" in error and "gcloud storage cp -r" in error
  assert os.listdir(tmp_path) == ["configs"]


@pytest.mark.parametrize("path", ["a:b/c", "runs/x://y", "./gs://x", "C:/x", "~"])
def test_other_paths_are_no_urls(path):
  places.check(path, "--workdir")


def test_a_url_in_a_config_file_or_variable_is_refused(tmp_path, monkeypatch):
  file = tmp_path / "config.json"
  file.write_text('{"data": {"data_dir": "gs://bucket"}}')
  with pytest.raises(UserError, match="config.data.data_dir='gs://bucket': is a URL"):
    config_lib.load(str(file))
  from cifar_flax.data import datasets

  monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket")
  with pytest.raises(UserError, match="TFDS_DATA_DIR='gs://bucket': is a URL"):
    datasets.load(Config().data)


@pytest.mark.parametrize("call", ["load", "fit", "runs"])
def test_a_url_is_refused_from_python(call):
  arguments = ["gs://bucket/run"]
  if call == "fit":
    arguments.insert(0, str(ROOT / "configs" / "net6b.py"))
  with pytest.raises(UserError, match="'gs://bucket/run': is a URL"):
    list(getattr(api, call)(*arguments))


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  return tmp_path


def test_a_tilde_is_the_home_folder_in_every_flag(home):
  parser = command_line.Parser("x", None)
  for name in ("ablate", "card", "config", "explain", "output", "plot", "workdir"):
    parser.add_argument(f"--{name}")
  parser.add_argument("--configs")
  parser.add_argument("runs", nargs="*")
  for name in ("ablate", "card", "config", "explain", "output", "plot", "workdir"):
    flags = parser.parse_args([f"--{name}=~/x y"])
    assert getattr(flags, name) == f"{home}/x y"
  flags = parser.parse_args(["~/a", "b", "--configs=net6b,~/c.py"])
  assert flags.runs == [f"{home}/a", "b"]
  assert flags.configs == f"net6b,{home}/c.py"
  root = os.path.expanduser("~root")
  assert parser.parse_args(["--output=~root/x"]).output == f"{root}/x"
  assert flags.output is None


def test_a_run_directory_in_the_home_folder(home):
  file = home / "mine.py"
  file.write_text((ROOT / "configs" / "net6b.py").read_text())
  config, workdir, _ = main.parse(["--config=~/mine.py", "--workdir=~/runs/x"])
  assert (config.name, workdir) == ("mine", home / "runs" / "x")


def test_no_such_user(capsys):
  assert __main__.main(["eval", "--workdir=~no_such_user/x"]) == 2
  error = capsys.readouterr().err
  assert "--workdir='~no_such_user/x': the home folder ~no_such_user is not" in error


def test_a_file_whose_name_starts_with_a_tilde_is_a_file(tmp_path, monkeypatch):
  (tmp_path / "~no_such_user").mkdir()
  monkeypatch.chdir(tmp_path)
  assert places.expanded("~no_such_user", "--workdir") == "~no_such_user"


# A process of a user whom the system does not know, as in a container.
NOBODY = """
import pwd, sys
def unknown(user):
  raise KeyError(f"getpwuid(): uid not found: {user}")
pwd.getpwuid = unknown
sys.path.insert(0, "tests")
from cifar_flax import main, registry
registry.NETWORKS["tiny"] = "tiny:Tiny"
from cifar_flax.data.sources import shapes10
shapes10.NUM_TRAIN, shapes10.NUM_TEST = 40, 20
sys.exit(main.main([
  "--config=configs/quickstart.py", "--config.model.name=tiny",
  "--config.data.dataset=shapes10", "--config.num_epochs=1", "--config.batch_size=8",
  "--config.eval_batch_size=20", "--config.data.train_split=train",
  "--config.data.eval_split=test", *sys.argv[1:],
]))
"""


def test_a_user_without_a_home_trains_with_one_warning(tmp_path):
  hidden = ("JAX_COMPILATION", "HOME", "USER", "LOGNAME", "LNAME", "XDG", "TFDS")
  kept = {k: v for k, v in os.environ.items() if not k.startswith((*hidden, "XLA"))}

  def run(*arguments):
    command = [sys.executable, "-W", "ignore", "-c", NOBODY, *arguments]
    kept["MPLCONFIGDIR"] = str(tmp_path)  # Matplotlib warns by itself without it
    return subprocess.run(command, env=kept, cwd=ROOT, capture_output=True, text=True)

  done = run(f"--workdir={tmp_path}/run", f"--config.data.data_dir={tmp_path}/data")
  assert done.returncode == 0, done.stderr
  assert done.stderr.count("Continuing without") == 1
  assert "no home folder; set XDG_CACHE_HOME" in done.stderr
  assert "Traceback" not in done.stderr
  done = run(f"--workdir={tmp_path}/other")
  assert done.returncode == 2 and "Traceback" not in done.stderr
  [line] = [each for each in done.stderr.splitlines() if "error" in each]
  assert "the home folder ~ is not known" in line and "set TFDS_DATA_DIR" in line
