"""A published run answers as the run does, and cannot be resumed."""

import re
import shutil

import jax
import numpy as np
import pytest

from cifar_flax import __main__ as commands
from cifar_flax import config as config_lib
from cifar_flax import main, train
from cifar_flax.data import datasets
from cifar_flax.errors import UserError
from cifar_flax.run import checkpoints
from cifar_flax.tools import finished, publish
from cifar_flax.tools.trained import Trained

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module", params=["0.0", "0.5"])
def runs(request, tmp_path_factory):
  """A finished run, with or without averaged weights, and what is published of it."""
  values = {"model.name": "uniform", "data.dataset": "shapes10", "num_epochs": "2"}
  values |= {"data.train_split": "train[:32]", "data.eval_split": "test[:20]"}
  values |= {"batch_size": "8", "ema_decay": request.param, "name": "small"}
  config = config_lib.override(config_lib.Config(), values)
  folder = tmp_path_factory.mktemp("runs")
  random = np.random.default_rng(1)

  def split(number):
    images = random.integers(0, 256, (number, 32, 32, 3)).astype(np.uint8)
    return datasets.Split(images, np.int32(np.arange(number) % 10))

  info = datasets.Info("shapes10", "1", 0, "print", tuple("abcdefghij"))
  dataset = datasets.Dataset(split(32), split(20), info)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(datasets, "load", lambda config: dataset)
    train.train_and_evaluate(config, folder / "run")
    run, published = folder / "run", folder / "published"
    assert commands.main(["publish", f"--workdir={run}", f"--output={published}"]) == 0
    yield run, published


def test_the_weights_are_the_bytes_of_the_last_checkpoint(runs):
  run, published = runs
  state = checkpoints.restore(run / "checkpoints", "last")["state"]
  kept = checkpoints.read(published / "checkpoints" / "weights.ckpt")["state"]
  assert set(kept) == {"step", "ema"} if state["ema"] else set(publish.USED)
  for ours, theirs in zip(
    jax.tree.leaves(kept), jax.tree.leaves({k: state[k] for k in kept}), strict=True
  ):
    assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
  names = {file.relative_to(published).as_posix() for file in published.rglob("*")}
  assert names == {*publish.FILES, "checkpoints", "checkpoints/weights.ckpt"}
  for name in publish.FILES:
    assert (run / name).read_bytes() == (published / name).read_bytes()


@pytest.mark.parametrize("which", ["best", "last"])
def test_it_answers_as_the_last_epoch_of_the_run(runs, which):
  run, published = runs
  ours, theirs = Trained(published, which), Trained(run, "last")
  np.testing.assert_array_equal(ours.logits(IMAGES), theirs.logits(IMAGES))
  assert (ours.choice, ours.accuracy) == ("last", theirs.accuracy)
  assert finished.load(published).rows == finished.load(run).rows


def test_it_is_evaluated_like_the_run(runs, capsys):
  run, published = runs
  lines = []
  for workdir, which in ((run, "last"), (published, "best"), (published, "last")):
    assert (
      main.main(["--mode=eval", f"--workdir={workdir}", f"--checkpoint={which}"]) == 0
    )
    lines.append(capsys.readouterr().out.replace(str(workdir), "RUN"))
  assert lines[1] == lines[2] == lines[0]
  assert re.match(r"last checkpoint of RUN, epoch 2: accuracy \d", lines[0])


def test_it_cannot_be_resumed(runs, capsys):
  _, published = runs
  argv = [f"--config={published / 'config.json'}", f"--workdir={published}"]
  assert main.main([*argv, "--config.num_epochs=2"]) == 2
  error = capsys.readouterr().err
  assert "weights of a published run" in error and error.count("\n") == 1


@pytest.mark.parametrize("which", ["best", "last"])
def test_without_weights_an_evaluation_says_so(runs, tmp_path, which):
  folder = tmp_path / "new"
  publish.publish(runs[0], folder, with_weights=False)
  with pytest.raises(UserError, match="no checkpoint here.*published with its weights"):
    checkpoints.restore(folder / "checkpoints", which)


def test_without_weights_it_is_a_row_of_a_report(runs, tmp_path):
  run, _ = runs
  flags = [f"--workdir={run}", f"--output={tmp_path / 'new'}", "--no_weights"]
  assert commands.main(["publish", *flags]) == 0
  assert not (tmp_path / "new" / "checkpoints").exists()
  assert finished.load(tmp_path / "new").facts == finished.load(run).facts


def test_all_runs_of_a_study_are_copied(runs, tmp_path):
  run, _ = runs
  study, kept = tmp_path / "study", tmp_path / "kept"
  for name in ("plain/width=1/seed0", "plain/search/rate=0.01"):
    shutil.copytree(run, study / name)
  (study / "measured.json").write_text("{}")
  (study / "study.html").write_text("made anew")
  assert (
    commands.main(["publish", f"--workdir={study}", f"--output={kept}", "--no_weights"])
    == 0
  )
  files = {file.relative_to(kept).as_posix() for file in kept.rglob("*.json*")}
  names = ("plain/width=1/seed0", "plain/search/rate=0.01")
  assert files == {
    "measured.json",
    *(f"{name}/{file}" for name in names for file in publish.FILES),
  }
  (study / names[0] / "summary.json").unlink()
  argv = [f"--workdir={study}", f"--output={tmp_path / 'none'}"]
  assert commands.main(["publish", *argv]) == 2 and not (tmp_path / "none").exists()


def test_a_mistake_is_one_line(runs, tmp_path, capsys):
  run, published = runs
  unfinished = tmp_path / "unfinished"
  unfinished.mkdir()
  (unfinished / "config.json").write_bytes((run / "config.json").read_bytes())
  for argv, words in (
    ([f"--workdir={unfinished}", "--output=x"], "is not finished"),
    ([f"--workdir={run}", f"--output={published}"], "exists; name a new folder"),
    ([f"--workdir={run}"], "--output=DIR is missing"),
    ([f"--workdir={tmp_path / 'none'}", "--output=x"], "no run here"),
  ):
    assert commands.main(["publish", *argv]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
