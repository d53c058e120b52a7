"""Says what an exported network is: metadata for programs, a model card for people."""

import pathlib
import sys
from typing import Any

import yaml

from cifar_flax import config as config_lib
from cifar_flax import effects, registry, tables, text
from cifar_flax.data.records import IMAGE_SHAPE
from cifar_flax.errors import UserError
from cifar_flax.run import directory, evaluation, provenance
from cifar_flax.text import shown
from cifar_flax.tools import structure, summary
from cifar_flax.tools.trained import Trained

IMAGES = {
  "name": "images",
  "dtype": "float32",
  "shape": ["n", *IMAGE_SHAPE],
  "layout": "NHWC; rows from the top, columns from the left, channels red, green, blue",
  "range": [0, 1],
  "preparation": "bytes divided by 255; the network expects no other normalisation",
  "other sizes": "EXIF's orientation applied, transparent parts white, then Pillow's "
  "ImageOps.fit(picture, (32, 32), Image.Resampling.LANCZOS)",
}


def facts(trained: Trained, workdir: pathlib.Path) -> dict[str, Any]:
  """Returns what a network is, as values of JSON, without any path.

  What is not known is None: the accuracy of a checkpoint that was not evaluated, for
  example, and the number of images of a run that is not finished.

  Args:
    trained: the network.
    workdir: its run directory.
  """
  config, data = trained.config, _data(trained, workdir)
  part = trained.parts[-1] if trained.parts else {}
  unused = effects.without_effect(config)
  types = [key for key in ("convolution", "width") if f"model.{key}" not in unused]
  return {
    "network": config.model.name,
    **{key: getattr(config.model, key) for key in types},
    "run": shown(workdir.resolve().name),
    "config": config.name,
    "seed": config.seed,
    "epoch": trained.epoch,
    "num_epochs": config.num_epochs,
    "checkpoint": trained.choice,
    "commit": part.get("commit"),
    "modified": part.get("modified"),
    "numerics": provenance.NUMERICS,
    "trained_in": config.model.dtype,
    "class_names": list(trained.class_names),
    "input": IMAGES,
    "output": {
      "name": "logits",
      "dtype": "float32",
      "shape": ["n", len(trained.class_names)],
    },
    "accuracy": trained.accuracy,
    "evaluated_on": {
      "split": data["eval_split"],
      "images": data.get("eval_examples"),
    },
    "data": data,
  }


def _data(trained: Trained, workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the `data` of `summary.json`, or what a checkpoint knows of them.

  A damaged `summary.json` is reported and counts as missing.
  """
  try:
    content = directory.read_summary(workdir)
  except UserError as error:
    print(f"note: {error}; continuing without it", file=sys.stderr)
    content = None
  if content and content["data"]["fingerprint"] == trained.fingerprint:
    return content["data"]
  data = trained.config.data
  is_folder = data.dataset.startswith(registry.FOLDER)
  return {
    "name": "folder" if is_folder else data.dataset,
    "fingerprint": trained.fingerprint,
    "train_split": data.train_split,
    "eval_split": data.eval_split,
  }


MOST_CLASSES = 40  # that a card names


def card(trained: Trained, known: dict[str, Any]) -> str:
  """Returns a model card: Markdown with the YAML head of the Hugging Face Hub.

  Args:
    trained: the network.
    known: its `facts`.
  """
  title = trained.config.name or known["network"]
  head = yaml.safe_dump(_head(known), sort_keys=False, allow_unicode=True)
  parts = [
    f"---\n{head}---",
    f"# {text.markdown(title)}",
    *_what_it_is(known),
    "## Costs",
    *_costs(trained),
    "## Accuracy",
    _accuracy(known),
    *(f"**Warning**: {each}." for each in _warnings(known)),
    "## Training",
    *_training(trained, known),
    "## Limits",
    _limits(known),
  ]
  return "\n\n".join(parts) + "\n"


def _head(known: dict[str, Any]) -> dict[str, Any]:
  """Returns what the Hub reads of a card; a license is for the owner to choose."""
  head: dict[str, Any] = {
    "library_name": "cifar_flax",
    "pipeline_tag": "image-classification",
    "tags": ["jax", "flax", known["network"]],
  }
  if known["accuracy"] is None:
    return head
  name, split = shown(known["data"]["name"]), shown(known["evaluated_on"]["split"])
  result = {
    "task": {"type": "image-classification"},
    "dataset": {"name": name, "type": name, "split": split},
    "metrics": [{"type": "accuracy", "value": known["accuracy"]}],
  }
  index = [{"name": known["run"], "results": [result]}]
  return head | {"metrics": ["accuracy"], "model-index": index}


def _what_it_is(known: dict[str, Any]) -> list[str]:
  names = [text.markdown(name) for name in known["class_names"]]
  listed = ", ".join(names[:MOST_CLASSES])
  if (more := len(names) - MOST_CLASSES) > 0:
    listed += f" and {more:,} more, which the metadata of an export list"
  types = ""
  if kind := known.get("convolution"):
    types = f" with {kind.replace('_', ' ')} convolutions"
  shape = ", ".join(map(str, IMAGES["shape"]))
  return [
    f"Classifies images of 32x32 pixels into {len(names)} classes: {listed}.",
    f"It is the network `{known['network']}`{types} of `cifar_flax`, written in JAX "
    f"and Flax: run {text.code(known['run'])}, seed {known['seed']}, epoch "
    f"{known['epoch']} of {known['num_epochs']} "
    f"({text.markdown(known['checkpoint'])}).",
    f"- Input: {IMAGES['dtype']} [{shape}] in [0, 1]: {IMAGES['preparation']}. "
    f"{IMAGES['layout']}.\n"
    f"- Output: logits, float32 [n, {len(names)}]; their softmax is the probability of "
    "each class, in that order.",
  ]


def _costs(trained: Trained) -> list[str]:
  layers = structure.layers(trained.config.model, len(trained.class_names))
  totals, field = summary.totals(layers), layers[-1].receptive_field
  bound = "at least " if any(layer.unknown for layer in layers) else ""
  rows = [
    ["parameters, with BatchNorm's moving averages", f"{totals['parameters']:,}"],
    ["parameters that are trained", f"{totals['trainable']:,}"],
    ["multiply-adds per image", f"{bound}{totals['multiply_adds']:,}"],
    [
      f"receptive field of {text.code(layers[-1].name)}, with padding",
      ("" if field.exact else "at most ") + "x".join(map(str, field.size)),
    ],
  ]
  return ["\n".join(tables.markdown(["cost", "value"], rows))]


def _accuracy(known: dict[str, Any]) -> str:
  if known["accuracy"] is None:
    return "Unknown: the run did not evaluate these weights."
  images, split = known["evaluated_on"]["images"], known["evaluated_on"]["split"]
  number = "" if images is None else f"{images:,} "
  line = (
    f"{100 * known['accuracy']:.2f} % of the {number}images of {text.code(split)} of "
    f"{text.markdown(known['data']['name'])} (one run, n = 1), computed in "
    f"{known['trained_in']}."
  )
  is_float32 = known["trained_in"] == "float32"
  return line if is_float32 else f"{line} An ONNX export computes in float32."


def _warnings(known: dict[str, Any]) -> list[str]:
  """Returns why the accuracy is not that on new images, as Markdown."""
  found = [text.markdown(each) for each in evaluation.cautions(known["data"])]
  chosen = known["checkpoint"]
  if chosen != "last" and not chosen.startswith("best of 1 "):  # one is no choice
    found.append(
      f"the checkpoint is the {text.markdown(chosen)}, so its accuracy on these images "
      "is too high"
    )
  return found


def _training(trained: Trained, known: dict[str, Any]) -> list[str]:
  data = known["data"]
  described = (
    evaluation.describe_data(data)
    if "train_examples" in data
    else f"Data: {text.markdown(data['name'])}, fingerprint {data['fingerprint']}. The "
    "run is not finished, so the number of images is not known."
  )
  part = trained.parts[-1] if trained.parts else {}
  changed = ", with changes" if known["modified"] else ""
  made = (
    f"Trained on {text.markdown(part.get('device', 'unknown hardware'))} with JAX "
    f"{part.get('versions', {}).get('jax', 'of an unknown version')}, at commit "
    f"{known['commit'] or 'unknown'}{changed}. The recipe:"
  )
  unused, fields = effects.without_effect(trained.config), config_lib.fields()
  rows = [
    [text.code(key), text.code(str(value)), fields[key].metadata["meaning"]]
    for key, value in config_lib.flatten(trained.config).items()
    if key not in {*directory.FREE_KEYS, *unused} and not key.startswith("data.")
  ]
  return [
    described,
    made,
    "\n".join(tables.markdown(["key", "value", "meaning"], rows)),
  ]


def _limits(known: dict[str, Any]) -> str:
  lines = [
    "It sees 32x32 pixels. Other pictures must be cropped to a square and resized, "
    "and lose their detail.",
    f"It knows only these {len(known['class_names'])} classes, and answers with one of "
    "them whatever a picture shows. Its probabilities are not calibrated.",
    "It was trained and evaluated on pictures of one data set. Its accuracy on other "
    "pictures, and its robustness to noise and attacks, were not measured.",
    "It is one run: other seeds give other accuracies.",
  ]
  return "\n".join(f"- {line}" for line in lines)
