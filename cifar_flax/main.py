"""The command line: `python -m cifar_flax.main --config configs/net6a.py`."""

import argparse
import logging
import os
import pathlib
import signal
import sys
import time

from cifar_flax import command_line, distributed, run_lock, stopping
from cifar_flax import config as config_lib
from cifar_flax.config import Config
from cifar_flax.errors import Diverged, Stopped, UserError

MODES = ("train", "eval")
CHECKPOINTS = ("best", "last")
FLAGS = ("--config", "--workdir", "--mode", "--checkpoint", "--distributed", "--help")


class Parser(argparse.ArgumentParser):
  """Answers in one line instead of three."""

  def error(self, message: str):
    """Raises UserError."""
    raise UserError(f"{message} (--help lists all flags)")


def _parser() -> argparse.ArgumentParser:
  parser = Parser(
    prog="python -m cifar_flax.main",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog="keys for --config.KEY=VALUE:\n" + config_lib.help_text(),
    allow_abbrev=False,
  )
  parser.add_argument(
    "--config", metavar="FILE", help="a file such as configs/net6a.py"
  )
  parser.add_argument("--workdir", metavar="DIR", help="default: runs/<config name>")
  parser.add_argument("--mode", default="train", help="train (default) or eval")
  parser.add_argument(
    "--checkpoint", default="best", help="which one --mode=eval takes: best or last"
  )
  parser.add_argument(
    "--distributed",
    metavar="HOW",
    help="one process of several: auto, or HOST:PORT,NUMBER,ID",
  )
  return parser


def split_overrides(argv: list[str]) -> tuple[dict[str, str], list[str]]:
  """Takes `--config.KEY=VALUE` and `--config.KEY VALUE` out of the arguments.

  Returns:
    The values by key, and the other arguments.

  Raises:
    UserError: a key without a value.
  """
  overrides, others, arguments = {}, [], iter(argv)
  for argument in arguments:
    if not argument.startswith("--config."):
      others.append(argument)
      continue
    name, equals, value = argument.removeprefix("--config.").partition("=")
    if not equals:
      value = next(arguments, "--")
    if not equals and value.startswith("--"):
      raise UserError(f"--config.{name}: needs a value: --config.{name}=VALUE")
    overrides[name] = value
  return overrides, others


def parse(argv: list[str]) -> tuple[Config, pathlib.Path, argparse.Namespace]:
  """The config, the run directory and the flags that a command line asks for.

  Raises:
    UserError: one line naming the field, its value and what is allowed.
  """
  overrides, others = split_overrides(argv)
  flags, unknown = _parser().parse_known_args(others)
  if unknown:
    hint = config_lib.nearest(unknown[0].partition("=")[0], FLAGS)
    raise UserError(f"{unknown[0]}: no such flag{hint} (--help lists all)")
  command_line.check_choice(flags, "mode", MODES)
  command_line.check_choice(flags, "checkpoint", CHECKPOINTS)
  if flags.config is None and flags.mode == "eval" and flags.workdir is not None:
    flags.config = os.path.join(flags.workdir, "config.json")
    if not os.path.isfile(flags.config):
      raise UserError(f"--workdir={flags.workdir!r}: no run here (no config.json)")
  if flags.config is None:
    raise UserError("--config=FILE is missing; for example --config=configs/net6a.py")
  config = config_lib.load(flags.config)
  config = config_lib.validate(config_lib.override(config, overrides))
  config.name = config.name or pathlib.Path(flags.config).stem
  return config, _folder(flags.workdir, os.path.join("runs", config.name)), flags


def _folder(given: str | None, default: str) -> pathlib.Path:
  """The run directory, if a folder is there or can be made."""
  path = pathlib.Path(default if given is None else given)
  if given == "":
    raise UserError(f"--workdir='': must name a folder; without it, {default}")
  for part in (path, *path.parents):
    if os.path.exists(part) and not os.path.isdir(part):
      raise UserError(f"--workdir={str(path)!r}: {part} is a file; name a folder")
  return path


def run(argv: list[str], began: float, stop: stopping.Watch) -> None:
  """Does what a command line asks for.

  Args:
    argv: the arguments.
    began: when the program did, by `time.monotonic`.
    stop: where signals arrive.
  """
  config, workdir, flags = parse(argv)
  if flags.distributed is not None:
    distributed.parse(flags.distributed)
    distributed.supervise()
  elif flags.mode == "train":
    run_lock.check(workdir)
  if config.model.dtype == "float64":
    os.environ["JAX_ENABLE_X64"] = "true"
  # These import JAX: only for input that is well formed.
  from cifar_flax import compilation_cache, train

  compilation_cache.enable()
  if flags.distributed is not None:
    distributed.initialize(flags.distributed)
  if flags.mode == "train":
    train.train_and_evaluate(config, workdir, began=began, stop=stop)
  else:
    print(train.evaluate_checkpoint(config, workdir, flags.checkpoint))


def main(argv: list[str] | None = None) -> int:
  """Runs; returns the exit code.

  0, or 1 for a disk that is full, a run that diverged or lost one of its processes, 2
  for wrong input, 130 after Ctrl-C and 143 after SIGTERM.
  """
  began = time.monotonic()
  logging.basicConfig(format="%(message)s", level=logging.WARNING)
  argv = sys.argv[1:] if argv is None else argv
  try:
    with stopping.Watch() as stop:
      run(argv, began, stop)
    distributed.part()
    return 0
  except UserError as error:
    code, line = 2, f"error: {error}"
  except Diverged as error:
    distributed.part()
    code, line = 1, f"error: {error}"
  except Stopped as error:
    distributed.part()
    name = signal.Signals(error.signal).name
    code = 128 + error.signal
    line = f"stopped by {name}, and saved: the same command goes on from here"
  except OSError as error:
    if error.filename is None:
      raise
    code, line = 1, f"error: {error.filename}: {error.strerror}"
  except KeyboardInterrupt:
    code, line = 130, "interrupted: the same command goes on where it stopped"
  except RuntimeError as error:
    if not distributed.is_loss(error):
      raise
    code, line = 1, distributed.loss(str(error))
  print(" ".join(line.splitlines()), file=sys.stderr)
  if distributed.joined():
    distributed.leave(code)
  return code


if __name__ == "__main__":
  sys.exit(main())
