"""The public API: loading, training, costs and histories from Python."""

import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import Tiny

import cifar_flax as cf
from cifar_flax import api, registry, steps
from cifar_flax.convolutions import Grouped
from cifar_flax.data import arrays
from cifar_flax.data.sources import shapes10
from cifar_flax.errors import UserError
from cifar_flax.tables import Table


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Two trained runs of `tiny` on a few images of shapes10."""
  top = tmp_path_factory.mktemp("api")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XDG_CACHE_HOME", str(top / "cache"))
    patch.setattr(shapes10, "NUM_TRAIN", 40)
    patch.setattr(shapes10, "NUM_TEST", 20)
    for seed, rate in ((0, 0.003), (1, 0.03)):
      cf.fit(make_config(top, seed, rate), str(top / "runs" / f"seed{seed}"))
  return top


def make_config(top, seed=0, rate=0.003):
  config = cf.Config()
  config.seed, config.num_epochs, config.batch_size = seed, 2, 8
  config.eval_batch_size = 20
  config.model.name = "uniform"
  config.model.width = 0.25
  config.schedule.learning_rate = rate
  config.data.dataset, config.data.data_dir = "shapes10", str(top / "tfds")
  return config


@pytest.fixture
def network(folder):
  return cf.load(folder / "runs" / "seed0", "last")


def images(number, side=32, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (number, side, side, 3), np.uint8)


def test_importing_the_package_imports_nothing_heavy():
  program = (
    "import sys, cifar_flax as cf; dir(cf);"
    "print({'jax', 'numpy', 'tensorflow_datasets', 'PIL'} & set(sys.modules))"
  )
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  assert done.stdout == "set()\n", done.stderr
  with pytest.raises(AttributeError, match="no attribute 'laod'"):
    _ = cf.laod
  assert {"load", "fit", "costs", "runs", "register", "Config"} <= set(dir(cf))


def test_bytes_and_floats_in_one_convention_give_one_answer(network):
  batch = images(5)
  wanted = network.network.apply(
    network.variables, batch / np.float32(255), train=False
  )
  for given in (batch, batch / np.float32(255), batch / 255.0, (batch / 255).tolist()):
    np.testing.assert_allclose(network.logits(given), wanted, atol=1e-5)
  powers = np.exp(np.float64(wanted))
  probabilities = powers / powers.sum(-1, keepdims=True)
  np.testing.assert_allclose(network.predict(batch), probabilities, atol=1e-5)


def test_one_image_none_and_more_than_a_batch(network):
  batch = images(130)
  every = network.predict(batch)
  assert every.shape == (130, 10)
  np.testing.assert_array_equal(
    network.predict(batch[7]), network.predict(batch[7:8])[0]
  )
  np.testing.assert_allclose(network.predict(batch[7]), every[7], atol=1e-6)
  assert network.predict(batch[:0]).shape == (0, 10)
  assert network.logits(images(0, 50)).shape == (0, 10)


def test_images_of_any_size_are_those_that_pillow_makes_of_them(network):
  large = np.random.default_rng(1).integers(0, 256, (2, 60, 90, 3), np.uint8)
  square = [
    np.asarray(
      Image.fromarray(image).resize((32, 32), Image.Resampling.LANCZOS, (15, 0, 75, 60))
    )
    for image in large
  ]
  np.testing.assert_array_equal(network.logits(large), network.logits(np.stack(square)))
  # Pillow rounds and clips bytes between its two passes: low contrast hides that.
  faint = 100 + large // 8
  bytes_, floats = (arrays.to_batch(x)[0] for x in (faint, faint / np.float32(255)))
  assert floats.dtype == np.float32
  np.testing.assert_allclose(255 * floats, bytes_, atol=1.6)
  edge = np.zeros((1, 64, 64, 3))
  edge[:, 33:] = 1.0  # where the filter overshoots
  sharp, _ = arrays.to_batch(edge)
  assert sharp.min() == 0 and sharp.max() == 1


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (np.zeros((32, 32), np.uint8), r"shape \[32, 32\]"),
    (np.zeros((1, 3, 32, 32), np.uint8), r"shape \[1, 3, 32, 32\]"),
    (np.zeros((2, 0, 32, 3), np.uint8), r"shape \[2, 0, 32, 3\]"),
    (np.zeros((32, 32, 3), np.int64), r"int64.*astype\('uint8'\)"),
    (np.zeros((32, 32, 3), bool), "type bool"),
    (np.full((32, 32, 3), 200.0), "from 200 to 200.*divide them by 255"),
    (np.full((32, 32, 3), -0.5), "from -0.5 to -0.5: must be"),
    (np.full((32, 32, 3), np.nan), "nan"),
    (np.full((32, 32, 3), 1000.0), "floats in .0, 1.$"),
    ("cat.jpg", "shape"),
  ],
)
def test_anything_else_is_refused_in_a_line(network, given, message):
  with pytest.raises(UserError, match=message) as error:
    network.predict(given)
  assert "\n" not in str(error.value)


def test_a_loaded_network_has_its_history_config_and_parameters(folder, network):
  lines = (folder / "runs" / "seed0" / "metrics.jsonl").read_text().splitlines()
  assert network.history == [json.loads(line) for line in lines]
  assert network.config == make_config(folder)
  kernel = network.params["head"]["kernel"]
  assert kernel.shape == (1, 1, 16, 10)
  assert (
    sum(x.size for x in jax.tree.leaves(network.params))
    == cf.costs(make_config(folder)).trainable
  )


def test_a_finished_run_is_not_trained_again(folder, monkeypatch):
  before = cf.load(folder / "runs" / "seed1", "last").params
  monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
  again = cf.fit(make_config(folder, 1, 0.03), folder / "runs" / "seed1")
  jax.tree.map(np.testing.assert_array_equal, before, again.params)


def test_a_quiet_run_prints_nothing_and_writes_its_files(folder, tmp_path, capfd):
  quiet = cf.fit(make_config(folder), tmp_path / "quiet", quiet=True)
  assert capfd.readouterr() == ("", "")
  loud = cf.fit(make_config(folder), tmp_path / "loud")
  assert "epoch 2/2" in capfd.readouterr().err
  jax.tree.map(np.testing.assert_array_equal, quiet.params, loud.params)
  names = [{file.name for file in run.iterdir()} for run in sorted(tmp_path.iterdir())]
  events = [{n for n in each if n.startswith("events.")} for each in names]
  assert all(events) and names[0] - events[0] == names[1] - events[1]


def test_runs_are_tidy_rows_without_data_or_checkpoints(folder, tmp_path):
  rows = cf.runs(str(folder / "runs"))
  assert [(row["run"], row["seed"], row["epoch"]) for row in rows] == [
    ("seed0", 0, 1),
    ("seed0", 0, 2),
    ("seed1", 1, 1),
    ("seed1", 1, 2),
  ]
  assert [row["schedule.learning_rate"] for row in rows] == [0.003] * 2 + [0.03] * 2
  assert "model.name" not in rows[0] and 0 <= rows[0]["eval_accuracy"] <= 1
  (single,) = {row["run"] for row in cf.runs(folder / "runs" / "seed0")}
  assert single == "."
  with pytest.raises(UserError, match="no run here"):
    cf.runs(tmp_path)
  running = tmp_path / "running"
  running.mkdir()
  text = (folder / "runs" / "seed0" / "config.json").read_text()
  (running / "config.json").write_text(text)
  assert cf.runs(tmp_path) == []
  (running / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo')
  assert [row["epoch"] for row in cf.runs(tmp_path)] == [1]
  (running / "metrics.jsonl").write_text("nonsense\n")
  with pytest.raises(UserError, match="metrics.jsonl: damaged"):
    cf.runs(tmp_path)


def test_costs_are_those_of_the_published_networks():
  found = cf.costs("configs/net6b.py")
  assert (found.parameters, found.multiply_adds) == (151_404, 44_252_196)
  assert "block1_conv1" in str(found) and "151,404" in str(found)
  assert sum(layer.parameters for layer in found.layers) == found.parameters
  assert (
    cf.costs("configs/cifar100.py").parameters
    != cf.costs("configs/cifar100.py", num_classes=10).parameters
  )


def test_a_notebook_shows_costs_in_the_columns_that_fit_a_page():
  shown = cf.costs("configs/net6b.py")._repr_html_()
  heads = re.search("<thead>(.*?)</thead>", shown)[1]
  heads = re.findall(">([^<>]+)<", heads)
  wanted = ["layer", "output", "window", "parameters", "multiply-adds", "field"]
  assert heads == wanted
  assert "151,404" in shown and "44,252,196" in shown
  assert "moving averages included" in shown


def test_a_notebook_shows_a_table_as_it_is():
  table = Table("a < b", ["<i>"], [["&amp;"]], ["<b>"])
  shown = table._repr_html_()
  for what in (">a &lt; b<", ">&lt;i&gt;<", ">&amp;amp;<", ">&lt;b&gt;<"):
    assert what in shown
  assert repr(table) == table.text()


def test_a_type_of_ones_own_has_a_name_and_may_be_defined_again(folder, monkeypatch):
  monkeypatch.setitem(registry.CONVOLUTIONS, "mine", Grouped)  # undone at the end
  config = make_config(folder)
  config.model.convolution = "mine"
  # Beside the four slots: 3*3*3*4 = 108, 16*10 + 10 = 170, BatchNorm 4 * 52 = 208.
  for parts, parameters in ((2, 486 + 4320 // 2), (4, 486 + 4320 // 4)):

    @cf.register("mine")
    class Mine(Grouped):
      groups: int = parts

    assert cf.costs(config).parameters == parameters
    program = steps.shared_program(config, jax.devices()[:1], 10, 8)
    assert program.network.convolution is Mine


def test_a_network_of_ones_own_has_a_name(folder, monkeypatch):
  monkeypatch.setitem(registry.NETWORKS, "mine", Grouped)  # undone at the end
  assert cf.register("mine")(Tiny) is Tiny
  config = make_config(folder)
  config.model.name = "mine"
  assert "stem_norm" in [layer.name for layer in cf.costs(config).layers]


@pytest.mark.parametrize(
  ("name", "cls", "message"),
  [
    ("plain", Grouped, "'plain'.: the project has this name"),
    ("net6b", Tiny, "'net6b'.: the project has this name"),
    ("mine", dict, "'mine'.: dict must be a subclass of Convolution or Network"),
  ],
)
def test_what_cannot_be_registered_is_refused(name, cls, message):
  before = registry.CONVOLUTIONS | registry.NETWORKS
  with pytest.raises(UserError, match=message):
    cf.register(name)(cls)
  assert before == registry.CONVOLUTIONS | registry.NETWORKS


def test_a_name_is_looked_up_in_the_results_of_the_repository(folder, monkeypatch):
  monkeypatch.setattr(api, "RESULTS", folder / "runs")
  assert cf.load("seed1").config.seed == 1
  with pytest.raises(UserError, match="'sed1': no such run directory; did you mean"):
    cf.load("sed1")
  with pytest.raises(UserError, match="checkpoint 'worst': must be best or last"):
    cf.load("seed1", "worst")
