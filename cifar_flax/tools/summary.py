"""Lists a network's layers: `python -m cifar_flax summary --config FILE`.

Each line has a layer's output shape for one image, its window (the kernel, with g for
groups, d for dilation, s for stride), the number of parameters and multiply-adds, and
its receptive field. --wide adds the type, trainable parameters, elementwise operations,
activations, and the jump (the distance in pixels of the image between neighbouring
outputs). The last line has the totals. --measure adds the peak memory of a training
step, as compiled, and the speed of training and inference on this machine.
"""

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from cifar_flax import command_line, registry
from cifar_flax import config as config_lib
from cifar_flax.tools import output

if TYPE_CHECKING:
  from cifar_flax.tables import Table
  from cifar_flax.tools.structure import Layer

FORMATS = ("table", "markdown", "json")
COLUMNS = (
  "layer",
  "output",
  "window",
  "parameters",
  "multiply-adds",
  "field",
)
WIDE_COLUMNS = (
  "layer",
  "type",
  "output",
  "kernel",
  "groups",
  "dilation",
  "stride",
  "parameters",
  "trainable",
  "multiply-adds",
  "elementwise",
  "activations",
  "receptive field",
  "jump",
)
ARITHMETIC = ("multiply_adds", "elementwise")  # what may be known from below only
WINDOWS = 5  # of `--measure`
SUMS = ("parameters", "trainable", "multiply_adds", "elementwise", "activations")


def totals(layers: list["Layer"]) -> dict[str, int]:
  """Returns sums over the layers; `activations` counts the outputs of all layers."""
  return {name: sum(getattr(layer, name) for layer in layers) for name in SUMS}


def table(layers: list["Layer"], title: str, wide: bool = False) -> "Table":
  """Returns the table of the layers and their totals.

  Args:
    layers: of the network, in order.
    title: above the table.
    wide: with all columns, not only those that fit a terminal of 80.
  """
  from cifar_flax.tables import Table

  bound = "at least " if any(layer.unknown for layer in layers) else ""
  sums = {
    name.replace("_", "-"): (bound if name in ARITHMETIC else "") + f"{value:,}"
    for name, value in totals(layers).items()
  }
  columns = WIDE_COLUMNS if wide else COLUMNS
  rows = [*map(_cells, layers), {"layer": "total", **sums}]
  table = Table(title, columns, [[row.get(c, "") for c in columns] for row in rows])
  table.note(
    "parameters: BatchNorm's moving averages included, as Keras counts",
    "multiply-adds: products that are summed for one image, padding included",
  )
  if wide:
    table.note("elementwise: other results of arithmetic, such as scaling and gating")
  else:
    table.note(
      "window: kernel, g groups, d dilation, s stride; field: receptive field",
      "--wide shows more columns",
    )
  for layer in layers:
    if layer.unknown:
      operations = ", ".join(layer.unknown)
      table.note(f"the arithmetic of {operations} is not counted", row=layer.name)
    if not layer.receptive_field.exact:
      table.note("its receptive field may be smaller", row=layer.name)
  return table


def _cells(layer: "Layer") -> dict[str, str]:
  """Returns a layer's cells by column."""

  def by(values) -> str:
    return "x".join(map(str, values)) if values else ""

  bound = "at least " if layer.unknown else ""
  cells = {
    "layer": layer.name,
    "type": layer.kind,
    "output": by(layer.output),
    "kernel": by(layer.kernel),
    "groups": str(layer.groups or ""),
    "dilation": by(layer.dilation),
    "stride": by(layer.strides),
    "parameters": f"{layer.parameters:,}",
    "trainable": f"{layer.trainable:,}",
    "multiply-adds": f"{bound}{layer.multiply_adds:,}",
    "elementwise": f"{bound}{layer.elementwise:,}",
    "activations": f"{layer.activations:,}",
    "receptive field": by(layer.receptive_field.size),
    "jump": by(layer.receptive_field.jump),
  }
  window = [cells["kernel"]]
  for letter, values in (
    ("g", (layer.groups or 1,)),
    ("d", layer.dilation or ()),
    ("s", layer.strides or ()),
  ):
    if set(values) - {1}:
      window.append(letter + by(values if len(set(values)) > 1 else values[:1]))
  return cells | {"window": " ".join(window), "field": cells["receptive field"]}


def to_json(layers: list["Layer"], config: config_lib.Config) -> str:
  """Returns the contents of the table as JSON, with each layer's inputs added."""

  def plain(layer: "Layer") -> dict[str, Any]:
    values = dataclasses.asdict(layer)
    field = layer.receptive_field
    del values["receptive_field"]
    return values | {
      "activations": layer.activations,
      "receptive_field": field.size,
      "jump": field.jump,
      "receptive_field_is_exact": field.exact,
      "reads": sorted(field.inputs),
    }

  content = {
    "network": config.model.name,
    "layers": [plain(layer) for layer in layers],
    "totals": totals(layers),
  }
  return json.dumps(content, indent=2)


def measured_line(config: config_lib.Config, num_classes: int) -> str:
  """Measures the network of a config; returns a line with memory and speeds."""
  from cifar_flax.tables import Number
  from cifar_flax.tools import measurement

  where = measurement.circumstances()
  costs = measurement.measure({"": config}, num_classes, WINDOWS)[""]
  training, inference = (
    Number.of(speeds, digits=0) for speeds in (costs.training, costs.inference)
  )
  return (
    f"measured on {where['hardware']}, load {where['load']:g}: a training step of "
    f"{config.batch_size} images takes {costs.peak_bytes / 2**20:.1f} MiB at its peak; "
    f"training {training} images/s, inference {inference} images/s (mean ± standard "
    f"deviation of {WINDOWS} windows)"
  )


def _parse(argv: list[str]) -> tuple[config_lib.Config, argparse.Namespace]:
  parser = command_line.Parser("summary", __doc__)
  parser.add_argument("--config", metavar="FILE", help="for example configs/net6b.py")
  parser.add_argument("--format", default="table", help=f"{', '.join(FORMATS)}")
  parser.add_argument("--wide", action="store_true", help="show all columns")
  parser.add_argument(
    "--measure", action="store_true", help="also measure memory and speed"
  )
  parser.add_argument("--plot", metavar="FILE.png", help="also draw the network")
  overrides, others = command_line.split_overrides(argv)
  flags = parser.parse_args(others)
  command_line.check_choice(flags, "format", FORMATS)
  return command_line.load_config(flags.config, overrides), flags


def run(argv: list[str]) -> None:
  """Prints the table and draws the network if `--plot` is given.

  Raises:
    UserError: a flag, the config, a key or a value is wrong.
    OSError: the picture cannot be written.
  """
  config, flags = _parse(argv)
  if flags.plot:
    output.check_png("--plot", flags.plot)
  from cifar_flax.run import accelerators
  from cifar_flax.tools import structure  # imports JAX

  if flags.measure:
    accelerators.check()
  num_classes = registry.num_classes(config.data.dataset)
  layers = structure.layers(config.model, num_classes)
  if flags.format == "json":
    print(to_json(layers, config))
  else:
    title = f"{config.model.name}, 32x32x3 image to {num_classes} classes"
    found = table(layers, title, flags.wide)
    print(found.markdown() if flags.format == "markdown" else found.text())
  if flags.measure:
    print(measured_line(config, num_classes), file=sys.stderr)
  if flags.plot:
    from cifar_flax import figures
    from cifar_flax.tools import drawing

    picture = figures.png(drawing.draw(layers, config.model.name))
    output.write(flags.plot, picture)
