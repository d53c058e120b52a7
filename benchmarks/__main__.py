"""Measures this project beside PyTorch and Keras: `make bench`.

Each peer is a process of its own; they do the same work in turns. A ratio is the
median over the windows, with an interval of at least 95 % that assumes no
distribution; a bound is reached when the interval reaches it.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from benchmarks import hardware, networks, peers, tables
from benchmarks.comparison import Budget
from benchmarks.workers import started
from cifar_flax import command_line
from cifar_flax import config as config_lib
from cifar_flax.errors import UserError


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser("", __doc__)
  parser.prog = "python -m benchmarks"

  def add(name: str, default: str, help: str) -> None:
    parser.add_argument(f"--{name}", default=default, help=f"{help} (%(default)s)")

  add("tables", ",".join(tables.TABLES), "which tables, comma between")
  add("nets", "", "which networks; '' leaves it to the table")
  add("peers", ",".join(peers.PEERS), "who is measured")
  add("dtype", "", "float32 or bfloat16; '' is float32 on a CPU, bfloat16 on a GPU")
  add("batches", "", "batch sizes of table 6; the first chooses the peer")
  add("data", "", "TFDS folder with cifar10; '' looks where training does")
  add("output", "", "Markdown file that takes the tables as well")
  parser.add_argument(
    "--minutes", type=float, default=15, help="for all tables together (%(default)s)"
  )
  return parser


def _names(flag: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
  names = tuple(text.split(","))
  for name in names:
    if name not in known:
      hint = config_lib.nearest(name, known)
      raise UserError(f"--{flag}={name!r}: must be of {', '.join(known)}{hint}")
  return names


def _size(text: str) -> int:
  if not text.isdecimal() or int(text) < 1:
    raise UserError(f"--batches={text!r}: must be integers >= 1, comma between")
  return int(text)


def run(argv: Sequence[str]) -> None:
  """Prints the tables that a command line asks for, each when it is finished."""
  flags = _parser().parse_args(argv)
  chosen = _names("tables", flags.tables, list(tables.TABLES))
  names = _names("peers", flags.peers, list(peers.PEERS))
  nets = _names("nets", flags.nets, list(networks.LAYERS)) if flags.nets else ()
  batches = tuple(map(_size, flags.batches.split(","))) if flags.batches else ()
  if batches and "6" not in chosen:
    raise UserError(f"--batches={flags.batches!r}: is for table 6")
  if flags.minutes <= 0:
    raise UserError(f"--minutes={flags.minutes}: must be > 0")
  lines = hardware.describe()
  with started(names, lines.append) as workers:
    lines += [f"{name}: {worker.about}" for name, worker in workers.items()]
    names = tuple(workers)
  dtype = flags.dtype or ("bfloat16" if hardware.has_gpu() else "float32")
  options = tables.Options(nets, names, dtype, flags.data, batches)
  text = ["# Benchmarks", "", *(f"- {line}" for line in lines), ""]
  print("\n".join(lines), "", sep="\n", flush=True)
  budget = Budget(60 * flags.minutes)
  weights = {number: tables.TABLES[number][1] for number in chosen}
  for number in chosen:
    part = budget.part(weights[number] / sum(weights.values()))
    del weights[number]
    for table in tables.lookup(number)(options, part):
      print(table.text(), flush=True)
      text.append(table.markdown())
    if flags.output:
      pathlib.Path(flags.output).write_text("\n".join(text))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs; returns 0, 2 for wrong input, 130 for Ctrl-C."""
  try:
    run(sys.argv[1:] if argv is None else argv)
    return 0
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    return 130


if __name__ == "__main__":
  sys.exit(main())
