"""The content of a run directory: what checkpoints and `summary.json` record.

Functions that need JAX or Flax import them when called, because `reproduce` reads run
directories to validate its command line, which should not wait for these imports.
"""

import dataclasses
import json
import logging
import pathlib
from typing import TYPE_CHECKING, Any

from cifar_flax import config as config_lib
from cifar_flax import effects
from cifar_flax.config import Config
from cifar_flax.errors import UserError
from cifar_flax.run import checkpoints, files, provenance

if TYPE_CHECKING:
  from cifar_flax.data import datasets
  from cifar_flax.run.observers.base import Progress

# Config keys that may change when a run is resumed: they do not affect training.
FREE_KEYS = (
  "name",
  "eval_batch_size",
  "eval_every",
  "eval_flip",
  "steps_per_dispatch",
  "data.data_dir",
  "data.archive",
  "checkpoint.keep",
  "checkpoint.every_steps",
  "checkpoint.min_seconds",
)
# Config keys that may also change when a finished run is evaluated.
EVALUATION_KEYS = ("data.eval_split", "model.dtype", "model.ops")
# Schedules whose learning rate at a step does not depend on the number of epochs.
OPEN_ENDED_SCHEDULES = ("constant", "staircase")


def free_keys(config: Config) -> tuple[str, ...]:
  """Returns the config keys that may change when this run is resumed."""
  open_ended = config.schedule.name in OPEN_ENDED_SCHEDULES
  return (*FREE_KEYS, "num_epochs") if open_ended else FREE_KEYS


@dataclasses.dataclass
class Record:
  """What a checkpoint stores about its run, besides its state, config and data.

  Attributes:
    history: the rows of `metrics.jsonl`.
    parts: `provenance.current` of each process that trained a part of the run.
    interruptions: how often the run was resumed before its last epoch was finished.
    epoch_seconds: time spent on the unfinished epoch after `history`, over all parts.
    training_seconds: time of these spent on training, once that is done, else None.
  """

  history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  parts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  interruptions: int = 0
  epoch_seconds: float = 0.0
  training_seconds: float | None = None


def snapshot(
  state: Any, config: Config, info: "datasets.Info", record: Record
) -> bytes:
  """Returns a checkpoint file's bytes: the state, and the run's config and record."""
  import jax
  from flax import serialization

  run = {
    "numerics": provenance.NUMERICS,
    "config": config_lib.to_dict(config),
    "fingerprint": info.fingerprint,
    "class_names": info.class_names,
    **dataclasses.asdict(record),
  }
  state = serialization.to_state_dict(jax.device_get(state))
  return checkpoints.encode({"state": state, "run": json.dumps(run)})


def run_of(content: dict[str, Any]) -> tuple[dict[str, Any], Config, Record]:
  """Returns the run stored in a checkpoint: its dictionary, its config, its record.

  Raises:
    UserError: the checkpoint has another format or other numerics than this code.
  """
  try:
    run = json.loads(content["run"])
    if run["numerics"] != provenance.NUMERICS:
      commit = run["parts"][-1]["commit"] if run["parts"] else None
      raise UserError(
        f"the checkpoint has numerics {run['numerics']}, but this code has "
        f"{provenance.NUMERICS}, which gives other results for the same config; use "
        f"the code that wrote it (commit {commit or 'unknown'}), or choose another "
        "--workdir"
      )
    config = config_lib.from_dict(run["config"], "checkpoint")
    names = [field.name for field in dataclasses.fields(Record)]
    record = Record(**{name: run[name] for name in names})
    epochs = [row["epoch"] for row in record.history]
    if epochs != list(range(1, len(epochs) + 1)):
      raise ValueError("its epochs are not 1, 2, ...")
    if not all(isinstance(run[name], kind) for name, kind in _RUN_TYPES.items()):
      raise ValueError("a field of its run has another type")
  except UserError:
    raise
  except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
    raise another_version(error) from None
  return run, config, record


_RUN_TYPES: dict[str, Any] = {
  "fingerprint": str,
  "class_names": list,
  "parts": list,
  "interruptions": int,
  "epoch_seconds": float | int,
  "training_seconds": float | int | None,
}


def resume(
  content: dict[str, Any],
  config: Config,
  info: "datasets.Info",
  state: Any,
  evaluates: bool = False,
) -> tuple[Any, Record]:
  """Returns the state and the record in a checkpoint, if it belongs to this run.

  Args:
    content: content of the checkpoint file.
    config: config of the run to resume; `free_keys` may differ, and keys that have no
      effect in either config.
    info: description of its data.
    state: a state with the expected structure, shapes and types.
    evaluates: whether the run is only evaluated. Then `EVALUATION_KEYS` may differ too,
      and the data, if they have the same classes.

  Raises:
    UserError: the checkpoint was trained with another config or on other data.
  """
  run, trained_config, record = run_of(content)
  free = {*free_keys(config), *(EVALUATION_KEYS if evaluates else ())}
  for name, (before, now) in effects.differences(trained_config, config).items():
    if name not in free and not config_lib.is_moved_folder(name, before, now):
      raise UserError(
        f"config.{name}={now!r}: this run directory was trained with {before!r}; "
        "keep that value, or choose another --workdir"
      )
  if not evaluates and info.fingerprint != run["fingerprint"]:
    raise UserError(
      f"{config_lib.shown_data(config.data)}: contains other data "
      f"({info.fingerprint[:12]}) than this run was trained on "
      f"({run['fingerprint'][:12]}); restore that data, or choose another --workdir"
    )
  if evaluates and list(info.class_names) != run["class_names"]:
    raise UserError(
      f"{config_lib.shown_data(config.data)}: has other classes than this run was "
      "trained on; choose data with the same ones"
    )
  if len(record.history) < trained_config.num_epochs:
    record.interruptions += 1
  saved = content["state"]
  if content.get("published"):  # what it lacks is only needed in training
    from flax import serialization

    saved = serialization.to_state_dict(state) | saved
  return restored(state, saved), record


def restored(template: Any, saved: Any) -> Any:
  """Returns the arrays of a checkpoint in the structure of `template`.

  Args:
    template: a pytree of arrays with the expected shapes and kinds of type.
    saved: the state dictionary in the checkpoint.

  Raises:
    UserError: structure, shapes or types do not match.
  """
  import jax
  from flax import serialization

  try:
    arrays = serialization.from_state_dict(template, saved)
    return jax.tree_util.tree_map_with_path(_checked, template, arrays)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise another_version(error) from None


def _checked(path: Any, template: Any, saved: Any) -> Any:
  """Returns an array of a checkpoint; raises ValueError unless it fits `template`."""
  import numpy as np

  saved = np.asarray(saved)
  if (saved.shape, saved.dtype.kind) != (template.shape, template.dtype.kind):
    name = "".join(map(str, path))
    expected, actual = (f"{a.dtype}{list(a.shape)}" for a in (template, saved))
    raise ValueError(f"{name} is {actual}, not {expected}")
  return saved


def another_version(error: Exception) -> UserError:
  """Returns the error for a checkpoint whose content this code cannot use."""
  reason = (str(error) or type(error).__name__).splitlines()[0]
  return UserError(
    f"the checkpoint was written by another version of this project ({reason}); choose "
    "another --workdir"
  )


# Keys of `summary.json` that are read again; runs of earlier versions lack `_LATER`.
_SUMMARY: dict[str, Any] = {
  "parameters": int,
  "num_epochs": int,
  "final_eval_accuracy": float | int,
  "max_train_accuracy": float | int,
  "seconds": float | int,
  "device": str,
  "versions": dict,
  "data": dict,
}
_LATER: dict[str, Any] = {
  "flip_eval_accuracy": float | int | None,
  "numerics": int,
}
_SUMMARY_DATA: dict[str, Any] = {
  "name": str,
  "version": str,
  "fingerprint": str,
  "train_split": str,
  "eval_split": str,
  "train_examples": int,
  "eval_examples": int,
}


def read_summary(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Returns the content of `summary.json`, or None if there is none.

  Raises:
    UserError: the file is damaged.
  """
  file = workdir / "summary.json"
  try:
    content = files.read_json(file)
  except FileNotFoundError:
    return None
  later = {key: kind for key, kind in _LATER.items() if key in content}
  files.check_types(file, content, _SUMMARY | later)
  files.check_types(file, content["data"], _SUMMARY_DATA)
  return content


def finished_summary(workdir: pathlib.Path, config: Config) -> dict[str, Any] | None:
  """Returns the content of `summary.json` if it covers all of `config`, else None.

  It does if the run has finished `num_epochs` epochs and, with `eval_flip`, has been
  evaluated with mirror images. A damaged file is reported and counts as missing: the
  run writes it again from its checkpoint.
  """
  try:
    content = read_summary(workdir)
  except UserError as error:
    logging.warning("%s; continuing without it", error)
    return None
  if not content or content["num_epochs"] != config.num_epochs:
    return None
  if config.eval_flip and content.get("flip_eval_accuracy") is None:
    return None
  return content


def summary(
  config: Config,
  dataset: "datasets.Dataset",
  record: Record,
  parameters: tuple[int, int],
  flipped: "Progress | None" = None,
) -> dict[str, Any]:
  """Returns the content of `summary.json`: network, results, provenance and data.

  Args:
    config: the run's config.
    dataset: its data.
    record: its record, with all epochs.
    parameters: number of parameters in total, and of the trainable ones.
    flipped: final progress of the evaluation with mirror images, if there was one.
  """
  history = record.history
  evaluated = [row for row in history if row["eval_accuracy"] is not None]
  best = max(evaluated, key=lambda row: row["eval_accuracy"])
  last_part = dict(record.parts[-1])
  del last_part["first_step"]
  return {
    "name": config.name,
    "network": config.model.name,
    "parameters": parameters[0],
    "trainable_parameters": parameters[1],
    "num_epochs": len(history),
    "seed": config.seed,
    "final_eval_accuracy": history[-1]["eval_accuracy"],
    "best_eval_accuracy": best["eval_accuracy"],
    "best_epoch": best["epoch"],
    "flip_eval_accuracy": flipped.accuracy if flipped else None,
    "final_train_accuracy": history[-1]["train_accuracy"],
    "max_train_accuracy": max(row["train_accuracy"] for row in history),
    "seconds": sum(row["seconds"] for row in history),
    "interruptions": record.interruptions,
    **last_part,
    "earlier_parts": record.parts[:-1],
    "data": data_facts(config, dataset),
  }


def data_facts(config: Config, dataset: "datasets.Dataset") -> dict[str, Any]:
  """Returns the `data` of `summary.json`: which images a run read.

  `common_images` is the number of evaluated images that are trained on too, and
  `repeated_images` that of the images which a split string names more than once.
  """
  return {
    "name": dataset.info.name,
    "version": dataset.info.version,
    "download_size": dataset.info.download_size,
    "fingerprint": dataset.info.fingerprint,
    "classes": len(dataset.info.class_names),
    "train_split": config.data.train_split,
    "eval_split": config.data.eval_split,
    "train_examples": len(dataset.train.labels),
    "eval_examples": len(dataset.eval.labels),
    "common_images": dataset.common,
    "repeated_images": dataset.repeated,
  }
