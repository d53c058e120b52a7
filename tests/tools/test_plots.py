"""Figures of costs and curves: positions, labels, colours and scales."""

import io
import itertools
import types

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from cifar_flax import figures, published
from cifar_flax.tools import labels, plots
from cifar_flax.tools import predictions as predictions_lib
from cifar_flax.tools.comparison import Entry

COST = "time per image, µs"
TYPES = ("plain", "spatially_separable", "depthwise_separable", "grouped", "filters")


def entry(name, accuracies, cost, group=""):
  return Entry(name, dict(enumerate(accuracies)), {COST: cost}, group)


def draw(entries):
  figure = plots.cost(entries, COST, "accuracy on test, %", "cifar10, n = 3")
  FigureCanvasAgg(figure).draw()
  return figure, figure.axes[0]


def random_entries(number, close=False, seeds=3):
  """Returns entries with realistic accuracies, all near to each other or not."""
  rng = np.random.default_rng(number)
  found = []
  for i in range(number):
    cost = rng.uniform(0, 1)
    accuracy = 85 + 0.3 * rng.normal() if close else 75 + 10 * cost + rng.normal()
    values = accuracy + 0.3 * rng.normal(size=seeds)
    cost = 132_474 + 40 * i if close else 10_890 * 12.16**cost
    found.append(entry(f"{TYPES[i % 5]}_{i}", values, cost))
  return found


def written(figure):
  texts = (text.get_text() for text in figure.findobj(match=is_text))
  return " ".join(" ".join(texts).split())


def is_text(artist):
  return hasattr(artist, "get_text") and artist.get_visible()


def names(axes):
  """Returns the labels beside the points."""
  return [text for text in axes.texts if hasattr(text, "xyann")]


def box(text):
  return text.get_window_extent().extents


def overlap(a, b):
  return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def obstacles(axes):
  """Returns the boxes of what is drawn; long lines are many small boxes."""
  found = []
  for bars in axes.containers:
    marker, caps, lines = bars.lines
    (center,) = axes.transData.transform(marker.get_xydata())
    radius = marker.get_markersize() / 2 * 100 / 72  # pixels
    found.append(np.r_[center - radius, center + radius])
    for line in lines:
      (ends,) = line.get_segments()
      (x, low), (_, high) = axes.transData.transform(ends)
      found.append(np.array([x - 0.7, low, x + 0.7, high]))
    for cap in caps:
      (center,) = axes.transData.transform(cap.get_xydata())
      size = cap.get_markersize() / 2 * 100 / 72
      found.append(np.r_[center - (size, 0.5), center + (size, 0.5)])
  for line in axes.lines:
    if line.get_gid() in ("front", "leader"):
      ends = axes.transData.transform(line.get_xydata())
      for start, end in itertools.pairwise(ends):
        shares = np.linspace(0, 0.999, 2000)[:, None]  # a leader touches its label
        found += [np.r_[p - 0.2, p + 0.2] for p in start + shares * (end - start)]
  return found


@pytest.mark.parametrize(
  "number, close, seeds",
  [
    (1, False, 3),
    (2, False, 3),
    (6, False, 3),
    (14, False, 3),
    (30, False, 3),
    (30, False, 1),
    (2, True, 3),
    (14, True, 3),
  ],
)
def test_nothing_crosses_a_label(number, close, seeds):
  _, axes = draw(random_entries(number, close, seeds))
  texts = names(axes)
  assert len(texts) == number
  for one, other in itertools.combinations(texts, 2):
    assert not overlap(box(one), box(other)), (one, other)
  boxes = np.array([box(text) for text in texts])
  drawn = np.array(obstacles(axes))
  low = np.maximum(boxes[:, None, :2], drawn[None, :, :2])
  high = np.minimum(boxes[:, None, 2:], drawn[None, :, 2:])
  assert not (low + 0.3 < high).all(-1).any()
  left, bottom, right, top = axes.get_window_extent().extents
  assert (boxes >= [left, bottom, left, bottom]).all()
  assert (boxes <= [right, top, right, top]).all()


def test_a_label_is_near_its_point_or_has_a_leader_to_it():
  entries = random_entries(14, close=True)
  _, axes = draw(entries)
  leaders = [
    axes.transData.transform(line.get_xydata())
    for line in axes.lines
    if line.get_gid() == "leader"
  ]
  assert leaders
  for text in names(axes):
    (found,) = [each for each in entries if each.name == text.get_text()]
    place = axes.transData.transform((found.costs[COST], found.mean))
    nearest = np.clip(place, box(text)[:2], box(text)[2:])
    ends = [leader for leader in leaders if np.allclose(leader[0], place, atol=0.01)]
    if np.hypot(*(nearest - place)) > labels.NEAR + 0.01:
      (line,) = ends
      np.testing.assert_allclose(line[1], nearest, atol=0.5)


def test_the_same_entries_give_the_same_picture():
  one, other = (figures.png(draw(random_entries(14, close=True))[0]) for _ in range(2))
  assert one == other


def test_points_are_means_and_bars_standard_deviations():
  values = {"a": [80.0, 81.5, 84.0], "b": [70.0, 71.0], "c": [75.0]}
  _, axes = draw([entry(k, v, 1000.0 * len(v)) for k, v in values.items()])
  for bars, (name, each) in zip(axes.containers, values.items(), strict=True):
    assert bars.lines[0].get_xydata().tolist() == [[1000.0 * len(each), np.mean(each)]]
    if name == "c":
      assert not bars.lines[2] and not bars.has_yerr
      continue
    ends = bars.lines[2][0].get_segments()[0][:, 1]
    np.testing.assert_allclose(ends.mean(), np.mean(each))
    np.testing.assert_allclose(np.ptp(ends), 2 * np.std(each, ddof=1))


def number_of(text):
  factor = {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1])
  return float(text[:-1]) * factor if factor else float(text.replace(",", ""))


@pytest.mark.parametrize(
  "low, high",
  [
    (7.6e6, 7.6e6),
    (7.61e6, 7.62e6),
    (132_470, 132_474),
    (10_890, 132_474),
    (900, 1100),
    (1, 1e7),
    (0.03, 0.4),
    (18.5, 41.0),
    (40_000, 160_000),
  ],
)
def test_the_axis_of_costs_is_logarithmic_with_ticks_within_the_range(low, high):
  _, axes = draw([entry("a", [80.0], low), entry("b", [81.0], high)])
  assert axes.get_xscale() == "log"
  left, right = axes.get_xlim()
  assert left < low <= high < right
  ticks = axes.get_xticks()
  texts = [label.get_text() for label in axes.get_xticklabels()]
  assert 2 <= len(ticks) <= 12 and not len(axes.get_xticks(minor=True))
  assert all(left <= tick <= right for tick in ticks)
  np.testing.assert_allclose([number_of(text) for text in texts], ticks, rtol=1e-6)
  boxes = [box(label) for label in axes.get_xticklabels()]
  assert not any(overlap(*pair) for pair in itertools.combinations(boxes, 2))


def test_the_pareto_front_joins_what_differs_clearly():
  entries = [
    entry("cheap", [70.0, 70.1, 70.2], 1000),
    entry("noise", [70.0, 70.3, 70.2], 2000),
    entry("good", [75.0, 75.1, 75.2], 3000),
  ]
  figure, axes = draw(entries)
  (line,) = [line for line in axes.lines if line.get_gid() == "front"]
  np.testing.assert_allclose(line.get_xydata(), [[1000, 70.1], [3000, 75.1]])
  assert "Pareto front" in written(figure)
  two_seeds = [entry(e.name, list(e.accuracies.values())[:2], 9) for e in entries]
  figure, axes = draw(two_seeds)
  assert not [line for line in axes.lines if line.get_gid() == "front"]
  assert "Pareto" not in written(figure)


def test_entries_without_a_cost_are_named_in_small_print():
  known = [entry("a", [80.0], 1000), entry("b", [81.0], 2000)]
  figure, axes = draw([*known, entry("c", [82.0], None), Entry("d", {0: 83.0}, {})])
  assert [text.get_text() for text in names(axes)] == ["a", "b"]
  assert "Not shown (time per image unknown): c, d." in written(figure)
  assert "Not shown" not in written(draw(known)[0])
  figure, axes = draw([entry("c", [82.0], None, "in the same slots")])
  assert not axes.containers and "Unknown for all: time per image." in written(figure)
  assert "There are no results." in written(draw([])[0])


def color_of(bars):
  return colors.to_hex(bars.lines[0].get_color())


def test_a_name_has_one_color_and_a_group_one_marker():
  entries = [
    entry(name, [80.0 + i, 81.0 + i + j], 1000 * (1 + i) * (1 + j), group)
    for j, group in enumerate(("in the same slots", "at the same parameters"))
    for i, name in enumerate(TYPES)
  ]
  figure, axes = draw(entries)
  color, marker = {}, {}
  for bars, each in zip(axes.containers, entries, strict=True):
    color.setdefault(each.name, set()).add(color_of(bars))
    marker.setdefault(each.group, set()).add(bars.lines[0].get_marker())
  assert all(len(found) == 1 for found in [*color.values(), *marker.values()])
  assert len(set.union(*color.values())) == 5 and len(set.union(*marker.values())) == 2
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == list(marker)
  assert not overlap(legend.get_window_extent().extents, axes.bbox.extents)
  assert not draw(entries[:5])[0].legends  # one group


def test_colors_do_not_depend_on_the_cost_that_is_known():
  entries = [entry(name, [80.0 + i], 10.0 + i) for i, name in enumerate("abc")]
  _, every = draw(entries)
  _, rest = draw([entry("a", [80.0], None), *entries[1:]])
  assert [color_of(each) for each in every.containers][1:] == [
    color_of(each) for each in rest.containers
  ]


def test_an_entry_that_groups_share_is_drawn_and_labelled_once():
  groups = ("in the same slots", "at the same parameters")
  same = [entry("plain", [85.0, 85.4], 132_474, group) for group in groups]
  other = [entry("grouped", [80.0 + i], 5000, g) for i, g in enumerate(groups)]
  figure, axes = draw([*same, *other])
  assert [text.get_text() for text in names(axes)] == ["plain", "grouped", "grouped"]
  kinds = [bars.lines[0].get_marker() for bars in axes.containers]
  assert len(set(kinds)) == 3
  texts = [text.get_text() for text in figure.legends[0].get_texts()]
  assert texts == [*groups, "in several of these"]


def test_twenty_colors_can_be_told_apart():
  _, axes = draw(random_entries(20))
  found = {color_of(bars) for bars in axes.containers}
  assert len(found) == 20
  rgb = np.array([colors.to_rgb(color) for color in found])
  gaps = np.linalg.norm(rgb[:, None] - rgb, axis=-1) + np.eye(20)
  assert gaps.min() > 0.15
  assert (np.array([1, 1, 1]) - rgb).max(1).min() > 0.3  # none is nearly white


def test_title_and_subtitle_are_in_the_picture():
  figure, axes = draw(random_entries(2))
  assert "Accuracy against time per image" in written(figure)
  assert "cifar10, n = 3" in written(figure)
  assert (axes.get_xlabel(), axes.get_ylabel()) == (COST, "accuracy on test, %")
  assert tuple(figure.get_size_inches()) == (5, 4.6) and figure.dpi == 100
  sizes = [text.get_fontsize() for text in figure.findobj(match=is_text)]
  assert min(sizes) >= 8


def group(number):
  rows = [
    {
      "eval_accuracy": 0.5 + 0.01 * number,
      "train_accuracy": 0.6,
      "eval_loss": 1.0 - 0.01 * number,
      "train_loss": 1.0,
    }
  ] * 3
  runs = [types.SimpleNamespace(rows=rows)]
  label = f"depthwise_separable, batch_size={number}"
  made = types.SimpleNamespace(
    label=label, name=label, runs=runs, published=False, eval_split="test"
  )
  made.values = lambda name: [run.rows[-1][name] for run in made.runs]
  return made


NAMES = ["$x_{1$", "_hidden", "a|<b>&amp;", "two\nlines", "\udcff", "猫", "x" * 300]


def texts_of(figure):
  FigureCanvasAgg(figure).draw()
  return [text for text in figure.findobj(match=is_text) if text.get_text()]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_are_shown_as_they_are():
  groups = [group(i) for i in range(len(NAMES))]
  for each, name in zip(groups, NAMES, strict=True):
    each.label = each.eval_split = name
  entries = [entry(name, [80.0 + i], 1000 + i) for i, name in enumerate(NAMES)]
  found = predictions(len(NAMES), names=NAMES)
  for figure in (
    *plots.curves(groups).values(),
    plots.cost(entries, COST, "$accuracy", "$sub_{title$"),
    plots.confusion(found),
    plots.mistakes(found),
  ):
    assert figures.png(figure).startswith(b"\x89PNG")
    shown_texts = texts_of(figure)
    assert not any(text.get_parse_math() for text in figure.findobj(Text))
    joined = " ".join(text.get_text() for text in shown_texts)
    for name in ("$x_{1$", "_hidden", "a|<b>&amp;", r"two\nlines", r"\xff", "猫"):
      assert name in joined
    assert "xxxxxx…xxxxxx" in joined


def predictions(classes, images=400, names=None):
  """Returns random predictions, half of them right."""
  rng = np.random.default_rng(0)
  labels_ = rng.integers(0, classes, images)
  guessed = rng.integers(0, classes, images)
  predicted = np.where(rng.random(images) < 0.5, labels_, guessed)
  pixels = np.zeros((images, 32, 32, 3), np.uint8)
  names = names or [f"class {i}" for i in range(classes)]
  return predictions_lib.Predictions(
    None, pixels, labels_, names, predicted, rng.random(images)
  )


def test_a_thousand_classes_have_a_picture_of_those_confused_most():
  found = predictions(1000, images=20_000)
  # Classes 3 and 999 are confused more than all others.
  found.labels[:500], found.predicted[:500] = 3, 999
  figure = plots.confusion(found)
  ticks = [text.get_text() for text in figure.axes[0].get_yticklabels()]
  assert len(ticks) <= plots.MOST_CLASSES and {"class 3", "class 999"} <= set(ticks)
  assert f"{len(ticks)} of 1,000 classes" in written(figure)
  share = 100 * 500 / (found.labels == 3).sum()
  assert f"{share:.0f}" in [text.get_text() for text in figure.axes[0].texts]
  with Image.open(io.BytesIO(figures.png(figure))) as picture:
    assert max(picture.size) <= figures.MAX_PIXELS
  assert "of 10 classes" not in written(plots.confusion(predictions(10)))


def test_the_gap_is_that_of_the_highest_training_accuracy_so_far():
  each = group(0)
  rows = [{**each.runs[0].rows[0], "train_accuracy": t} for t in (0.6, 0.9, 0.7)]
  each.runs = [types.SimpleNamespace(rows=rows)]
  line = plots.curves([each])["gap"].axes[0].get_lines()[0]
  np.testing.assert_allclose(line.get_ydata(), [10, 40, 40])
  assert [published.gap(t, 0.5) for t in (0.6, 0.9)] == pytest.approx([0.1, 0.4])


def test_no_picture_is_larger_than_its_limit():
  data = figures.png(figures.panels(1, 200.0, 3.0)[0])
  with Image.open(io.BytesIO(data)) as picture:
    assert picture.size[0] == figures.MAX_PIXELS


def test_of_many_groups_the_most_accurate_are_drawn_and_it_is_said():
  figure = plots.curves([group(i) for i in range(200)])["loss"]
  texts = [text.get_text() for text in figure.legends[0].get_texts()]
  assert texts == [f"depthwise_separable, batch_size={i}" for i in range(180, 200)]
  title = figure.legends[0].get_title().get_text()
  assert title == "The 20 most accurate of 200 rows"
  figure, axes = draw(random_entries(200))
  assert len(axes.containers) == 200 and len(names(axes)) == plots.LABELS_OF_MANY
  assert "Labelled: 12 of 200 points" in written(figure)
  missing = [entry(f"m{i}", [80.0], None) for i in range(200)]
  assert "m9 and 190 more" in written(draw([*random_entries(2), *missing])[0])


@pytest.mark.parametrize("number", [1, 3, 20])
def test_curves_of_many_groups_can_be_told_apart(number):
  for figure in plots.curves([group(i) for i in range(number)]).values():
    FigureCanvasAgg(figure).draw()
    (axes,), (legend,) = figure.axes, figure.legends
    bold = [line for line in axes.lines if line.get_linewidth() > 1]
    assert len({line.get_color() for line in bold}) == len(bold) == number
    assert len({str(line._dash_pattern) for line in bold}) == -(-number // 8)
    assert len(legend.get_texts()) == number
    frame = legend.get_window_extent().extents
    assert not overlap(frame, axes.bbox.extents) and axes.bbox.height > 310
    boxes = [box(text) for text in legend.get_texts()]
    assert not any(overlap(*pair) for pair in itertools.combinations(boxes, 2))
    assert min(b[0] for b in boxes) >= 0
    assert max(b[2] for b in boxes) <= figure.bbox.width


def test_a_figure_has_the_same_bytes_each_time():
  first, second = (
    draw([entry("plain", (80, 81, 82), 10.0), entry("grouped", (70, 71, 72), 5.0)])[0]
    for _ in range(2)
  )
  assert figures.svg(first) == figures.svg(second)
  assert figures.png(first) == figures.png(second)
