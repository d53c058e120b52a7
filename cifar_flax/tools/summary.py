"""What a config's network is made of: `python -m cifar_flax summary --config FILE`.

A line a layer: the shape of its output for one image, kernel, groups, dilation and
stride, parameters, multiply-adds, activations, receptive field and jump (pixels of the
image that an output sees, and from one output to the next), and the totals.
"""

import argparse
import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING, Any

from cifar_flax import command_line, registry
from cifar_flax import config as config_lib

if TYPE_CHECKING:
  from cifar_flax.tools.structure import Layer

FORMATS = ("table", "markdown", "json")
COLUMNS = (
  *("layer", "type", "output", "kernel", "groups", "dilation", "stride"),
  *("parameters", "trainable", "multiply-adds", "activations"),
  *("receptive field", "jump"),
)


def totals(layers: list["Layer"]) -> dict[str, int]:
  """Sums over the layers; `activations` counts every layer's output."""
  names = ("parameters", "trainable", "multiply_adds", "activations")
  return {name: sum(getattr(layer, name) for layer in layers) for name in names}


def text(layers: list["Layer"], title: str, markdown: bool = False) -> str:
  """The table, for a terminal or a Markdown file."""
  from cifar_flax.tables import Table

  sums = totals(layers)
  table = Table(title, COLUMNS, [_cells(layer) for layer in layers])
  table.rows.append(["total", *[""] * 6, *(f"{n:,}" for n in sums.values()), "", ""])
  table.note(
    "parameters: BatchNorm's moving averages included, as Keras counts",
    "multiply-adds: of convolutions and Dense layers, for one image, with the border "
    "that padding adds",
  )
  return table.markdown() if markdown else table.text()


def _cells(layer: "Layer") -> list[str]:
  def sides(values) -> str:
    return "x".join(map(str, values)) if values else ""

  counts = (layer.parameters, layer.trainable, layer.multiply_adds, layer.activations)
  return [
    *(layer.name, layer.kind, sides(layer.output), sides(layer.kernel)),
    *(str(layer.groups or ""), sides(layer.dilation), sides(layer.strides)),
    *(f"{count:,}" for count in counts),
    *(sides(layer.reach.field), sides(layer.reach.jump)),
  ]


def to_json(layers: list["Layer"], config: config_lib.Config) -> str:
  """Everything the table has, as numbers."""

  def plain(layer: "Layer") -> dict[str, Any]:
    values = dataclasses.asdict(layer)
    reach = layer.reach
    del values["reach"]
    return values | {
      "activations": layer.activations,
      "receptive_field": reach.field,
      "jump": reach.jump,
      "reads": sorted(reach.sources),
    }

  content = {
    "network": config.model.name,
    "layers": [plain(layer) for layer in layers],
    "totals": totals(layers),
  }
  return json.dumps(content, indent=2)


def _parse(argv: list[str]) -> tuple[config_lib.Config, argparse.Namespace]:
  parser = command_line.Parser("summary", __doc__)
  parser.add_argument("--config", metavar="FILE", help="such as configs/net6b.py")
  parser.add_argument("--format", default="table", help=f"{', '.join(FORMATS)}")
  parser.add_argument("--plot", metavar="FILE.png", help="draws the network as well")
  overrides, others = command_line.split_overrides(argv)
  flags = parser.parse_args(others)
  command_line.check_choice(flags, "format", FORMATS)
  return command_line.load_config(flags.config, overrides), flags


def run(argv: list[str]) -> None:
  """Prints what a command line asks for.

  Raises:
    UserError: it asks for something else.
    OSError: the picture can't be written.
  """
  config, flags = _parse(argv)
  from cifar_flax.tools import structure  # imports JAX

  # Of a folder's classes nothing is known before it is read.
  source = registry.DATASETS.get(config.data.dataset)
  num_classes = source.num_classes if source else 10
  layers = structure.layers(config.model, num_classes)
  if flags.format == "json":
    print(to_json(layers, config))
  else:
    title = f"{config.model.name}, from an image of 32x32x3 to {num_classes} classes"
    print(text(layers, title, markdown=flags.format == "markdown"))
  if flags.plot:
    from cifar_flax.tools import drawing

    pathlib.Path(flags.plot).write_bytes(drawing.render(layers, config.model.name))


def main(argv: list[str] | None = None) -> int:
  """Runs; returns 0, 1 for a picture that can't be written, 2 for wrong input."""
  return command_line.answer(run, argv)
