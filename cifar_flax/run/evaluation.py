"""Says what an accuracy was measured on, and how its checkpoint was chosen."""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cifar_flax import effects, published, text
from cifar_flax.config import Config
from cifar_flax.errors import UserError
from cifar_flax.run import files
from cifar_flax.text import shown


def identity(summary: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what runs must have in common to be averaged: their data and NUMERICS."""
  data = summary["data"]
  return eval_identity(summary) | {
    "train_split": data["train_split"],
    "train_examples": data["train_examples"],
  }


def eval_identity(summary: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what runs must have in common for their accuracies to be compared."""
  data = summary["data"]
  return {
    "data": data["name"],
    "fingerprint": data["fingerprint"],
    "eval_split": data["eval_split"],
    "eval_examples": data["eval_examples"],
    "numerics": summary.get("numerics"),
  }


def describe_data(data: dict[str, Any], plain: bool = False) -> str:
  """Returns a note on a summary's data, and how they differ from the published.

  Args:
    data: the `data` of the summary.
    plain: whether to return it as text, instead of Markdown.
  """
  train, test = data["train_examples"], data["eval_examples"]
  strong = shown if plain else "**{}**".format
  code, name = (shown, shown) if plain else (text.code, text.markdown)
  words = (
    f"{name(data['name'])} {name(data.get('version', ''))}, trained on "
    f"{code(data['train_split'])} ({train:,} images), evaluated on "
    f"{code(data['eval_split'])} ({test:,} images), "
    f"fingerprint {data['fingerprint']}, "
  )
  if data.get("download_size"):
    words += f"download size {data['download_size']:,} bytes."
  elif data["name"] != published.DATASET:
    words = words.removesuffix(", ") + "."
  else:
    words += f"no download size: {strong('not made from the original files')}."
  if data["name"] != published.DATASET:
    nothing = f"Not {published.DATASET}: no published result is comparable."
    words += f" {strong(nothing)}"
  elif (train, test) != tuple(published.EXAMPLES.values()):
    words += (
      f" {strong('Not all images')}: the published runs trained on "
      f"{published.EXAMPLES['train']:,} and were tested on "
      f"{published.EXAMPLES['test']:,}."
    )
  elif published.obstacle(data):
    words += f" {strong('Not the training and test images.')}"
  return words


def cautions(data: Mapping[str, Any]) -> list[str]:
  """Returns a sentence for each trouble with the images that a run reads.

  Args:
    data: the `data` of its `summary.json`; that of an early run lacks some numbers.
  """
  found = []
  if common := data.get("common_images", 0):
    found.append(
      f"{common:,} of the {data['eval_examples']:,} evaluated images "
      f"({data['eval_split']}) are training images too "
      f"({data['train_split']}), so the accuracy is not that on new images"
    )
  if repeated := data.get("repeated_images", 0):
    found.append(f"the split strings name {repeated:,} images more than once")
  return found


def is_due(config: Config, epoch: int) -> bool:
  """Returns whether epoch 1, 2, ... ends with an evaluation; the last always does."""
  every = config.eval_every
  return epoch == config.num_epochs or (every > 0 and epoch % every == 0)


def lag(config: Config, row: Mapping[str, Any]) -> str | None:
  """Returns why an epoch's evaluation is far below its training, if it is BatchNorm.

  BatchNorm trains with the statistics of each batch and evaluates with their moving
  average. Early in a run, this comes from weights that have changed much since.

  Args:
    config: of the run.
    row: the epoch's line of `metrics.jsonl`.
  """
  key = "batch_norm_momentum"
  if row["eval_accuracy"] is None or f"model.{key}" in effects.without_effect(config):
    return None
  momentum = config.model.batch_norm_momentum
  span = 1 / (1 - momentum)  # steps
  if row["step"] > 2 * span or row["train_accuracy"] - row["eval_accuracy"] < 0.05:
    return None
  return (
    f"after {row['step']} steps, evaluation may lag behind training: BatchNorm's "
    f"moving averages reach back about {span:.0f} steps (model.{key}={momentum:g})"
  )


def choice(which: str, rows: Sequence[Mapping[str, Any]], eval_split: str) -> str:
  """Returns how a checkpoint was chosen: "best of 50 epochs, chosen on test".

  Args:
    which: `best` or `last`.
    rows: the lines of `metrics.jsonl`, as far as they are known.
    eval_split: the split that the run was evaluated on.
  """
  if which == "last":
    return "last"
  evaluated = sum(row.get("eval_accuracy") is not None for row in rows)
  if not evaluated:
    return f"best, chosen on {eval_split}"
  epochs = "epoch" if evaluated == 1 else "epochs"
  if evaluated < len(rows):
    epochs = f"evaluated {epochs}"
  return f"best of {evaluated} {epochs}, chosen on {eval_split}"


def read_choice(workdir: pathlib.Path, which: str, eval_split: str) -> str:
  """Returns `choice` for a run directory, whatever state its files are in."""
  rows = []
  with contextlib.suppress(OSError, UserError):
    rows = files.read_json_lines(workdir / "metrics.jsonl")
  rows = [row for row in rows if isinstance(row, dict)]
  return choice(which, rows, eval_split)
