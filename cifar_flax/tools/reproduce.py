"""Trains the published and the tuned configs to their full length: `make reproduce`.

Every config is trained with several seeds, one run after another or several at once,
each in its own run directory, OUTPUT/<config>/seed<k>. Rerun the same command to
resume. After every run, OUTPUT/results.md and results.json are rewritten from the
summaries of the finished runs alone.
"""

import argparse
import pathlib
import shlex
from collections.abc import Callable, Sequence

from cifar_flax import command_line, effects, published
from cifar_flax import config as config_lib
from cifar_flax.errors import UserError
from cifar_flax.tools import jobs, results, where


def plan(
  argv: Sequence[str],
) -> tuple[list[jobs.Job], pathlib.Path, argparse.Namespace]:
  """Returns the planned runs, the output folder, and the flags of a command line.

  Raises:
    UserError: a flag, config, key or value is wrong, a key has no effect in any of the
      configs, or a run directory contains a different run.
  """
  overrides, others = command_line.split_overrides(list(argv))
  for key in ("seed", "name"):
    if key in overrides:
      raise UserError(
        f"--config.{key}={overrides[key]!r}: cannot be set; use --seeds and --configs"
      )
  flags = _parser().parse_args(others)
  command_line.check_at_least(flags, seeds=1)
  where.check(flags)
  output = pathlib.Path(flags.output)
  planned = []
  for name in flags.configs.split(","):
    path = name if name.endswith(".py") else f"configs/{name}.py"
    folder = output / config_lib.load(path).name
    for seed in range(flags.seeds):
      values = {**overrides, "seed": str(seed)}
      planned.append(jobs.plan(path, values, folder / f"seed{seed}"))
  effects.check(overrides, [job.config for job in planned])
  if len({job.workdir for job in planned}) < len(planned):
    raise UserError(f"--configs={flags.configs!r}: must name each config once")
  return planned, output, flags


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser("reproduce", __doc__, command_line.EVERY_RUN)
  parser.add_argument(
    "--configs",
    default=",".join((*published.CONFIGS, *published.TUNED)),
    help="names in configs/ or files, comma-separated (default: %(default)s)",
  )
  parser.add_argument(
    "--seeds", type=int, default=5, help="number of seeds (default: 5)"
  )
  where.add_flags(parser)
  parser.add_argument("--output", default="runs/reproduce", help="default: %(default)s")
  return parser


def reproduce(
  planned: Sequence[jobs.Job],
  output: pathlib.Path,
  command: str,
  train_all: Callable[..., int] = jobs.train_all,
) -> int:
  """Trains the runs that are not finished and rewrites the table after each.

  Args:
    planned: the runs, in order.
    output: the folder of results.md and results.json.
    command: the command line, printed below the table.
    train_all: `jobs.train_all`, for the place where the runs are trained.

  Returns:
    The exit code of `jobs.train_all`.
  """
  output.mkdir(parents=True, exist_ok=True)

  def write_table(failures: dict[pathlib.Path, int]) -> None:
    entries = [(job.config, jobs.finished_summary(job)) for job in planned]
    failed = {str(folder): code for folder, code in failures.items()}
    results.write(output, entries, failed, command)

  write_table({})
  # An error in the user's input, such as missing data, would stop the other runs too.
  stop_codes = (jobs.USER_ERROR, *jobs.STOPPED)
  code = train_all(planned, write_table, stop_codes=stop_codes)
  if code not in stop_codes:
    print((output / "results.md").read_text())
  return code


def run(argv: list[str]) -> int:
  """Trains the runs of a command line; returns the exit code."""
  planned, output, flags = plan(argv)
  command = shlex.join(["python", "-m", "cifar_flax", "reproduce", *argv])
  with where.training(flags) as train_all:
    return reproduce(planned, output, command, train_all)
