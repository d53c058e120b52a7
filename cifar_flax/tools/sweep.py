"""A config with several seeds and values: `python -m cifar_flax sweep --config FILE`.

--vary KEY=A,B,C (several times for every combination; without values: every name that
the key may have) and --seeds N make a run each, OUTPUT/KEY=A/seed0 and so on, first
all with seed 0, then all with seed 1. The same command goes on where it was stopped.
Then OUTPUT/report has them beside each other, as `cifar_flax.tools.report` does.

--ablate BASE, instead of --vary, measures what each change from the config BASE brings.
It trains the config, the config with each change in turn set back to BASE's values, and
the config with all of them set back. Keys of `augmentation`, `optimizer` and `schedule`
mean something together and are one change each; every other key is one by itself.
OUTPUT/ablation.md has the accuracies and their differences, seed by seed.
"""

import argparse
import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence

from cifar_flax import command_line
from cifar_flax import config as config_lib
from cifar_flax.errors import UserError
from cifar_flax.run import directory
from cifar_flax.run.files import write_atomically
from cifar_flax.tools import ablation, jobs


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser("sweep", __doc__, command_line.EVERY_RUN)
  parser.add_argument("--config", metavar="FILE", help="such as configs/net6b.py")
  parser.add_argument("--seeds", type=int, default=1, help="seeds 0.. (%(default)s)")
  which = parser.add_mutually_exclusive_group()
  which.add_argument(
    "--vary",
    action="append",
    default=[],
    metavar="KEY[=A,B,C]",
    help="a key and its values",
  )
  which.add_argument(
    "--ablate", metavar="BASE", help="a config, or a run's config.json, to go back to"
  )
  parser.add_argument(
    "--at_once",
    type=int,
    default=1,
    help="runs beside each other: each has a GPU or TPU chip, or a share of the CPU, "
    "and writes what it says into its log.txt (%(default)s)",
  )
  parser.add_argument(
    "--output",
    metavar="DIR",
    help="default: runs/<config>-sweep, or runs/<config>-against-<BASE>",
  )
  return parser


def varied(arguments: Sequence[str]) -> dict[str, list[str]]:
  """The values of each key that `--vary` names.

  Raises:
    UserError: no such key, one that is set elsewhere or twice, or no values.
  """
  known, found = config_lib.fields(), {}
  for argument in arguments:
    key, equals, text = argument.partition("=")
    if key not in known:
      hint = config_lib.nearest(key, known)
      raise UserError(f"--vary={argument!r}: no such key{hint}")
    if key == "seed" or key in found:
      hint = "use --seeds" if key == "seed" else "name each key once"
      raise UserError(f"--vary={argument!r}: {hint}")
    if key in directory.FREE_KEYS:
      raise UserError(f"--vary={argument!r}: changes nothing that is computed")
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
  """Each combination: the name of its folder, its keys and values."""
  found = []
  for chosen in itertools.product(*values.values()):
    setting = dict(zip(values, chosen, strict=True))
    words = ",".join(f"{key.split('.')[-1]}={v}" for key, v in setting.items())
    found.append((words, setting))
  return found


def plan(argv: list[str]) -> tuple[list[jobs.Job], pathlib.Path, argparse.Namespace]:
  """The runs that a command line asks for, the output folder, and the flags.

  Raises:
    UserError: a wrong flag, config, key or value, or a run directory that is taken.
  """
  overrides, others = command_line.split_overrides(argv)
  flags = _parser().parse_args(others)
  if flags.config is None:
    raise UserError("--config=FILE is missing; for example --config=configs/net6b.py")
  command_line.check_at_least(flags, seeds=1, at_once=1)
  values = varied(flags.vary)
  for key in ("seed", "name", *values):
    if key in overrides:
      raise UserError(f"--config.{key}={overrides[key]!r}: is set by the sweep")
  config = config_lib.load(flags.config)
  if flags.ablate is None:
    settings, place = combinations(values), f"{config.name}-sweep"
  else:
    base = config_lib.load(flags.ablate, "--ablate")
    settings = ablation.settings(config, base, overrides)
    place = f"{config.name}-against-{base.name}"
  output = pathlib.Path(flags.output or f"runs/{place}")
  planned = []
  for seed in range(flags.seeds):
    for folder, setting in settings:
      workdir = output / folder.replace("/", "_") / f"seed{seed}"
      everything = {**overrides, **setting, "seed": str(seed)}
      planned.append(jobs.plan(flags.config, everything, workdir))
  pairs = itertools.combinations(planned, 2)
  if any(a.workdir == b.workdir or a.config == b.config for a, b in pairs):
    raise UserError("--vary: two of the runs would be the same")
  jobs.check_places(flags.at_once, os.environ)
  return planned, output, flags


def run(argv: list[str]) -> int:
  """Makes the runs that a command line asks for, and their report."""
  planned, output, flags = plan(argv)
  code = jobs.train_all(planned, at_once=flags.at_once)
  made = [str(job.workdir) for job in planned if jobs.finished(job)]
  if code in (jobs.INTERRUPTED, jobs.TERMINATED) or not made:
    return code
  if flags.ablate is not None:
    table = ablation.table(planned)
    print(table.text())
    write_atomically(output / "ablation.md", table.markdown().encode())
  from cifar_flax.tools import report

  report.run([*made, "--output", str(output / "report")])
  return code


def main(argv: list[str] | None = None) -> int:
  """Runs; returns the exit code, as `cifar_flax.main` does, or 1 if a run failed."""
  return command_line.answer(run, argv)
