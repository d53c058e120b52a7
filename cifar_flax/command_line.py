"""What the commands share: choices that are checked, mistakes answered in a line."""

import argparse
import sys
from collections.abc import Callable, Sequence

from cifar_flax import config as config_lib
from cifar_flax.errors import UserError


def check_choice(flags: argparse.Namespace, name: str, allowed: Sequence[str]) -> None:
  """Raises UserError, with the nearest choice, if a flag has none of `allowed`."""
  value = getattr(flags, name)
  if value not in allowed:
    hint = config_lib.nearest(value, allowed)
    raise UserError(f"--{name}={value!r}: must be one of {', '.join(allowed)}{hint}")


def answer(run: Callable[[list[str]], int | None], argv: list[str] | None) -> int:
  """Runs a command; mistakes are answered in a line.

  Args:
    run: takes the arguments; returns the exit code, or None for 0.
    argv: the arguments; None: those of this process.

  Returns:
    What `run` returns, 1 for a file that can't be written, 2 for wrong input, 130 for
    Ctrl-C.
  """
  try:
    return run(sys.argv[1:] if argv is None else argv) or 0
  except UserError as error:
    code, line = 2, f"error: {error}"
  except OSError as error:
    code, line = 1, f"error: {error.filename}: {error.strerror}"
  except KeyboardInterrupt:
    code, line = 130, "interrupted"
  print(line, file=sys.stderr)
  return code
