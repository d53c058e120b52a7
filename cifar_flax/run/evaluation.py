"""Says what an accuracy was measured on, and how its checkpoint was chosen."""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cifar_flax import effects
from cifar_flax.config import Config
from cifar_flax.errors import UserError
from cifar_flax.run import files


def cautions(data: Mapping[str, Any]) -> list[str]:
  """Returns a sentence for each trouble with the images that a run reads.

  Args:
    data: the `data` of its `summary.json`; that of an early run lacks some numbers.
  """
  found = []
  if common := data.get("common_images", 0):
    found.append(
      f"{common:,} of the {data['eval_examples']:,} evaluated images "
      f"({data['eval_split'] or 'test'}) are training images too "
      f"({data['train_split'] or 'train'}), so the accuracy is not that on new images"
    )
  if repeated := data.get("repeated_images", 0):
    found.append(f"the split strings name {repeated:,} images more than once")
  return found


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
    return f"best, chosen on {eval_split or 'test'}"
  epochs = "epoch" if evaluated == 1 else "epochs"
  if evaluated < len(rows):
    epochs = f"evaluated {epochs}"
  return f"best of {evaluated} {epochs}, chosen on {eval_split or 'test'}"


def read_choice(workdir: pathlib.Path, which: str, eval_split: str) -> str:
  """Returns `choice` for a run directory, whatever state its files are in."""
  rows = []
  with contextlib.suppress(OSError, UserError):
    rows = files.read_json_lines(workdir / "metrics.jsonl")
  rows = [row for row in rows if isinstance(row, dict)]
  return choice(which, rows, eval_split)
