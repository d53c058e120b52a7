"""Where `sweep`, `study` and `reproduce` train their runs: `--at_once` and `--on`."""

import argparse
import contextlib
import functools
import os
from collections.abc import Callable, Iterator

from cifar_flax import command_line
from cifar_flax.errors import UserError
from cifar_flax.tools import jobs, slots

RAY = "ray"


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds `--at_once` and `--on`."""
  parser.add_argument(
    "--at_once",
    type=int,
    default=1,
    help="runs trained at the same time: each uses one GPU or TPU chip, or its share "
    "of the CPU's cores, and writes its output to log.txt in its run directory "
    "(%(default)s)",
  )
  parser.add_argument(
    "--on",
    metavar="ray[:ADDRESS]",
    help="train on all machines of a Ray cluster: that of ADDRESS, the one that this "
    "machine belongs to, or a new one of this machine alone",
  )


def check(flags: argparse.Namespace) -> None:
  """Raises UserError unless the runs can be trained where the flags say."""
  command_line.check_at_least(flags, at_once=1)
  if flags.on is None:
    slots.check(flags.at_once, os.environ)
  elif flags.on.partition(":")[0] != RAY:
    raise UserError(f"--on={flags.on!r}: must be {RAY} or {RAY}:ADDRESS")
  elif flags.at_once > 1:
    raise UserError("--at_once: has no effect with --on, which uses the whole cluster")


@contextlib.contextmanager
def training(flags: argparse.Namespace) -> Iterator[Callable[..., int]]:
  """Yields `jobs.train_all` for the place that the flags name.

  Raises:
    UserError: Ray is not installed, or there is no such cluster.
  """
  if flags.on is None:
    yield functools.partial(jobs.train_all, at_once=flags.at_once)
    return
  from cifar_flax.tools import on_ray

  with on_ray.cluster(flags.on.partition(":")[2]) as places:
    yield functools.partial(jobs.train_all, at_once=places.number, start=places)
