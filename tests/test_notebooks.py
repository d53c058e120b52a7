"""The notebooks: committed as they ran from top to bottom, and they run again."""

import ast
import base64
import io
import json
import os
import pathlib
import re

import matplotlib.pyplot as plt
import nbclient
import nbformat
import pytest
from PIL import Image

from cifar_flax import config as config_lib
from cifar_flax import published
from cifar_flax.data import datasets

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = ("tour", "your_own_convolution")
MOST_BYTES = 700_000  # of a notebook
MOST_PIXELS = 1300  # of each side of a picture
MOST_CHARACTERS = 100  # in a line of code or of output
ABSOLUTE = re.compile(r"(?<![\w.~/])/(home|root|tmp|usr|opt|mnt|var|work|Users)\b")


def read(name):
  return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shows_something(source):
  """Returns whether a cell ends with an expression, or prints."""
  return isinstance(ast.parse(source).body[-1], ast.Expr) or "print(" in source


def check(notebook):
  """Fails unless a notebook is as it ran from top to bottom, and fit to be read."""
  nbformat.validate(notebook)
  assert len(nbformat.writes(notebook)) <= MOST_BYTES
  cells = code_cells(notebook)
  counts = [cell.execution_count for cell in cells]
  assert counts == list(range(1, len(cells) + 1))
  for cell in notebook.cells:
    check_text(cell.source)
  for cell in cells:
    assert bool(cell.outputs) == shows_something(cell.source), cell.source
    for output in cell.outputs:
      assert output.output_type in ("stream", "display_data", "execute_result"), output
      assert output.get("name") != "stderr", output.text
      contents = {"text": output.text} if "text" in output else dict(output.data)
      for kind, content in contents.items():
        check_content(kind, content, also=contents)


def check_content(kind, content, also):
  """Checks one form of an output; `also` has all of its forms."""
  if kind.startswith("image/"):
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert picture.format == "PNG" and max(picture.size) <= MOST_PIXELS, picture.size
  else:
    is_seen = kind == "text" or (kind == "text/plain" and also.keys() == {kind})
    check_text(content, MOST_CHARACTERS if is_seen else None)


def check_text(text, most_characters=MOST_CHARACTERS):
  assert not ABSOLUTE.search(text), text
  if most_characters is not None:
    assert all(len(line) <= most_characters for line in text.splitlines()), text


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_as_it_ran(name):
  check(read(name))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_lead_to_files_and_headings(name):
  notebook = read(name)
  text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
  headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
  links = re.findall(r"\]\(([^)]+)\)", text)
  assert links
  for link in links:
    if link.startswith("#"):
      assert link[1:] in [heading.replace(" ", "-") for heading in headings]
    else:
      assert (FOLDER / link).is_file(), link


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
  """Variables of a user's kernel, with shapes10 prepared in a folder of its own."""
  top = tmp_path_factory.mktemp("notebooks")
  variables = {"TFDS_DATA_DIR": str(top / "tfds"), "XDG_CACHE_HOME": str(top / "cache")}
  with pytest.MonkeyPatch.context() as patch:
    for name, value in variables.items():
      patch.setenv(name, value)
    datasets.load(config_lib.Data(dataset="shapes10"))
  ours = ("XLA_FLAGS", "JAX_NUMPY_RANK_PROMOTION")  # those of the tests
  return {k: v for k, v in os.environ.items() if k not in ours} | variables


@pytest.mark.full
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom(name, environment):
  notebook = read(name)
  for cell in code_cells(notebook):
    cell.outputs, cell.execution_count = [], None
  client = nbclient.NotebookClient(
    notebook,
    timeout=1800,
    resources={"metadata": {"path": str(FOLDER)}},
  )
  client.execute(env=environment)
  check(notebook)


def run_cell_of_curves(folder, monkeypatch):
  """Runs the tour's cell that reads `results/` in a folder; returns its variables."""
  first, *others = [cell.source for cell in code_cells(read("tour"))]
  (cell,) = [source for source in others if "../results" in source]
  imports = [
    node
    for node in ast.parse(first).body
    if isinstance(node, ast.Import | ast.ImportFrom)
  ]
  (folder / "notebooks").mkdir(exist_ok=True)
  monkeypatch.chdir(folder / "notebooks")
  monkeypatch.setattr(plt, "show", lambda: None)
  variables = {}
  plt.switch_backend("agg")
  program = ast.Module(imports + ast.parse(cell).body, [])
  exec(compile(program, "tour", "exec"), variables)
  plt.close("all")
  return variables


def write_run(workdir, name, accuracies, data):
  config = config_lib.load(f"configs/{name}.py")
  config.num_epochs = len(accuracies)
  rows = [
    {"epoch": epoch, "eval_accuracy": accuracy, "eval_loss": accuracy and 1.0}
    | dict.fromkeys(("train_accuracy", "train_loss", "images_per_second"), 0.5)
    | {"seconds": 1.0}
    for epoch, accuracy in enumerate(accuracies, 1)
  ]
  facts = {"parameters": 1, "num_epochs": len(rows), "device": "a", "data": data}
  facts |= {"final_eval_accuracy": accuracies[-1], "max_train_accuracy": 0.5}
  facts |= {"seconds": 1.0, "versions": {}}
  workdir.mkdir(parents=True)
  (workdir / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
  (workdir / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
  (workdir / "summary.json").write_text(json.dumps(facts))


def solid_lines(variables):
  lines = variables["axes"].lines
  return [
    (list(line.get_xdata()), list(line.get_ydata()))
    for line in lines
    if line.get_linestyle() == "-"
  ]


def test_the_tour_draws_our_runs_over_the_published_ones(tmp_path, monkeypatch, capsys):
  every = {"name": "cifar10", "version": "1", "fingerprint": "", "train_split": "train"}
  every |= {"eval_split": "test", "train_examples": 50_000, "eval_examples": 10_000}
  few = every | {"train_split": "train[:10]", "train_examples": 10}
  results = tmp_path / "results"
  write_run(results / "net6b", "net6b", [0.5, None, 0.625], every)
  write_run(results / "net6b_again", "net6b", [0.25, 0.75], every)
  write_run(results / "net6a_wide", "net6a_wide", [0.875], few)
  variables = run_cell_of_curves(tmp_path, monkeypatch)
  assert solid_lines(variables) == [([1, 3], [50.0, 62.5]), ([1, 2], [25.0, 75.0])]
  ends = {
    100 * rows[-1]["test_accuracy"]
    for name in published.CONFIGS
    if (rows := published.curves(name))
  }
  dashed = [x for x in variables["axes"].lines if x.get_linestyle() == "--"]
  assert len(dashed) == 4 and {line.get_ydata()[-1] for line in dashed} == ends
  assert "2 of our runs" in capsys.readouterr().out


def test_the_tour_says_that_there_are_no_results(tmp_path, monkeypatch, capsys):
  variables = run_cell_of_curves(tmp_path, monkeypatch)
  assert not solid_lines(variables) and len(variables["axes"].lines) == 4
  assert "no comparable run in results/ yet" in capsys.readouterr().out
