"""The report in Chromium, on a phone and on a screen: `make test-pages`.

SCREENSHOTS=DIR keeps a picture of each page, to be looked at.
"""

import functools
import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest

from cifar_flax import __main__ as commands
from cifar_flax import config as config_lib
from cifar_flax import registry, train
from cifar_flax.data import datasets
from cifar_flax.tools import predictions

pytestmark = pytest.mark.pages
WIDTHS = (390, 1280)
SCHEMES = ("light", "dark")
NAMES = ("nine", "one", "many")


def images_of(number, classes, seed):
  rng = np.random.default_rng(seed)
  labels = np.arange(number, dtype=np.int32) % classes
  images = rng.integers(0, 256, (number, 32, 32, 3)).astype(np.uint8)
  return datasets.Split(images, labels)


def dataset_of(classes):
  names = [f"class {i:03d}, a name that is long" for i in range(classes)]
  info = datasets.Info("cifar10", "1", 0, f"print{classes}", names)
  number = 2 * max(classes, 10)
  return datasets.Dataset(
    images_of(64, classes, 0), images_of(number, classes, 1), info
  )


def trained(folder):
  """Trains a network for an epoch."""
  values = {"model.name": "tiny", "name": "a_config", "batch_size": "16"}
  values |= {"num_epochs": "1", "eval_batch_size": "20"}
  config = config_lib.override(config_lib.Config(), values)
  train.train_and_evaluate(config, folder)


def varied(source, target, accuracy, **changes):
  """Copies a run as one of other settings, and sets its accuracy."""
  shutil.copytree(source, target)
  config = config_lib.override(config_lib.load(str(source / "config.json")), changes)
  (target / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
  row = json.loads((source / "metrics.jsonl").read_text())
  row |= {"eval_accuracy": accuracy, "images_per_second": 1000 * accuracy**2}
  (target / "metrics.jsonl").write_text(json.dumps(row) + "\n")


def write_nine(one, folder):
  """Writes runs of nine settings with three seeds each, as if they had been trained."""
  rng = np.random.default_rng(0)
  for rate in ("0.001", "0.003", "0.01"):
    for crop in ("0", "2", "4"):
      for seed in ("0", "1", "2"):
        keys = {"schedule.learning_rate": rate, "augmentation.crop_padding": crop}
        target = folder / f"{rate} {crop} {seed}"
        varied(one, target, rng.uniform(0.5, 0.9), seed=seed, **keys)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
  """Writes the reports of nine settings, of one run, and of 200 classes."""
  runs = tmp_path_factory.mktemp("runs")
  found = {name: runs / "reports" / name for name in NAMES}
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(registry.NETWORKS, "tiny", "tiny:Tiny")
    for name, classes in (("one", 10), ("nine", 10), ("many", 200)):
      patch.setattr(datasets, "load", lambda config, n=classes: dataset_of(n))
      predictions._evaluation_data.cache_clear()
      if name == "nine":
        write_nine(runs / "one", runs / "nine")
      else:
        trained(runs / name)
      assert commands.main(["report", str(runs / name), f"--output={found[name]}"]) == 0
  return found


@pytest.fixture(scope="module")
def browser():
  try:
    from playwright import sync_api
  except ImportError:
    pytest.fail("playwright is not installed: pip install -e .[pages]")
  names = ("chromium", "chromium-browser", "google-chrome")
  with sync_api.sync_playwright() as playwright:
    own = playwright.chromium.executable_path  # if `playwright install` was called
    path = next((found for name in names if (found := shutil.which(name))), own)
    if not os.path.exists(path):
      pytest.fail("there is no Chromium: apt-get install chromium")
    opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def open_page(browser, pages):
  """Returns a function that opens a page, once, with all sections unfolded.

  What Chromium complains about is in `complaints` of the page.
  """

  @functools.cache
  def opened(name, width, scheme="light"):
    size = {"width": width, "height": 844}
    page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("requestfailed", lambda failed: page.complaints.append(failed.url[:80]))
    page.goto((pages[name] / "report.html").as_uri())
    for summary in page.query_selector_all("details:not([open]) > summary"):
      summary.click()
    assert not page.query_selector_all("details:not([open])")
    return page

  return opened


# The rectangles of elements, and whether what is cut off can be scrolled to.
MEASURE = """selector => [...document.querySelectorAll(selector)].map(e => {
  const box = e.getBoundingClientRect(), scroll = e.closest('.scroll')
  return {left: box.left, right: box.right, top: box.top, width: box.width,
          natural: e.naturalWidth,
          inside: scroll && scroll.getBoundingClientRect().right,
          scrolls: scroll && getComputedStyle(scroll).overflowX == 'auto'}})"""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wider_than_the_window(open_page, name, width, scheme):
  page = open_page(name, width, scheme)
  assert not page.complaints
  if folder := os.environ.get("SCREENSHOTS"):
    file = pathlib.Path(folder) / f"{name}_{width}_{scheme}.png"
    page.screenshot(path=file, full_page=True)
  assert page.evaluate("document.documentElement.scrollWidth") <= width
  for box in page.evaluate(MEASURE, "h1, h2, p, li, dd, figcaption, .scroll"):
    assert box["left"] >= 0 and box["right"] <= width
  for box in page.evaluate(MEASURE, "table, img"):
    assert box["right"] <= width or (box["scrolls"] and box["inside"] <= width)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_drawn_large_enough_to_be_read(open_page, name, width):
  found = open_page(name, width).evaluate(MEASURE, "img")
  assert len(found) >= 5
  for box in found:
    assert box["natural"] > 100 and box["width"] >= 0.74 * box["natural"]


@pytest.mark.parametrize("name", NAMES)
def test_matrices_are_side_by_side_where_there_is_room(open_page, name):
  selector = "img[src]:not(.photo)[alt$='seed 0']"
  wide, narrow = (open_page(name, w).evaluate(MEASURE, selector) for w in (1280, 390))
  tops = [box["top"] for box in wide]
  assert len(tops) == {"nine": 9, "one": 1, "many": 1}[name]
  assert len(set(tops)) == {"nine": 3, "one": 1, "many": 1}[name]
  assert len({box["top"] for box in narrow}) == len(narrow)


def numbers_in(text):
  return [float(part.replace(",", "")) for part in re.findall(r"-?[\d,]*\.?\d+", text)]


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_on_the_page_are_those_of_the_tables(open_page, pages, name):
  shown = open_page(name, 1280).evaluate(
    "[...document.querySelectorAll('table')].map(t =>"
    " [...t.rows].map(r => [...r.cells].map(c => c.innerText)))"
  )
  files = sorted((pages[name] / "tables").glob("*.json"))
  assert len(files) == len(shown) == {"nine": 11, "one": 2, "many": 2}[name]
  for file in files:
    rows = json.loads(file.read_text())["rows"]
    columns = [column for column in rows[0] if not column.endswith(", std")]
    same = [table for table in shown if matches(table, columns, rows)]
    assert same, f"{file.name} is not on the page"


def matches(table, columns, rows):
  """Returns whether a table of the page shows these rows, rounded."""
  head, *body = table
  if head != columns or len(body) != len(rows):
    return False
  for cells, row in zip(body, rows, strict=True):
    for column, cell in zip(columns, cells, strict=True):
      value, deviation = row[column], row.get(f"{column}, std")
      if isinstance(value, int | float):
        expected = [value] if deviation is None else [value, deviation]
        digits = len(cell.partition(" ±")[0].partition(".")[2])
        if numbers_in(cell) != pytest.approx(expected, abs=0.501 * 10**-digits):
          return False
      elif cell != (value or "-"):
        return False
  return True


def test_the_best_accuracy_is_marked(open_page, pages):
  rows = json.loads((pages["nine"] / "tables" / "runs.json").read_text())["rows"]
  best = max(rows, key=lambda row: row["accuracy on test, %"])
  marked = open_page("nine", 390).evaluate(
    "[...document.querySelectorAll('td:nth-child(3) strong')].map("
    "e => [e.closest('tr').cells[0].innerText, e.innerText])"
  )
  ((config, accuracy),) = marked
  assert config == best["config"]
  assert accuracy.startswith(f"{best['accuracy on test, %']:.2f} ± ")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_stands_out_from_the_page(open_page, scheme):
  colors = open_page(NAMES[0], 390, scheme).evaluate(
    "['body', 'dt', 'li', 'thead th', 'figcaption', 'td strong'].flatMap(s =>"
    " [...document.querySelectorAll(s)].slice(0, 1).map(e =>"
    " [getComputedStyle(e).color, getComputedStyle(s == 'td strong' ? e :"
    " s == 'dt' ? e.parentElement : document.body).backgroundColor]))"
  )
  assert len(colors) >= 5
  dark = [luminance(background) < 0.1 for _, background in colors]
  assert all(dark) if scheme == "dark" else not any(dark)
  for pair in colors:
    low, high = sorted(map(luminance, pair))
    assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG 2.1, level AA


def luminance(color):
  """Returns the relative luminance of a colour, as WCAG 2.1 defines it."""
  channels = np.array(numbers_in(color)[:3]) / 255
  linear = np.where(
    channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
  )
  return linear @ (0.2126, 0.7152, 0.0722)
