"""Trains the published and the tuned configs to their full length: `make reproduce`.

Every config runs with several seeds, one after another, each in a process and a run
directory of its own, OUTPUT/<config>/seed<k>. The same command goes on where it was
stopped. After every run OUTPUT/results.md and results.json are written anew, from the
summaries of the finished runs and nothing else.
"""

import argparse
import pathlib
import shlex
from collections.abc import Callable, Sequence

from cifar_flax import command_line, published
from cifar_flax import config as config_lib
from cifar_flax.errors import UserError
from cifar_flax.tools import jobs, results


def plan(argv: Sequence[str]) -> tuple[list[jobs.Job], pathlib.Path]:
  """The runs that a command line asks for, in order, and the output folder.

  Raises:
    UserError: a wrong flag, config, key or value, or a run directory that is taken.
  """
  overrides, others = command_line.split_overrides(list(argv))
  for key in ("seed", "name"):
    if key in overrides:
      raise UserError(
        f"--config.{key}={overrides[key]!r}: is set here; use --seeds and --configs"
      )
  flags = _parser().parse_args(others)
  command_line.check_at_least(flags, seeds=1)
  output = pathlib.Path(flags.output)
  planned = []
  for name in flags.configs.split(","):
    path = name if name.endswith(".py") else f"configs/{name}.py"
    folder = output / config_lib.load(path).name
    for seed in range(flags.seeds):
      values = {**overrides, "seed": str(seed)}
      planned.append(jobs.plan(path, values, folder / f"seed{seed}"))
  if len({job.workdir for job in planned}) < len(planned):
    raise UserError(f"--configs={flags.configs!r}: must name each config once")
  return planned, output


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser("reproduce", __doc__, command_line.EVERY_RUN)
  parser.add_argument(
    "--configs",
    default=",".join((*published.CONFIGS, *published.TUNED)),
    help="names in configs/ or files, comma between (default: %(default)s)",
  )
  parser.add_argument("--seeds", type=int, default=5, help="seeds 0.. (default: 5)")
  parser.add_argument("--output", default="runs/reproduce", help="default: %(default)s")
  return parser


def reproduce(
  planned: Sequence[jobs.Job],
  output: pathlib.Path,
  command: str,
  start: Callable[[jobs.Job, int | None], jobs.Process] = jobs.start_process,
) -> int:
  """Makes the runs that are not finished, and the table after each.

  Args:
    planned: the runs, in order.
    output: where results.md and results.json go.
    command: that asked for them, for the table.
    start: starts one.

  Returns:
    As `jobs.train_all`.
  """
  output.mkdir(parents=True, exist_ok=True)

  def write_table(failures: dict[pathlib.Path, int]) -> None:
    entries = [(job.config, jobs.finished(job)) for job in planned]
    failed = {str(folder): code for folder, code in failures.items()}
    results.write(output, entries, failed, command)

  write_table({})
  # A run that is refused tells that the others would be.
  ends = (jobs.USER_ERROR, jobs.INTERRUPTED, jobs.TERMINATED)
  code = jobs.train_all(planned, write_table, start=start, ends=ends)
  if code not in ends:
    print((output / "results.md").read_text())
  return code


def run(argv: list[str]) -> int:
  """Makes what a command line asks for."""
  planned, output = plan(argv)
  command = shlex.join(["python", "-m", "cifar_flax", "reproduce", *argv])
  return reproduce(planned, output, command)


def main(argv: list[str] | None = None) -> int:
  """Runs; returns the exit code, as `cifar_flax.main` does, or 1 if a run failed."""
  return command_line.answer(run, argv)
