"""Experiments on reproducibility: repeated runs, numbers of devices, exact evaluation.

The trainers made here use the eight virtual CPU devices of this process.
"""

import pathlib
import shutil
from typing import Any

import jax
import numpy as np
from flax import serialization

from cifar_flax import main
from cifar_flax.run import checkpoints as library
from cifar_flax.trainer import Trainer
from stress.lab import Lab, Row, checkpoints, outcome, rows, verdict

COUNTS = (1, 2, 4, 8)
EVAL_BATCH_SIZES = (1, 7, 64, 100, 128, 333, 512)


def same_seed(lab: Lab) -> list[Row]:
  """Checks that equal seeds give bit-equal runs and that another seed does not."""
  found = []
  for name, seed in (("first", "0"), ("second", "0"), ("third", "1")):
    lab.complete(workdir := lab.new(name), seed=seed)
    found.append(outcome(workdir))
  same, other = found[0] == found[1], found[0][0] == found[2][0]
  text = f"{verdict(same)}; with another seed: {verdict(other)}"
  return [Row("two runs with the same seed", 2, text, same and not other)]


def numbers_of_devices(lab: Lab) -> list[Row]:
  """Checks that 108 steps on 1, 2, 4 and 8 devices differ only by rounding."""
  found = []
  for dtype, limit in (("float64", 1e-9), ("float32", np.inf)):
    states, correct = [], []
    for count in COUNTS:
      workdir = lab.new(f"devices{count}")
      lab.complete(workdir, count, num_epochs="9", model__dtype=dtype)
      states.append(library.read(checkpoints(workdir)[0])["state"])
      correct.append(round(500 * rows(workdir)[-1]["eval_accuracy"]))
    largest = max(difference(states[0], state) for state in states[1:])
    good = largest <= limit and (dtype == "float32" or len(set(correct)) == 1)
    text = f"max |a - b| / max(1, max |tensor|) = {largest:.1e}; correct: {correct}"
    found.append(Row(f"1, 2, 4, 8 devices, {dtype}, 108 steps", 4, text, good))
  return found


def difference(one: Any, other: Any) -> float:
  """Returns two states' largest difference, relative to max(1, max |tensor|).

  The metrics are left out, because they are summed in float32.
  """
  one, other = ({**state, "metrics": {}} for state in (one, other))

  def of_leaf(a: np.ndarray, b: np.ndarray) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(
      np.max(np.abs(a - b), initial=0) / max(1, np.max(np.abs(a), initial=0))
    )

  return max(jax.tree.leaves(jax.tree.map(of_leaf, one, other)))


def restored_on_others(lab: Lab) -> list[Row]:
  """Checks that a checkpoint of eight devices is restored and resumed on 1, 2, 4, 8."""
  staircase = "staircase"  # a schedule that allows num_epochs to be raised
  workdir = lab.new("eight")
  lab.complete(workdir, 8, num_epochs="2", schedule__name=staircase)
  content = library.read(checkpoints(workdir)[0])
  same = longer = True
  for count in COUNTS:
    trainer = _trainer(lab, workdir, count, num_epochs="2", schedule__name=staircase)
    trainer.restore(content)
    # A state dictionary has its leaves in the same order as the checkpoint file.
    restored = serialization.to_state_dict(jax.device_get(trainer.state))
    state = jax.tree.leaves(restored)
    saved = jax.tree.leaves(content["state"])
    pairs = zip(saved, state, strict=True)
    same &= all(np.array_equal(a, b) for a, b in pairs)
    list(trainer.train_epoch())
    copy = lab.new("elsewhere")
    shutil.copytree(workdir, copy)
    lab.complete(copy, count, num_epochs="4", schedule__name=staircase)
    longer &= len(rows(copy)) == 4
  text = f"{verdict(same)}; " + ("resumes" if longer else "does NOT resume")
  return [Row("saved on 8, restored on 1, 2, 4, 8", 4, text, same and longer)]


def exact_evaluation(lab: Lab) -> list[Row]:
  """Checks that eval batch sizes and device counts do not change the accuracy.

  Some of them divide the 10,000 images evenly and some do not.
  """
  lab.complete(workdir := lab.new("evaluated"))
  content = library.read(checkpoints(workdir)[0])
  counts = {}
  for devices in COUNTS:
    for size in EVAL_BATCH_SIZES:
      changed = {"eval_batch_size": str(size), "data__eval_split": "train[:10000]"}
      trainer = _trainer(lab, workdir, devices, **changed)
      trainer.restore(content, evaluates=True)
      counts[size, devices] = round(1e4 * trainer.evaluation().accuracy, 2)
  found = sorted(set(counts.values()))
  text = f"{', '.join(map(str, found))} of 10,000 correct"
  what = "evaluation in batches of 1 to 512 on 1 to 8 devices"
  return [Row(what, 28, text, len(found) == 1)]


def _trainer(lab: Lab, workdir: pathlib.Path, count: int, **changed: str) -> Trainer:
  config, _, _ = main.parse(lab.command(workdir, **changed)[3:])
  config.data.data_dir = lab.environment["TFDS_DATA_DIR"]
  return Trainer(config, jax.devices()[:count])
