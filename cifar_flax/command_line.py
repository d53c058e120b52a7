"""What the commands share: their parser, config overrides, and how errors are reported.

Every command prints one line for a mistake and exits with the same codes.
"""

import argparse
import pathlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from cifar_flax import config as config_lib
from cifar_flax import effects, hints, places
from cifar_flax.config import Config
from cifar_flax.errors import Diverged, Stopped, UserError
from cifar_flax.run import accelerators, signals, streams

CHECKPOINTS = ("best", "last")
EVERY_RUN = "--config.KEY=VALUE sets a key in every run; train --help lists them"


# Flags and arguments that are paths, or several, separated by commas in `configs`.
_PATHS = {
  "ablate",
  "card",
  "config",
  "configs",
  "explain",
  "images",
  "output",
  "plot",
  "runs",
  "workdir",
}


def _expanded(value: Any, name: str) -> Any:
  """Returns the path or paths of a flag or argument with `~` expanded.

  Raises:
    UserError: a path is a URL, or there is no such home.
  """
  if not value:
    return value
  if isinstance(value, list):
    return [places.expanded(path, "") for path in value]
  paths = value.split(",") if name == "configs" else [value]
  return ",".join(places.expanded(path, f"--{name}") for path in paths)


class Parser(argparse.ArgumentParser):
  """A parser whose errors are UserErrors of one line."""

  def __init__(self, command: str, description: str | None, epilog: str = ""):
    """Makes the parser of `python -m cifar_flax COMMAND`.

    Args:
      command: its name, or "" for the command that lists the others.
      description: the module's docstring.
      epilog: printed by --help below the flags.
    """
    super().__init__(
      prog=f"python -m cifar_flax {command}".rstrip(),
      description=description,
      epilog=epilog,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )

  def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
    """Parses the arguments; names the nearest flag if one does not exist."""
    flags, unknown = self.parse_known_args(args, namespace)
    if unknown:
      known = [name for name in self._option_string_actions if name.startswith("--")]
      takes_keys = any(name.startswith("--config") for name in known)
      keys = list(config_lib.fields()) if takes_keys else []
      hint = hints.nearest_flag(unknown[0], known, keys)
      raise UserError(f"{unknown[0]}: no such flag{hint} (--help lists all)")
    for name in _PATHS & vars(flags).keys():
      setattr(flags, name, _expanded(getattr(flags, name), name))
    return flags

  def _print_message(self, message: str, file: Any = None) -> None:
    """Prints the help; argparse itself would ignore that it cannot be printed."""
    print(message, file=file or sys.stderr, end="")

  def error(self, message: str) -> NoReturn:
    """Raises UserError."""
    raise UserError(f"{message} (--help lists all flags)")


def split_overrides(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
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
      known = config_lib.fields()
      hint = "" if name in known else hints.nearest(name, known)
      raise UserError(f"--config.{name}: needs a value: --config.{name}=VALUE{hint}")
    overrides[name] = value
  return overrides, others


def load_config(path: str | None, overrides: dict[str, str]) -> Config:
  """Loads the config that `--config` names and sets the overridden keys.

  Raises:
    UserError: there is no such file, a key or value is wrong, or an overridden key has
      no effect.
  """
  if path is None:
    raise UserError("--config=FILE is missing; for example --config=configs/net6b.py")
  config = config_lib.load(path)
  config = config_lib.validate(config_lib.override(config, overrides))
  effects.check(overrides, [config])
  config.name = config.name or pathlib.Path(path).stem
  return config


def require_workdir(workdir: str | None) -> pathlib.Path:
  """Returns the folder that `--workdir` names; raises UserError if none is named."""
  if workdir is None:
    raise UserError("--workdir=RUN is missing; for example --workdir=runs/net6b")
  return pathlib.Path(workdir)


def require_run(workdir: str | None) -> pathlib.Path:
  """Returns the run directory that `--workdir` names.

  Raises:
    UserError: none is named, or there is no run in it.
  """
  path = require_workdir(workdir)
  if not (path / "config.json").is_file():
    raise UserError(f"--workdir={workdir!r}: no run here (no config.json)")
  return path


def check_choice(flags: argparse.Namespace, name: str, allowed: Sequence[str]) -> None:
  """Raises UserError, with the nearest choice, if a flag has none of `allowed`."""
  value = getattr(flags, name)
  if value not in allowed:
    hint = hints.nearest(value, allowed)
    raise UserError(f"--{name}={value!r}: must be one of {', '.join(allowed)}{hint}")


def check_at_least(flags: argparse.Namespace, **lowest: int) -> None:
  """Raises UserError if a flag is below its lowest value."""
  for name, low in lowest.items():
    if (value := getattr(flags, name)) < low:
      raise UserError(f"--{name}={value}: must be an integer >= {low}")


def answer(run: Callable[[list[str]], int | None], argv: list[str] | None) -> int:
  """Runs a command and reports its errors in one line.

  Args:
    run: takes the arguments; returns the exit code, or None for 0.
    argv: the arguments; None for those of this process.

  Returns:
    What `run` returns, or the code of the error, as `report_error` says.
  """
  with streams.guarded():
    try:
      try:
        return run(sys.argv[1:] if argv is None else argv) or 0
      finally:
        sys.stdout.flush()  # what cannot be printed is an error of the command
    except ERRORS as error:
      return report_error(error)
    except Exception as error:
      if (refusal := accelerators.refusal(error)) is None:
        raise
      return report_error(refusal)


# What `report_error` takes.
ERRORS = (UserError, Diverged, Stopped, OSError, KeyboardInterrupt)


def report_error(error: BaseException) -> int:
  """Prints one line for an error that a user is meant to read.

  Returns:
    The exit code: 1 for a file that cannot be written or a run that diverged, 2 for
    wrong input, 128 + n after signal n: 130 after Ctrl-C, 143 after SIGTERM. If nobody
    reads the output, it is 141, as after SIGPIPE, and nothing is printed.

  Raises:
    OSError: it names no file, so it is not about one of the user's.
  """
  if isinstance(error, UserError):
    code, line = 2, f"error: {error}"
  elif isinstance(error, Diverged):
    code, line = 1, f"error: {error}"
  elif isinstance(error, Stopped):
    name = signal.Signals(error.signal).name
    code = 128 + error.signal
    saved = "; everything is saved" if error.saved else ""
    line = f"stopped by {name}{saved}: rerun the same command to resume"
  elif isinstance(error, BrokenPipeError) and error.filename == streams.STDOUT:
    return 128 + signal.SIGPIPE
  elif isinstance(error, OSError):
    if error.filename is None:
      raise error
    code, line = 1, f"error: {error.filename}: {error.strerror}"
  else:
    assert isinstance(error, KeyboardInterrupt), error
    code, line = 130, "interrupted: rerun the same command to resume"
  print(" ".join(line.splitlines()), file=sys.stderr)
  return code


def leave(code: int) -> NoReturn:
  """Ends the process; repeats of a signal that has stopped it do not change `code`."""
  signals.ignore_repeats(code)
  sys.exit(code)
