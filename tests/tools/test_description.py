"""An export says what it is: in ONNX's metadata, a JSON file, and a model card."""

import json
import shutil

import jax
import numpy as np
import pytest
import yaml

from cifar_flax import __main__ as commands
from cifar_flax import config as config_lib
from cifar_flax import registry, train
from cifar_flax.data import datasets
from cifar_flax.run import checkpoints
from cifar_flax.tools.trained import Trained

CLASSES = ("cat", "a|b: #*_x_*", "dög", "'q\"")


@pytest.fixture(scope="module")
def data():
  rng = np.random.default_rng(1)
  images = rng.integers(0, 256, (60, 32, 32, 3)).astype(np.uint8)
  labels = rng.integers(0, 4, 60).astype(np.int32)
  images[..., 0] = 60 * labels[:, None, None]  # something to learn
  parts = [datasets.Split(images[i], labels[i]) for i in (slice(24), slice(24, 60))]
  info = datasets.Info("cifar10", "3.0.2", 0, "0123abcd", CLASSES)
  return datasets.Dataset(*parts, info, common=3)


@pytest.fixture(scope="module", autouse=True)
def tiny():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(registry.NETWORKS, "tiny", "tests.tiny:Tiny")
    yield


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
  values = {"model.name": "tiny", "batch_size": "8", "num_epochs": "3", "seed": "7"}
  values |= {"eval_batch_size": "36", "checkpoint.min_seconds": "0"}
  values |= {"data.data_dir": "/secret/data", "data.archive": "/secret/archive"}
  values |= {"model.batch_norm_momentum": "0.5", "name": "mine"}
  values |= {"schedule.learning_rate": "0.03"}
  config = config_lib.override(config_lib.Config(), values)
  workdir = tmp_path_factory.mktemp("secret") / "a run: #1"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(datasets, "load", lambda config: data)
    train.train_and_evaluate(config, workdir)
  return workdir


@pytest.fixture
def run(finished, tmp_path):
  """A copy of the finished run, which a test may change."""
  return shutil.copytree(finished, tmp_path / "secret" / finished.name)


def exported(run, *flags):
  """Exports; returns the JSON beside the file, and the card."""
  file, card = run.parent / "x.npz", run.parent / "README.md"
  flags = [f"--workdir={run}", f"--output={file}", f"--card={card}", *flags]
  assert commands.main(["export", *flags]) == 0
  return json.loads((run.parent / "x.npz.json").read_text()), card.read_text()


def change(run, edit):
  """Changes the content of the best checkpoint; `edit` takes its state and its run."""
  content = checkpoints.read(run / "checkpoints" / "best.ckpt")
  about = json.loads(content["run"])
  edit(content["state"], about)
  content["run"] = json.dumps(about)
  checkpoints.save_best(run / "checkpoints", checkpoints.encode(content))


def test_metadata_say_what_the_network_is(run, data):
  found, _ = exported(run)
  trained = Trained(run)
  summary = json.loads((run / "summary.json").read_text())
  assert found["class_names"] == list(CLASSES)
  assert (found["run"], found["config"], found["seed"]) == ("a run: #1", "mine", 7)
  assert (found["network"], found["format"]) == ("tiny", "npz")
  assert found["epoch"] == summary["best_epoch"] == trained.epoch
  assert found["checkpoint"] == "best of 3 epochs, chosen on test"
  assert found["commit"] == summary["commit"]
  assert found["input"]["shape"] == ["n", 32, 32, 3]
  assert found["input"]["range"] == [0, 1]
  assert found["data"]["fingerprint"] == "0123abcd"
  assert found["evaluated_on"] == {"split": "test", "images": 36}
  # The images as the metadata ask for them give the accuracy that they state.
  images = np.float32(data.eval.images) / 255
  logits = trained.network.apply(trained.variables, images, train=False)
  right = np.asarray(logits).argmax(-1) == data.eval.labels
  assert found["accuracy"] == pytest.approx(right.mean(), abs=1e-5)


def test_onnx_holds_the_same_metadata(run):
  pytest.importorskip("jax2onnx")
  runtime = pytest.importorskip("onnxruntime")
  expected, _ = exported(run)
  file = run.parent / "x.onnx"
  with jax.numpy_rank_promotion("allow"):  # jax2onnx adds a bias so
    assert commands.main(["export", f"--workdir={run}", f"--output={file}"]) == 0
  assert not (run.parent / "x.onnx.json").exists()
  found = runtime.InferenceSession(file).get_modelmeta().custom_metadata_map
  assert found.pop("format") == "onnx" and expected.pop("format") == "npz"
  for key, value in expected.items():
    assert found.pop(key) == (value if isinstance(value, str) else json.dumps(value))
  assert not found


def test_the_type_of_the_arithmetic_is_told_apart_from_that_of_the_training(run):
  pytest.importorskip("jax2onnx")
  runtime = pytest.importorskip("onnxruntime")
  change(run, lambda state, about: about["config"]["model"].update(dtype="bfloat16"))
  found, card = exported(run)
  assert (found["computed_in"], found["trained_in"]) == ("bfloat16", "bfloat16")
  assert "computed in bfloat16. An ONNX export computes in float32." in card
  file = run.parent / "x.onnx"
  with jax.numpy_rank_promotion("allow"):  # jax2onnx adds a bias so
    assert commands.main(["export", f"--workdir={run}", f"--output={file}"]) == 0
  found = runtime.InferenceSession(file).get_modelmeta().custom_metadata_map
  assert (found["computed_in"], found["trained_in"]) == ("float32", "bfloat16")


def test_an_unfinished_run_states_only_what_is_known(run):
  def interrupt(state, about):
    about["config"]["data"]["dataset"] = "folder:/secret/pictures"
    state["step"] = (
      state["step"] + 1
    )  # within the next epoch, with weights that were not evaluated

  change(run, interrupt)
  (run / "summary.json").unlink()
  found, card = exported(run)
  assert found["accuracy"] is None
  assert found["evaluated_on"] == {"split": "test", "images": None}
  assert (
    found["data"]["name"] == "folder" and found["data"]["fingerprint"] == "0123abcd"
  )
  assert "did not evaluate these weights" in card and "model-index" not in card
  assert "not finished" in card and "secret" not in card + json.dumps(found)


def test_a_damaged_summary_is_reported_and_not_used(run, capsys):
  (run / "summary.json").write_text("{")
  found, card = exported(run)
  assert found["evaluated_on"]["images"] is None and found["accuracy"] is not None
  assert "of the images of `test`" in card
  assert "summary.json: damaged" in capsys.readouterr().err


def test_neither_metadata_nor_card_holds_a_path(run):
  found, card = exported(run)
  assert "secret" not in card + json.dumps(found)


def test_the_card_states_costs_accuracy_recipe_and_warnings(run):
  found, card = exported(run)
  # stem 3*3*3*8, block1 3*3*8 + 8*12, head 12*4 + 4; two BatchNorms with 4 per channel.
  trainable = 216 + 72 + 96 + 52 + 2 * (8 + 12)
  assert f"moving averages | {trainable + 2 * (8 + 12)} |" in card
  assert f"that are trained | {trainable} |" in card
  # On 16x16 after the stem, on 8x8 after the pooling.
  assert f"per image | {256 * 216 + 64 * (72 + 96 + 48):,} |" in card
  # Stem 3, pooling of neighbours 2 apart 5, 3x3 with a jump of 4: 5 + 2 * 4.
  assert "receptive field of `head`, with padding | 13x13 |" in card
  assert f"seed 7, epoch {found['epoch']} of 3 (best of 3 epochs, chosen on" in card
  percent = f"{100 * found['accuracy']:.2f} %"
  assert f"{percent} of the 36 images of `test` of cifar10 (one run, n = 1)" in card
  assert "best of 3 epochs, chosen on test, so its accuracy on these" in card
  assert "3 of the 36 evaluated images (test) are training images too" in card
  assert "**not made from the original files**" in card and "0123abcd" in card
  assert "| `seed` | `7` |" in card and "| `num_epochs` | `3` |" in card
  assert "sgd" not in card and "optimizer.momentum" not in card  # without effect


def test_nothing_was_chosen_among_one_epoch_or_for_the_last(run):
  lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
  assert "is too high" not in exported(run, "--checkpoint=last")[1]
  (run / "metrics.jsonl").write_text(lines[0])
  assert "is too high" not in exported(run)[1]


def test_the_hub_reads_the_card(run):
  found, card = exported(run)
  head = yaml.safe_load(card.split("---\n")[1])
  assert head["pipeline_tag"] == "image-classification" and "license" not in head
  hub = pytest.importorskip("huggingface_hub")
  read = hub.ModelCard.load(run.parent / "README.md")
  [result] = read.data.eval_results
  assert (read.data.model_name, result.dataset_name) == ("a run: #1", "cifar10")
  assert (result.dataset_split, result.metric_type) == ("test", "accuracy")
  assert result.metric_value == found["accuracy"]
  assert r"cat, a\|b: #\*\_x\_\*, dög, 'q" in read.text


def test_a_card_needs_no_export(run, capsys):
  card = run.parent / "CARD.md"
  assert commands.main(["export", f"--workdir={run}", f"--card={card}"]) == 0
  assert capsys.readouterr().out == f"{card}: model card\n"
  assert [file.name for file in sorted(run.parent.iterdir())] == ["CARD.md", run.name]


def test_nothing_is_written_beside_a_device(run, capsys):
  file = run.parent / "x.npz"
  file.symlink_to("/dev/null")
  assert commands.main(["export", f"--workdir={run}", f"--output={file}"]) == 0
  assert capsys.readouterr().out.count("\n") == 1
  assert not (run.parent / "x.npz.json").exists()


def test_many_classes_are_not_all_listed(run):
  def rename(state, about):
    about["class_names"] = [f"class{i}" for i in range(1000)]
    head = state["params"]["head"]
    head["kernel"], head["bias"] = np.zeros((1, 1, 12, 1000)), np.zeros(1000)

  change(run, rename)
  found, card = exported(run)
  assert len(found["class_names"]) == 1000
  assert "class39 and 960 more" in card and "class40" not in card
