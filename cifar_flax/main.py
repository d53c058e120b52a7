"""Trains a config, or evaluates a checkpoint: `--config configs/net6a.py`.

`python -m cifar_flax.main`, or `python -m cifar_flax train` and `eval`.
"""

import argparse
import logging
import os
import pathlib
import sys
import time

from cifar_flax import command_line, effects
from cifar_flax import config as config_lib
from cifar_flax.config import Config
from cifar_flax.errors import Diverged, Stopped, UserError
from cifar_flax.run import accelerators, lock, processes, signals, streams

MODES = ("train", "eval")


def _parser(mode: str) -> argparse.ArgumentParser:
  keys = "keys for --config.KEY=VALUE:\n" + config_lib.help_text()
  parser = command_line.Parser(mode, __doc__, keys)
  parser.add_argument(
    "--config", metavar="FILE", help="a file such as configs/net6a.py"
  )
  parser.add_argument("--workdir", metavar="DIR", help="default: runs/<config name>")
  parser.add_argument("--mode", default="train", help="train (default) or eval")
  parser.add_argument(
    "--checkpoint",
    default="best",
    help="the one that --mode=eval evaluates: best or last",
  )
  parser.add_argument(
    "--distributed",
    metavar="HOW",
    help="one process of several: auto, or HOST:PORT,NUMBER,ID",
  )
  return parser


def parse(argv: list[str]) -> tuple[Config, pathlib.Path, argparse.Namespace]:
  """Parses a command line into the config, the run directory and the flags.

  Raises:
    UserError: one line naming the field, its value and what is allowed.
  """
  overrides, others = command_line.split_overrides(argv)
  flags = _parser("eval" if "--mode=eval" in others else "train").parse_args(others)
  command_line.check_choice(flags, "mode", MODES)
  command_line.check_choice(flags, "checkpoint", command_line.CHECKPOINTS)
  if flags.config is None and flags.mode == "eval" and flags.workdir is not None:
    flags.config = str(command_line.require_run(flags.workdir) / "config.json")
  config = command_line.load_config(flags.config, overrides)
  return config, _folder(flags.workdir, os.path.join("runs", config.name)), flags


def _folder(given: str | None, default: str) -> pathlib.Path:
  """Returns the run directory; raises UserError if it cannot be a folder."""
  path = pathlib.Path(default if given is None else given)
  if given == "":
    raise UserError(f"--workdir='': must name a folder; without it, {default}")
  for part in (path, *path.parents):
    if os.path.exists(part) and not os.path.isdir(part):
      raise UserError(f"--workdir={str(path)!r}: {part} is a file; name a folder")
  return path


def run(argv: list[str], start_time: float, stop: signals.Watch) -> None:
  """Trains or evaluates as a command line says.

  Args:
    argv: the arguments.
    start_time: of the program, by `time.monotonic`.
    stop: where signals arrive.
  """
  config, workdir, flags = parse(argv)
  if flags.mode == "train":
    streams.outlive()
  if flags.distributed is not None:
    processes.parse(flags.distributed)
    processes.supervise()
  elif flags.mode == "train":
    lock.check(workdir)
  if flags.mode == "train":
    for line in effects.notes(config):
      logging.warning("note: %s", line)
  # These import JAX: only for input that is well formed.
  from cifar_flax import caches, train

  caches.keep_compiled_programs()
  if flags.distributed is not None:
    processes.initialize(flags.distributed)
  accelerators.check()
  if flags.mode == "train":
    train.train_and_evaluate(config, workdir, start_time=start_time, stop=stop)
  else:
    print(train.evaluate_checkpoint(config, workdir, flags.checkpoint))


def main(argv: list[str] | None = None) -> int:
  """Runs; returns the code of `command_line.report_error`, or 1 for a lost process."""
  start_time = time.monotonic()
  argv = sys.argv[1:] if argv is None else argv
  with streams.guarded():
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
      try:
        with signals.Watch() as stop:
          run(argv, start_time, stop)
      finally:
        sys.stdout.flush()  # what cannot be printed is an error of the command
      processes.wait_for_all()
      return 0
    except command_line.ERRORS as error:
      if isinstance(error, Diverged | Stopped):  # so it is in all processes
        processes.wait_for_all()
      code = command_line.report_error(error)
    except RuntimeError as error:
      if not processes.is_lost_process(error):
        raise
      print(processes.lost_process_message(str(error)), file=sys.stderr)
      code = 1
    if processes.is_distributed():
      processes.exit_at_once(code)
    return code


if __name__ == "__main__":
  command_line.leave(main())
