"""What a run leaves behind and comes back to: snapshots, and the facts of a summary.

JAX and Flax are imported by what needs them, late: `reproduce` looks into run
directories to refuse a command line at once.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cifar_flax import config as config_lib
from cifar_flax.config import Config
from cifar_flax.errors import UserError
from cifar_flax.run import checkpoints, provenance

if TYPE_CHECKING:
  from cifar_flax.data import datasets
  from cifar_flax.run.observers.base import Progress

# What may differ when a run goes on: none of it changes what is computed.
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
# What may also differ when a finished run is evaluated.
EVALUATION_KEYS = ("data.eval_split", "model.dtype", "model.ops")
# Schedules whose rate at a step does not depend on the number of epochs.
OPEN_ENDED_SCHEDULES = ("constant", "staircase")


def free_keys(config: Config) -> tuple[str, ...]:
  """The keys that may differ when a run goes on."""
  open_ended = config.schedule.name in OPEN_ENDED_SCHEDULES
  return (*FREE_KEYS, "num_epochs") if open_ended else FREE_KEYS


@dataclasses.dataclass
class Record:
  """What a checkpoint knows of its run beside its state, config and data.

  Attributes:
    history: the rows of `metrics.jsonl`.
    parts: what made the run, `provenance.current` of each process that took part in it.
    interruptions: how often the run was resumed before its last epoch was finished.
    epoch_seconds: spent on the epoch after those in `history`, in all parts.
    training_seconds: the share of training in these, once that is finished, else None.
  """

  history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  parts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  interruptions: int = 0
  epoch_seconds: float = 0.0
  training_seconds: float | None = None


def snapshot(
  state: Any, config: Config, info: "datasets.Info", record: Record
) -> bytes:
  """A checkpoint file's bytes: the state, and what it belongs to."""
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
  """What a checkpoint says of its run: the dictionary, its config, its record.

  Raises:
    UserError: it is of another version of this project, or computed by other code.
  """
  try:
    run = json.loads(content["run"])
    if run["numerics"] != provenance.NUMERICS:
      commit = run["parts"][-1]["commit"] if run["parts"] else None
      raise UserError(
        f"the checkpoint has numerics {run['numerics']}, and this code has "
        f"{provenance.NUMERICS}: the same config computes other numbers now; use the "
        f"code that made it (commit {commit or 'unknown'}), or choose another --workdir"
      )
    config = config_lib.from_dict(run["config"], "checkpoint")
    names = [field.name for field in dataclasses.fields(Record)]
    record = Record(**{name: run[name] for name in names})
    epochs = [row["epoch"] for row in record.history]
    if epochs != list(range(1, len(epochs) + 1)):
      raise ValueError("its epochs are not 1, 2, ...")
    if not all(isinstance(run[name], kind) for name, kind in _RUN_TYPES.items()):
      raise ValueError("its description has other types")
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
  may_differ: Sequence[str] = (),
) -> tuple[Any, Record]:
  """The state and the record in a checkpoint, if it is this run's.

  Args:
    content: of the checkpoint file.
    config: of the run that wants to go on.
    info: of its data.
    state: of the same structure and shapes.
    may_differ: keys of the config, besides `free_keys`.

  Raises:
    UserError: the checkpoint's config or data would make it another run.
  """
  run, trained_config, record = run_of(content)
  before, fingerprint = config_lib.flatten(trained_config), run["fingerprint"]
  free = {*free_keys(config), *may_differ}
  for name, now in config_lib.flatten(config).items():
    if name not in free and before[name] != now:
      raise UserError(
        f"config.{name}={now!r}: this run directory was trained with "
        f"{before[name]!r}; keep that, or choose another --workdir"
      )
  if fingerprint != info.fingerprint:
    raise UserError(
      f"config.data.data_dir={config.data.data_dir!r}: holds other data "
      f"({info.fingerprint[:12]}) than this run was trained on "
      f"({fingerprint[:12]}); restore them, or choose another --workdir"
    )
  if len(record.history) < trained_config.num_epochs:
    record.interruptions += 1
  return restored(state, content["state"]), record


def restored(wanted: Any, found: Any) -> Any:
  """Arrays of a checkpoint in the structure of `wanted`, whose shapes they must have.

  Raises:
    UserError: they are of another version of this project.
  """
  import jax
  from flax import serialization

  try:
    arrays = serialization.from_state_dict(wanted, found)
    return jax.tree_util.tree_map_with_path(_checked, wanted, arrays)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise another_version(error) from None


def _checked(path: Any, wanted: Any, found: Any) -> Any:
  """An array of a checkpoint, if it is what the network has there."""
  import numpy as np

  found = np.asarray(found)
  if (found.shape, found.dtype.kind) != (wanted.shape, wanted.dtype.kind):
    name = "".join(map(str, path))
    wanted, found = (f"{a.dtype}{list(a.shape)}" for a in (wanted, found))
    raise ValueError(f"{name} is {found}, not {wanted}")
  return found


def another_version(error: Exception) -> UserError:
  """What to say of a checkpoint that has not what is looked for."""
  reason = (str(error) or type(error).__name__).splitlines()[0]
  return UserError(
    f"the checkpoint is of another version of this project ({reason}); choose another "
    "--workdir"
  )


def finished_summary(workdir: pathlib.Path, config: Config) -> dict[str, Any] | None:
  """The summary of a run that has all that its config asks for, else None."""
  file = workdir / "summary.json"
  found = json.loads(file.read_text()) if file.exists() else None
  if not found or found["num_epochs"] != config.num_epochs:
    return None
  if config.eval_flip and found.get("flip_eval_accuracy") is None:
    return None
  return found


def summary(
  config: Config,
  dataset: "datasets.Dataset",
  record: Record,
  parameters: tuple[int, int],
  flipped: "Progress | None" = None,
) -> dict[str, Any]:
  """`summary.json`: what was trained, on what, by what, and how it went.

  Args:
    config: of the run.
    dataset: its data.
    record: of all its epochs.
    parameters: total number, and the trainable ones among them.
    flipped: the end of the evaluation with mirror images, if there was one.
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
    "data": {
      "name": dataset.info.name,
      "version": dataset.info.version,
      "download_size": dataset.info.download_size,
      "fingerprint": dataset.info.fingerprint,
      "train_split": config.data.train_split,
      "eval_split": config.data.eval_split,
      "train_examples": len(dataset.train.labels),
      "eval_examples": len(dataset.eval.labels),
    },
  }
