"""Trains a config with several seeds and values: `python -m cifar_flax sweep`.

--vary KEY=A,B,C trains a run for each value, and for each combination if it is given
several times; --vary KEY takes every name that the key may have. --seeds N trains each
with N seeds. The run directories are OUTPUT/KEY=A/seed0 and so on; all runs with seed 0
are trained before those with seed 1. Rerun the same command to resume. At the end,
`report` compares the runs in OUTPUT/report.

--ablate BASE, instead of --vary, measures the effect of each change from the config
BASE. It trains the config, the config without each of the changes in turn, and the
config without any of them. All keys of `augmentation` that differ are one change, as
are those of `optimizer` and of `schedule`; every other key is a change of its own.
OUTPUT/ablation.md has the accuracies and each change's gain, compared seed by seed.
"""

import argparse
import itertools
import pathlib
from collections.abc import Collection, Mapping, Sequence

from cifar_flax import command_line, effects, hints
from cifar_flax import config as config_lib
from cifar_flax.errors import UserError
from cifar_flax.run import directory
from cifar_flax.run.files import write_atomically
from cifar_flax.tools import ablation, jobs, where


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser("sweep", __doc__, command_line.EVERY_RUN)
  parser.add_argument("--config", metavar="FILE", help="for example configs/net6b.py")
  parser.add_argument(
    "--seeds", type=int, default=1, help="number of seeds (%(default)s)"
  )
  which = parser.add_mutually_exclusive_group()
  which.add_argument(
    "--vary",
    action="append",
    default=[],
    metavar="KEY[=A,B,C]",
    help="key to vary and its values",
  )
  which.add_argument(
    "--ablate", metavar="BASE", help="config, or a run's config.json, to compare with"
  )
  where.add_flags(parser)
  parser.add_argument(
    "--output",
    metavar="DIR",
    help="default: runs/<config>-sweep, or runs/<config>-against-<BASE>",
  )
  return parser


def varied(arguments: Sequence[str]) -> dict[str, list[str]]:
  """Returns the values of each key that `--vary` names.

  Raises:
    UserError: a key does not exist, is named twice, is `seed` or does not affect the
      result, or its values are missing.
  """
  known, found = config_lib.fields(), {}
  for argument in arguments:
    key, equals, text = argument.partition("=")
    if key not in known:
      hint = hints.nearest(key, known)
      raise UserError(f"--vary={argument!r}: no such key{hint}")
    if key == "seed" or key in found:
      hint = "use --seeds" if key == "seed" else "name each key once"
      raise UserError(f"--vary={argument!r}: {hint}")
    if key in directory.FREE_KEYS:
      raise UserError(f"--vary={argument!r}: this key does not affect the result")
    choices = known[key].metadata["choices"]
    if not equals and not choices:
      raise UserError(f"--vary={argument!r}: needs values: --vary={key}=A,B,C")
    values = text.split(",") if equals else list(choices)
    if "" in values:
      raise UserError(f"--vary={argument!r}: a value is empty")
    found[key] = values
  return found


def combinations(
  values: Mapping[str, Sequence[str]],
) -> list[tuple[str, dict[str, str]]]:
  """Returns the folder name and the overrides of each combination of values."""
  found = []
  for chosen in itertools.product(*values.values()):
    setting = dict(zip(values, chosen, strict=True))
    words = ",".join(f"{key.split('.')[-1]}={v}" for key, v in setting.items())
    found.append((words, setting))
  return found


def plan(argv: list[str]) -> tuple[list[jobs.Job], pathlib.Path, argparse.Namespace]:
  """Returns the planned runs, the output folder, and the flags of a command line.

  Raises:
    UserError: a flag, config, key or value is wrong, a key has no effect, or a run
      directory contains a different run.
  """
  overrides, others = command_line.split_overrides(argv)
  flags = _parser().parse_args(others)
  command_line.check_at_least(flags, seeds=1)
  where.check(flags)
  config = command_line.load_config(flags.config, {})
  values = varied(flags.vary)
  for key in ("seed", "name", *values):
    if key in overrides:
      raise UserError(f"--config.{key}={overrides[key]!r}: the sweep sets this key")
  if flags.ablate is None:
    settings, name = combinations(values), f"{config.name}-sweep"
  else:
    base = config_lib.load(flags.ablate, "--ablate")
    for each in (config, base):
      config_lib.override(each, overrides)
    settings = ablation.settings(config, base, overrides)
    name = f"{config.name}-against-{base.name}"
  output = pathlib.Path(flags.output or f"runs/{name}")
  planned = []
  for seed in range(flags.seeds):
    for folder, setting in settings:
      workdir = output / folder.replace("/", "_") / f"seed{seed}"
      all_overrides = {**overrides, **setting, "seed": str(seed)}
      planned.append(jobs.plan(flags.config, all_overrides, workdir))
  effects.check(overrides, [job.config for job in planned])
  _check_varied(values, planned)
  pairs = itertools.combinations(planned, 2)
  if any(a.workdir == b.workdir or a.config == b.config for a, b in pairs):
    raise UserError("--vary: two of the runs would be identical")
  return planned, output, flags


def _check_varied(keys: Collection[str], planned: Sequence[jobs.Job]) -> None:
  """Raises UserError if a key that varies has no effect in one of the runs."""
  for job, key in itertools.product(planned, keys):
    if reason := effects.without_effect(job.config).get(key):
      same = [str(other.workdir) for other in planned if other.config == job.config]
      runs = " and ".join(same[:2]) + (" would be identical" if same[1:] else "")
      raise UserError(
        f"--vary={key}: {effects.explanation(job.config, key)} ({runs}); remove it or "
        f"choose another config.{reason}"
      )


def run(argv: list[str]) -> int:
  """Trains the runs of a command line and reports on them; returns the exit code."""
  planned, output, flags = plan(argv)
  with where.training(flags) as train_all:
    code = train_all(planned)
  done = [str(job.workdir) for job in planned if jobs.finished_summary(job)]
  if code in jobs.STOPPED or not done:
    return code
  if flags.ablate is not None:
    table = ablation.table(planned)
    print(table.text())
    write_atomically(output / "ablation.md", table.markdown().encode())
  from cifar_flax.tools import report

  report.run([*done, "--output", str(output / "report")])
  return code
