"""Compares the types of convolution, like with like: `python -m cifar_flax study`.

Every type takes the slots of the network `uniform`, in up to three comparisons:

  slots          the same number of channels as `plain`
  multiply_adds  the width at which the network has as many multiply-adds as `plain`
  parameters     the width at which it has as many parameters

Widths are found by counting. Each type is trained with the best of several peak
learning rates, which are compared first, with the first seed, on nine tenths of the
training images and judged on the rest: 0.003, 0.01 and 0.03, and lower or higher ones
for as long as the best one is the lowest or highest tried. Runs that several
comparisons share are trained once, so a comparison can be added later. Rerun the same
command to resume.

OUTPUT has study.md and study.html with tables, figures and conclusions, study.json with
every number, and the run directories TYPE/width=W/seed0 and TYPE/search/rate=R. Speed
and memory are measured once, after the training; --measure does it again, when nothing
else is running.
"""

import argparse
import dataclasses
import itertools
import json
import logging
import pathlib
import re
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cifar_flax import command_line, hints, registry
from cifar_flax import config as config_lib
from cifar_flax.config import Config
from cifar_flax.errors import UserError
from cifar_flax.run import files
from cifar_flax.tools import jobs, where

if TYPE_CHECKING:
  from cifar_flax.tools.widths import Width

BASE = "plain"  # the type that the others are compared with
COMPARISONS = ("slots", "multiply_adds", "parameters")
RATES = (0.003, 0.01, 0.03)  # the peak rates that every type is tried with
ALL_RATES = (0.0003, 0.001, *RATES, 0.1, 0.3)  # the others only beyond the best
MEASURED = "measured.json"  # speed and memory of the networks
# Keys that the study sets itself.
ITS_KEYS = (
  "seed",
  "name",
  "model.convolution",
  "model.width",
  "schedule.learning_rate",
)
STOP_CODES = (jobs.USER_ERROR, *jobs.STOPPED)


@dataclasses.dataclass
class Study:
  """What a command line asks for, and what is known of it so far.

  Attributes:
    path: the config file.
    config: its content, with the overrides of the command line.
    overrides: the text of each overridden key's value.
    types: the types of convolution; the first is `BASE`.
    compared: the comparisons, in order.
    seeds: number of seeds.
    search_epochs: length of the runs that choose the learning rate.
    output: folder to write to.
    command: the command line.
    widths: of each type in each comparison.
    search: the accuracy in percent that each type reached with each peak rate; None
      where it did not finish.
    measured: content of measured.json, as `measurement.record` returns it.
  """

  path: str
  config: Config
  overrides: dict[str, str]
  types: list[str]
  compared: list[str]
  seeds: int
  search_epochs: int
  output: pathlib.Path
  command: str
  widths: "dict[str, dict[str, Width]]" = dataclasses.field(default_factory=dict)
  search: dict[str, dict[float, float | None]] = dataclasses.field(default_factory=dict)
  measured: dict[str, Any] = dataclasses.field(default_factory=dict)

  def rate(self, kind: str) -> float | None:
    """Returns the peak rate that was best for a type in the search; first of equals."""
    tried = self.search[kind].items()
    known = {rate: reached for rate, reached in tried if reached is not None}
    return max(known, key=lambda rate: known[rate]) if known else None

  def job(self, kind: str, comparison: str, seed: int) -> jobs.Job | None:
    """Returns a run of a comparison; None if the search found no rate for its type."""
    if (rate := self.rate(kind)) is None:
      return None
    width = self.widths[comparison][kind].width
    values = {"model.convolution": kind, "model.width": str(width)}
    values |= {"schedule.learning_rate": f"{rate:g}", "seed": str(seed)}
    folder = self.output / kind / f"width={show_width(width)}" / f"seed{seed}"
    return jobs.plan(self.path, self.overrides | values, folder)

  def runs(self) -> list[jobs.Job]:
    """Returns all runs that are compared, each once."""
    found: dict[pathlib.Path, jobs.Job] = {}
    for comparison in self.compared:
      for seed in range(self.seeds):
        for kind in self.types:
          if job := self.job(kind, comparison, seed):
            found.setdefault(job.workdir, job)
    return list(found.values())

  def search_job(self, kind: str, rate: float) -> jobs.Job:
    """Returns the run that tries a peak rate for a type."""
    train, judge = search_splits(self.config.data.train_split)
    values = {"model.convolution": kind, "schedule.learning_rate": f"{rate:g}"}
    values |= {"num_epochs": str(self.search_epochs), "seed": "0"}
    # The same shape of schedule as that of the runs.
    share = self.search_epochs / self.config.num_epochs
    warmup = self.config.schedule.warmup_epochs * min(1.0, share)
    values["schedule.warmup_epochs"] = f"{warmup:g}"
    values |= {"data.train_split": train, "data.eval_split": judge}
    folder = self.output / kind / "search" / f"rate={rate:g}"
    return jobs.plan(self.path, self.overrides | values, folder)


def search_splits(split: str) -> tuple[str, str]:
  """Returns nine tenths of a training split, to train on, and the rest, to judge on.

  Args:
    split: NAME, NAME[:N] or NAME[:N%].

  Raises:
    UserError: it has another form.
  """
  form = re.fullmatch(r"(\w+)(?:\[:(\d+)(%?)\])?", split)
  if not form:
    raise UserError(
      f"config.data.train_split={split!r}: must be NAME, NAME[:N] or NAME[:N%], so "
      "that the last tenth can be split off to choose the learning rate"
    )
  name, number, unit = form.groups()
  last, unit = (int(number), unit) if number else (100, "%")
  middle = last * 9 // 10
  if not 0 < middle < last:
    raise UserError(f"config.data.train_split={split!r}: is too small to be split")
  return f"{name}[:{middle}{unit}]", f"{name}[{middle}{unit}:{last}{unit}]"


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser("study", __doc__, command_line.EVERY_RUN)
  parser.add_argument("--config", metavar="FILE", default="configs/conv_study.py")
  parser.add_argument(
    "--types", help="comma-separated (default: all that the registry has)"
  )
  parser.add_argument(
    "--compare", default=",".join(COMPARISONS), help="default: %(default)s"
  )
  parser.add_argument(
    "--seeds", type=int, default=3, help="number of seeds (%(default)s)"
  )
  parser.add_argument(
    "--search_epochs",
    type=int,
    default=5,
    help="epochs of the runs that choose the learning rate (%(default)s)",
  )
  where.add_flags(parser)
  parser.add_argument(
    "--windows",
    type=int,
    default=5,
    help="how many times each network's speed is measured; 0 measures none",
  )
  parser.add_argument(
    "--measure", action="store_true", help="measures speed and memory again"
  )
  parser.add_argument("--output", metavar="DIR", default="runs/study")
  return parser


def parse(argv: Sequence[str]) -> tuple[Study, argparse.Namespace]:
  """Returns the study that a command line asks for, and its flags.

  Raises:
    UserError: a flag, the config, a key or a value is wrong.
  """
  overrides, others = command_line.split_overrides(list(argv))
  flags = _parser().parse_args(others)
  command_line.check_at_least(flags, seeds=1, search_epochs=1, windows=0)
  where.check(flags)
  for key in ITS_KEYS:
    if key in overrides:
      raise UserError(f"--config.{key}={overrides[key]!r}: the study sets this key")
  config = command_line.load_config(flags.config, overrides)
  if config.model.name != "uniform":
    raise UserError(
      f"--config={flags.config!r}: its network is {config.model.name!r}; a study needs "
      "'uniform', whose convolutions can be exchanged"
    )
  search_splits(config.data.train_split)
  types = _names(flags, "types", tuple(registry.CONVOLUTIONS))
  study = Study(
    path=flags.config,
    config=config,
    overrides=overrides,
    types=[BASE, *(kind for kind in types if kind != BASE)],
    compared=_names(flags, "compare", COMPARISONS),
    seeds=flags.seeds,
    search_epochs=flags.search_epochs,
    output=pathlib.Path(flags.output),
    command=shlex.join(["python", "-m", "cifar_flax", "study", *argv]),
  )
  return study, flags


def _names(flags: argparse.Namespace, flag: str, known: Sequence[str]) -> list[str]:
  """Returns the names in a comma-separated flag, in the order of `known`."""
  given = getattr(flags, flag)
  names = list(known) if given is None else given.split(",")
  for name in names:
    if name not in known:
      hint = hints.nearest(name, known)
      raise UserError(f"--{flag}={given!r}: no such name {name!r}{hint}")
  return [name for name in known if name in names]


def find_widths(study: Study) -> None:
  """Fills `study.widths` by counting.

  Raises:
    UserError: no width has the count that is to be equal.
  """
  from cifar_flax.tools import widths

  def model(kind: str) -> config_lib.Model:
    return dataclasses.replace(study.config.model, convolution=kind)

  num_classes = registry.num_classes(study.config.data.dataset)
  base = widths.same_width(model(BASE), num_classes)
  for comparison in study.compared:
    study.widths[comparison] = {}
    for kind in study.types:
      if comparison == "slots":
        width = widths.same_width(model(kind), num_classes)
      else:
        target = getattr(base, comparison)
        width = widths.nearest(model(kind), num_classes, comparison, target)
      study.widths[comparison][kind] = width


def describe_widths(study: Study) -> list[str]:
  """Returns a line for each network whose width was found, with its multiply-adds.

  A cheap type may have to be so wide that its runs take many times as long.
  """
  lines = []
  for comparison, widths in study.widths.items():
    base = widths[BASE].multiply_adds
    lines += [
      f"same {comparison}: {kind} at width {show_width(width.width)}, "
      f"{width.multiply_adds / base:.2g} times the multiply-adds of {BASE}"
      for kind, width in widths.items()
      if comparison != "slots" and kind != BASE
    ]
  return lines


def search_rates(study: Study, train_all: Callable[..., int]) -> int:
  """Trains the runs of the search that are not finished and fills `study.search`.

  Args:
    study: the study.
    train_all: `jobs.train_all`, for the place where the runs are trained.

  Returns:
    The exit code of `jobs.train_all`.
  """
  study.search = {kind: {} for kind in study.types}
  todo, code = {kind: list(RATES) for kind in study.types}, 0
  while planned := {
    (kind, r): study.search_job(kind, r) for kind in todo for r in todo[kind]
  }:
    print(f"The peak learning rate of each type: {len(planned)} short runs", flush=True)
    code = train_all(list(planned.values()), stop_codes=STOP_CODES) or code
    for (kind, rate), job in planned.items():
      study.search[kind][rate] = accuracy(job)
    if code in STOP_CODES:
      break
    todo = {kind: _untried_neighbours(study, kind) for kind in study.types}
  return code


def _untried_neighbours(study: Study, kind: str) -> list[float]:
  """Returns the rates next to a type's best one that it has not been tried with."""
  if (best := study.rate(kind)) is None:
    return []
  place = ALL_RATES.index(best)
  around = ALL_RATES[max(place - 1, 0) : place + 2]
  return [rate for rate in around if rate not in study.search[kind]]


def check_parameters(study: Study) -> None:
  """Raises UserError if a finished run has another network than its type has now."""
  for compared, widths in study.widths.items():
    for kind, seed in itertools.product(study.types, range(study.seeds)):
      job = study.job(kind, compared, seed)
      summary = jobs.finished_summary(job) if job else None
      now = widths[kind].parameters
      if job and summary and summary["parameters"] != now:
        raise UserError(
          f"{job.workdir}: was trained when {kind!r} had {summary['parameters']:,} "
          f"parameters and not {now:,}; use another --output"
        )


def accuracy(job: jobs.Job) -> float | None:
  """Returns a run's accuracy after its last epoch, in percent; None if unfinished."""
  summary = jobs.finished_summary(job)
  return 100 * summary["final_eval_accuracy"] if summary else None


def measure(study: Study, windows: int, again: bool) -> None:
  """Fills `study.measured`, from measured.json if it has these networks."""
  file = study.output / MEASURED
  wanted = _distinct_networks(study)
  if file.exists() and not again:
    try:
      study.measured = files.read_json(file)
    except UserError as error:
      logging.warning("%s; measuring again", error)
  if windows == 0 or wanted.keys() <= study.measured.get("networks", {}).keys():
    return
  from cifar_flax.tools import measurement

  print(f"Measuring the speed of {len(wanted)} networks", flush=True)
  num_classes = registry.num_classes(study.config.data.dataset)
  study.measured = measurement.record(wanted, num_classes, windows)
  study.output.mkdir(parents=True, exist_ok=True)
  files.write_atomically(file, (json.dumps(study.measured, indent=2) + "\n").encode())


def _distinct_networks(study: Study) -> dict[str, Config]:
  """Returns a config for each network of the study, by `network_name`."""
  found = {}
  for comparison in study.compared:
    for kind, width in study.widths[comparison].items():
      model = dataclasses.replace(
        study.config.model, convolution=kind, width=width.width
      )
      config = dataclasses.replace(study.config, model=model)
      found[network_name(kind, width.width)] = config
  return found


def network_name(kind: str, width: float) -> str:
  """Returns the name of a type at a width in measured.json."""
  return f"{kind}, width {show_width(width)}"


def show_width(width: float) -> str:
  """Returns a width with all of its digits, and without ".0"."""
  return str(width).removesuffix(".0")


def run(argv: list[str]) -> int:
  """Makes the study of a command line; returns the exit code of `jobs.train_all`."""
  study, flags = parse(argv)
  find_widths(study)
  print("\n".join(describe_widths(study)), flush=True)
  with where.training(flags) as train_all:
    code = search_rates(study, train_all)
    if code in STOP_CODES:
      return code
    planned = study.runs()
    check_parameters(study)
    print(f"The study: {len(planned)} runs", flush=True)
    trained = train_all(planned, stop_codes=STOP_CODES)
  if trained in STOP_CODES:
    return trained
  measure(study, flags.windows, flags.measure)
  from cifar_flax.tools import study_page

  print(study_page.write(study))
  return trained or code
