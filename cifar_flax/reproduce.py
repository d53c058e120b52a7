"""Trains the published configs to their full length: `make reproduce`.

Every config runs with several seeds, one after another, each in a process and a run
directory of its own, OUTPUT/<config>/seed<k>. The same command goes on where it was
stopped. After every run OUTPUT/results.md and results.json are written anew, from the
summaries of the finished runs and nothing else.
"""

import argparse
import dataclasses
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cifar_flax import config as config_lib
from cifar_flax import main as main_lib
from cifar_flax import published, results, run_directory
from cifar_flax.config import Config
from cifar_flax.errors import UserError

USER_ERROR, INTERRUPTED = 2, 130  # exit codes of cifar_flax.main


@dataclasses.dataclass(frozen=True)
class Job:
  """One run: a config with one seed.

  Attributes:
    config: all of it, overrides and seed included.
    workdir: its run directory.
    command: trains it.
  """

  config: Config
  workdir: pathlib.Path
  command: list[str]


def plan(argv: Sequence[str]) -> tuple[list[Job], pathlib.Path]:
  """The runs that a command line asks for, in order, and the output folder.

  Raises:
    UserError: a wrong flag, config, key or value, or a run directory that is taken.
  """
  overrides, others = main_lib.split_overrides(list(argv))
  for key in ("seed", "name"):
    if key in overrides:
      raise UserError(
        f"--config.{key}={overrides[key]!r}: is set here; use --seeds and --configs"
      )
  flags = _parser().parse_args(others)
  if flags.seeds < 1:
    raise UserError(f"--seeds={flags.seeds}: must be an integer >= 1")
  output = pathlib.Path(flags.output)
  jobs = []
  for name in flags.configs.split(","):
    path = name if name.endswith(".py") else f"configs/{name}.py"
    for seed in range(flags.seeds):
      values = {**overrides, "seed": str(seed)}
      config = config_lib.override(config_lib.load(path), values)
      workdir = output / config.name / f"seed{seed}"
      command = [sys.executable, "-m", "cifar_flax.main", "--config", path]
      command += ["--workdir", str(workdir)]
      command += [f"--config.{key}={value}" for key, value in values.items()]
      jobs.append(Job(config_lib.validate(config), workdir, command))
  workdirs = {job.workdir for job in jobs}
  if len(workdirs) < len(jobs):
    raise UserError(f"--configs={flags.configs!r}: must name each config once")
  for job in jobs:
    _check_free(job)
  return jobs, output


def _parser() -> argparse.ArgumentParser:
  parser = main_lib.Parser(
    prog="python -m cifar_flax.reproduce",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog="--config.KEY=VALUE changes every run; see cifar_flax.main --help",
    allow_abbrev=False,
  )
  parser.add_argument(
    "--configs",
    default=",".join(published.CONFIGS),
    help="names in configs/ or files, comma between (default: %(default)s)",
  )
  parser.add_argument("--seeds", type=int, default=5, help="seeds 0.. (default: 5)")
  parser.add_argument("--output", default="runs/reproduce", help="default: %(default)s")
  return parser


def _check_free(job: Job) -> None:
  """Refuses now what `main` would refuse hours later."""
  file = job.workdir / "config.json"
  if not file.exists():
    return
  before = config_lib.flatten(config_lib.load(str(file)))
  free = ("num_epochs", *run_directory.FREE_KEYS)
  for key, now in config_lib.flatten(job.config).items():
    if key not in free and before[key] != now:
      raise UserError(
        f"config.{key}={now!r}: {job.workdir} was trained with {before[key]!r}; keep "
        "that, or choose another --output"
      )


def finished(job: Job) -> dict[str, Any] | None:
  """The summary in a job's run directory if it is of as many epochs."""
  return run_directory.finished_summary(job.workdir, job.config.num_epochs)


def run_process(command: Sequence[str]) -> int:
  """Runs a command to its end; returns its exit code.

  Ctrl-C reaches the command as well: it is given the time to end in its own way.
  """
  with subprocess.Popen(command) as process:
    try:
      return process.wait()
    except KeyboardInterrupt:
      try:
        process.wait(timeout=30)
      except subprocess.TimeoutExpired:
        process.terminate()
      raise


def reproduce(
  jobs: Sequence[Job],
  output: pathlib.Path,
  command: str,
  run: Callable[[Sequence[str]], int] = run_process,
) -> int:
  """Makes the runs that are not finished, and the table after each.

  Args:
    jobs: the runs, in order.
    output: where results.md and results.json go.
    command: that asked for them, for the table.
    run: makes one run and returns its exit code.

  Returns:
    0, or 1 if a run failed, or the code of a run that was refused or interrupted.
  """
  failures: dict[pathlib.Path, int] = {}
  output.mkdir(parents=True, exist_ok=True)

  def write_table() -> None:
    entries = [(job.config, finished(job)) for job in jobs]
    failed = {str(folder): code for folder, code in failures.items()}
    results.write(output, entries, failed, command)

  write_table()
  for i, job in enumerate(jobs, 1):
    where = f"[{i}/{len(jobs)}] {job.workdir}"
    if finished(job):
      print(f"{where}: is finished", flush=True)
      continue
    print(f"{where}: {shlex.join(job.command)}", flush=True)
    code = run(job.command)
    if code == 0 and not finished(job):
      code = 1
    if code:
      failures[job.workdir] = code
      print(f"{where}: failed with exit code {code}", file=sys.stderr, flush=True)
    write_table()
    if code in (USER_ERROR, INTERRUPTED):  # the other runs would end alike
      return code
  print((output / "results.md").read_text())
  return 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
  """Runs; returns the exit code, as `cifar_flax.main` does, or 1 if a run failed."""
  argv = sys.argv[1:] if argv is None else argv
  try:
    jobs, output = plan(argv)
    command = shlex.join(["python", "-m", "cifar_flax.reproduce", *argv])
    return reproduce(jobs, output, command)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return USER_ERROR
  except KeyboardInterrupt:
    print("interrupted: the same command goes on where it stopped", file=sys.stderr)
    return INTERRUPTED


if __name__ == "__main__":
  sys.exit(main())
