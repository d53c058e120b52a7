"""Drawings, measured on what Matplotlib was given and on the text that it renders."""

import dataclasses
import itertools
import pathlib
import re

import flax.linen as nn
import jax.numpy as jnp
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Circle, FancyBboxPatch, Polygon
from matplotlib.transforms import Bbox

from cifar_flax import __main__ as commands
from cifar_flax import config as config_lib
from cifar_flax import convolutions, registry
from cifar_flax.models.network import Network
from cifar_flax.tools import drawing, layout, structure, summary
from cifar_flax.tools.structure import IMAGE

ROOT = pathlib.Path(__file__).parents[2]
A4 = (8.3, 11.7)  # inches
NEAR = 1e-6


class Residual(nn.Module):
  """x + f(x), with a projection of x where the number of channels changes."""

  features: int

  @nn.compact
  def __call__(self, x):
    y = nn.Conv(self.features, (3, 3), name="conv1")(x)
    y = nn.relu(nn.BatchNorm(use_running_average=True, name="norm1")(y))
    y = nn.Conv(self.features, (3, 3), name="conv2")(y)
    if x.shape[-1] != self.features:
      x = nn.Conv(self.features, (1, 1), name="projection")(x)
    return nn.relu(x + y)


class Nested(nn.Module):
  """Frames in frames, beside a skip."""

  features: int

  @nn.compact
  def __call__(self, x):
    y = convolutions.Plain(features=self.features, name="first")(x)
    y = nn.BatchNorm(use_running_average=True, name="norm")(y)
    return x + convolutions.FilterGroups(features=self.features, name="second")(y)


class Outer(nn.Module):
  """A frame more, beside another skip."""

  features: int

  @nn.compact
  def __call__(self, x):
    y = nn.BatchNorm(use_running_average=True, name="before")(x)
    return x + Nested(self.features, name="inner")(y)


class Excite(nn.Module):
  """A gate multiplies an earlier value."""

  features: int

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(self.features, (3, 3), name="conv")(x)
    gate = nn.relu(nn.Dense(4, name="down")(x.mean((1, 2))))
    gate = nn.sigmoid(nn.Dense(self.features, name="up")(gate))
    return x * gate[:, None, None, :]


class Inception(nn.Module):
  """Concatenates branches of different depth."""

  features: int

  @nn.compact
  def __call__(self, x):
    ends = [nn.Conv(8, (1, 1), name="branch1")(x)]
    for depth in (2, 3):
      y = x
      for number in range(depth):
        y = nn.Conv(8, (3, 3), name=f"branch{depth}_conv{number + 1}")(y)
      ends.append(y)
    return jnp.concatenate(ends, axis=-1)


class Blocks(Network):
  """A stem, blocks and a head."""

  block: type[nn.Module] = Residual
  widths: tuple[int, ...] = (16, 16, 16, 32, 32)

  @nn.compact
  def __call__(self, images, *, train: bool, example_keys=None):
    x = self.conv(16, (3, 3), name="stem")(images)
    for number, width in enumerate(self.widths):
      x = self.block(width, name=f"block{number + 1}")(x)
    return self.conv(self.num_classes, (1, 1), name="head")(x).mean((1, 2))


class Nests(Blocks):
  block: type[nn.Module] = Outer
  widths: tuple[int, ...] = (16, 16, 16)


class Excites(Blocks):
  block: type[nn.Module] = Excite
  widths: tuple[int, ...] = (16, 16, 16)


class Inceptions(Blocks):
  block: type[nn.Module] = Inception
  widths: tuple[int, ...] = (24, 24, 24)


class Deep(Blocks):
  """More than a page."""

  widths: tuple[int, ...] = (16,) * 20


class Hourglass(Network):
  """Skips that overlap: the outer half reads what the inner one jumps over."""

  @nn.compact
  def __call__(self, images, *, train: bool, example_keys=None):
    skipped, x = [], images
    for number in range(3):
      x = self.conv(8, (3, 3), name=f"down{number}")(x)
      skipped.append(x)
      x = self.max_pool(x)
    for number, other in enumerate(reversed(skipped)):
      x = self.conv(8, (3, 3), name=f"up{number}")(x.repeat(2, 1).repeat(2, 2))
      x = jnp.concatenate([x, other], axis=-1)
    return self.conv(self.num_classes, (1, 1), name="head")(x).mean((1, 2))


class Staggered(Network):
  """Skips that overlap without one being inside the other."""

  @nn.compact
  def __call__(self, images, *, train: bool, example_keys=None):
    ys = [self.conv(8, (3, 3), name="conv0")(images)]
    for number in range(1, 8):
      x = ys[-1] + (ys[number - 3] if number >= 3 else 0.0)
      ys.append(self.conv(8, (3, 3), name=f"conv{number}")(x))
    return self.conv(self.num_classes, (1, 1), name="head")(ys[-1]).mean((1, 2))


class Fan(Network):
  """More parallel branches than fit beside each other."""

  @nn.compact
  def __call__(self, images, *, train: bool, example_keys=None):
    branches = [self.conv(4, (3, 3), name=f"branch{i}")(images) for i in range(11)]
    x = jnp.concatenate(branches, axis=-1)
    return self.conv(self.num_classes, (1, 1), name="head")(x).mean((1, 2))


class ATypeWithAnExtremelyLongNameOfItsOwn(convolutions.Convolution):
  """Hides its arithmetic in a Fourier transform."""

  @nn.compact
  def __call__(self, x):
    shape = (1, 1, 1, self.features)
    scale = self.param("scale", nn.initializers.ones, shape)
    return jnp.abs(jnp.fft.fft(x, axis=1)).sum(-1, keepdims=True) * scale


TOYS = (Blocks, Nests, Excites, Inceptions, Deep, Hourglass, Staggered, Fan)
TOY_NAMES = [toy.__name__.lower() for toy in TOYS]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
CASES = [*CONFIGS, *registry.CONVOLUTIONS, *TOY_NAMES, "unknown"]


def layers_of(case):
  if case in CONFIGS:
    model = config_lib.load(str(ROOT / "configs" / f"{case}.py")).model
  elif case in TOY_NAMES:
    model = dataclasses.replace(config_lib.Config().model, name=case)
  else:
    model = config_lib.load(str(ROOT / "configs/conv_study.py")).model
    model = dataclasses.replace(model, convolution=case)
  return structure.layers(model)


class Picture:
  """What is on a drawing, in the coordinates of its axes: y points down.

  Attributes:
    boxes: of the image and of each layer, in their order.
    dots, marks: circles, as boxes around them.
    texts: pairs of a text and the box around it, as rendered.
  """

  def __init__(self, case):
    self.layers = layers_of(case)
    self.figure = drawing.draw(self.layers, case)
    canvas = FigureCanvasAgg(self.figure)
    canvas.draw()
    (axes,) = self.figure.axes
    self.page = Bbox.from_extents(0, 0, axes.get_xlim()[1], axes.get_ylim()[0])
    patches = [p for p in axes.patches if isinstance(p, FancyBboxPatch)]
    self.boxes = [tidy(p.get_bbox()) for p in patches if p.get_facecolor()[3]]
    self.frames = [tidy(p.get_bbox()) for p in patches if not p.get_facecolor()[3]]
    circles = [p for p in axes.patches if isinstance(p, Circle)]
    around = lambda p: Bbox.from_extents(  # noqa: E731
      *(c + sign * p.radius for sign in (-1, 1) for c in p.center)
    )
    white = (1, 1, 1, 1)
    self.marks = [around(p) for p in circles if p.get_facecolor() == white]
    self.dots = [around(p) for p in circles if p.get_facecolor() != white]
    self.heads = [p.get_xy()[0] for p in axes.patches if isinstance(p, Polygon)]
    self.lines = [line.get_xydata() for line in axes.lines]
    back, renderer = axes.transData.inverted(), canvas.get_renderer()
    self.texts = [
      (text.get_text(), tidy(text.get_window_extent(renderer).transformed(back)))
      for text in axes.texts
    ]
    self.sizes = [text.get_fontsize() for text in axes.texts]

  def inside(self, box):
    """Returns the texts whose middle is in a box, from top to bottom."""
    found = [(b.y0, t) for t, b in self.texts if box.contains(*middle(b))]
    return [text for _, text in sorted(found)]


def tidy(box):
  return Bbox.from_extents(box.xmin, box.ymin, box.xmax, box.ymax)


def middle(box):
  return (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2


def overlap(a, b):
  return (
    min(a.x1, b.x1) - max(a.x0, b.x0) > NEAR
    and min(a.y1, b.y1) - max(a.y0, b.y0) > NEAR
  )


def holds(outer, inner):
  return (
    outer.x0 <= inner.x0
    and inner.x1 <= outer.x1
    and outer.y0 <= inner.y0
    and inner.y1 <= outer.y1
  )


def segments(line):
  return itertools.pairwise(line.tolist())


def crosses(segment, box):
  """Tells whether a segment has a point strictly inside a box (Liang and Barsky)."""
  (x, y), (to_x, to_y) = segment
  enter, leave = 0.0, 1.0
  limits = [(x, to_x - x, box.x0, box.x1), (y, to_y - y, box.y0, box.y1)]
  for start, step, low, high in limits:
    low, high = low + NEAR, high - NEAR
    if abs(step) < NEAR:
      if not low < start < high:
        return False
      continue
    times = sorted(((low - start) / step, (high - start) / step))
    enter, leave = max(enter, times[0]), min(leave, times[1])
  return enter < leave


@pytest.fixture(scope="module", params=CASES)
def picture(request):
  with pytest.MonkeyPatch.context() as patch:
    for toy in TOYS:
      name = toy.__name__.lower()
      patch.setitem(registry.NETWORKS, name, f"{__name__}:{toy.__name__}")
    kind = ATypeWithAnExtremelyLongNameOfItsOwn.__name__
    patch.setitem(registry.CONVOLUTIONS, "unknown", f"{__name__}:{kind}")
    made = Picture(request.param)
    made.case = request.param
    yield made


def test_there_is_a_box_for_each_layer_and_none_overlap(picture):
  assert len(picture.boxes) == 1 + len(picture.layers)
  shapes = [*picture.boxes, *picture.dots, *picture.marks]
  assert not [pair for pair in itertools.combinations(shapes, 2) if overlap(*pair)]
  assert all(holds(picture.page, box) for box in [*shapes, *picture.frames])


def test_a_frame_holds_the_layers_of_its_module(picture):
  parents = {layer.name.rpartition("/")[0] for layer in picture.layers} - {""}
  for layer, box in zip(picture.layers, picture.boxes[1:], strict=True):
    around = sum(holds(frame, box) for frame in picture.frames)
    assert around == sum(f"{layer.name}/".startswith(f"{p}/") for p in parents)
    assert around == sum(overlap(frame, box) for frame in picture.frames)
  assert {text for text, _ in picture.texts} >= parents


def test_no_line_runs_through_a_box_or_a_text(picture):
  blocks = [*picture.boxes, *picture.marks, *(box for _, box in picture.texts)]
  for line in picture.lines:
    for segment in segments(line):
      assert not [box for box in blocks if crosses(segment, box)]


def test_no_line_runs_through_the_frame_of_others(picture):
  for line in picture.lines:
    ends = [(line[0][0], line[0][1] - 0.01), (line[-1][0], line[-1][1] + 0.01)]
    for frame in picture.frames:
      if not any(frame.contains(*end) for end in ends):
        assert not any(crosses(segment, frame) for segment in segments(line))


def test_lines_of_different_layers_share_no_lane(picture):
  found = {}
  for line in picture.lines:
    for (x, y), (to_x, to_y) in segments(line):
      if abs(x - to_x) < NEAR:
        # Lines may share their beginning, or their end where they enter a box.
        enters = to_y == line[-1][1]
        shared = {("from", *line[0])} | ({("to", *line[-1])} if enters else set())
        found.setdefault(round(x, 3), []).append((y, to_y, shared))
  for spans in found.values():
    for a, b in itertools.combinations(spans, 2):
      assert min(a[1], b[1]) - max(a[0], b[0]) < NEAR or a[2] & b[2]


def sources_by_lines(picture):
  """Returns the boxes that each box is reached from, by following the lines."""
  places = [*picture.boxes, *picture.dots]
  numbers = [picture.inside(mark)[0] for mark in picture.marks]

  def place(x, y):
    for number, box in enumerate(picture.marks):
      if near(x, y, box):
        return f"mark {numbers[number]}"
    (found,) = [i for i, box in enumerate(places) if near(x, y, box)]
    return found

  def near(x, y, box):
    return abs(x - middle(box)[0]) < 1e-3 and box.y0 - 1e-3 < y < box.y1 + 1e-3

  edges = {(place(*line[0]), place(*line[-1])) for line in picture.lines}

  def boxes_before(target):
    found = set()
    for source, end in edges:
      if end == target:
        box = isinstance(source, int) and source < len(picture.boxes)
        found |= {source} if box else boxes_before(source)
    return found

  return [boxes_before(number) for number in range(len(picture.boxes))]


def test_the_lines_lead_to_each_layer_from_what_it_reads(picture):
  image, *found = sources_by_lines(picture)
  assert not image and IMAGE == -1
  inputs = [layer.receptive_field.inputs for layer in picture.layers]
  assert found == [{source + 1 for source in sources} for sources in inputs]


def test_arrows_point_down_at_boxes(picture):
  tops = {tuple(round(c, 5) for c in (middle(b)[0], b.y0)) for b in picture.boxes[1:]}
  assert {tuple(round(c, 5) for c in head) for head in picture.heads} == tops


def test_texts_lie_in_their_boxes_and_on_the_page(picture):
  for (text, box), other in itertools.combinations(picture.texts, 2):
    assert not overlap(box, other[1]), (text, other[0])
  for text, box in picture.texts:
    assert holds(picture.page, box), text
    around = [b for b in [*picture.boxes, *picture.marks] if overlap(b, box)]
    assert all(holds(b, box) for b in around) and len(around) <= 1, text
    assert not [f for f in picture.frames if overlap(f, box) and not holds(f, box)], (
      text
    )


UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
COST = r"(≥ )?([\d.]+) ?([kMG]?) (params|mult-adds)"


def test_each_box_has_its_costs_and_what_it_sees(picture):
  assert picture.inside(picture.boxes[0]) == ["image 32x32x3"]
  for layer, box in zip(picture.layers, picture.boxes[1:], strict=True):
    _, shape, *costs = picture.inside(box)
    output = "x".join(map(str, layer.output))
    bound = "" if layer.receptive_field.exact else "≤ "
    field = "x".join(map(str, layer.receptive_field.size))
    assert shape == f"{output}, sees {bound}{field}"
    found = {what: value for *value, what in re.findall(COST, "".join(costs))}
    expected = {"params": layer.parameters, "mult-adds": layer.multiply_adds}
    shown = [k for k, v in expected.items() if v or k == "mult-adds" and layer.unknown]
    assert list(found) == shown
    for what, (bound, digits, unit) in found.items():
      value = float(digits) * UNITS[unit]
      assert value == pytest.approx(expected[what], rel=0.005)
      assert bool(bound) == (what == "mult-adds" and bool(layer.unknown))


def test_the_title_has_the_totals(picture):
  sums = summary.totals(picture.layers)
  bound = "at least " if picture.case == "unknown" else ""
  parameters, multiply_adds = sums["parameters"], sums["multiply_adds"]
  costs = f"{parameters:,} parameters, {bound}{multiply_adds:,} multiply-adds"
  assert picture.texts[0][0] == f"{picture.case}: {costs}"


def test_it_fits_a_page_with_readable_text(picture):
  width, height = picture.figure.get_size_inches()
  assert width <= A4[0]
  assert height <= A4[1] or picture.case == "deep"
  assert min(picture.sizes) >= 5 - NEAR
  if picture.case == "deep":
    assert min(picture.sizes) == pytest.approx(5) and height > A4[1]


def test_long_networks_go_on_in_a_second_column():
  picture = Picture("net6b")
  assert [picture.inside(mark) for mark in picture.marks] == [["1"], ["1"]]
  lefts = {round(box.x0) for box in picture.marks}
  assert len(lefts) == 2


def test_skips_that_overlap_have_lanes_beside_the_boxes(monkeypatch):
  monkeypatch.setitem(registry.NETWORKS, "hourglass", f"{__name__}:Hourglass")
  picture = Picture("hourglass")
  assert len({box.x0 for box in picture.boxes}) == 1  # one column
  right = max(box.x1 for box in picture.boxes)
  lengths = {
    x: to_y - y
    for line in picture.lines
    for (x, y), (to_x, to_y) in segments(line)
    if x == to_x and x > right
  }
  assert len(lengths) == 3
  assert [lengths[x] for x in sorted(lengths)] == sorted(lengths.values())


@pytest.mark.parametrize(
  ("number", "text"),
  [
    (0, "0"),
    (999, "999"),
    (1000, "1 k"),
    (9_216, "9.22 k"),
    (999_499, "999 k"),
    (999_500, "1 M"),
    (1_769_472, "1.77 M"),
    (44_252_196, "44.3 M"),
    (7_000_000_000, "7 G"),
    (7_777_000_000_000, "7.78e+03 G"),
  ],
)
def test_numbers_have_three_digits(number, text):
  assert layout.short(number) == text


def test_draws_the_network(tmp_path, capsys):
  plot = tmp_path / "net.png"
  config = str(ROOT / "configs/net6b.py")
  assert commands.main(["summary", "--config", config, "--plot", str(plot)]) == 0
  data = plot.read_bytes()
  assert data.startswith(b"\x89PNG")
  assert int.from_bytes(data[20:24]) > int.from_bytes(data[16:20])  # higher than wide
