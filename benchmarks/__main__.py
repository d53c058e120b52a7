"""Measures this project beside PyTorch and Keras: `make bench`.

Each peer runs in a process of its own; all of them do the same work, in turns. A ratio
is the median over the windows, with an interval of at least 95 % that assumes no
distribution.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from benchmarks import hardware, networks, peers, statistics, tables
from benchmarks.workers import started
from cifar_flax import command_line, hints
from cifar_flax.errors import UserError

DTYPES = ("float32", "bfloat16")


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser("", __doc__)
  parser.prog = "python -m benchmarks"

  def add(name: str, default: str, help: str) -> None:
    parser.add_argument(f"--{name}", default=default, help=f"{help} (%(default)s)")

  add("tables", ",".join(tables.TABLES), "numbers of tables, separated by commas")
  add("nets", "", "networks, separated by commas; '' for each table's own")
  add("peers", ",".join(peers.PEERS), "peers, separated by commas")
  add("dtype", "", "float32 or bfloat16; '' is float32 on a CPU, bfloat16 on a GPU")
  add("data", "", "TFDS folder with cifar10; '' for the one that training uses")
  add("output", "", "Markdown file to which the tables are written as well")
  few = f"fewer than {statistics.MIN_WINDOWS} give no interval"
  parser.add_argument(
    "--windows", type=int, default=6, help=f"per measurement; {few} (%(default)s)"
  )
  return parser


def _names(flag: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
  names = tuple(text.split(","))
  for name in names:
    if name not in known:
      hint = hints.nearest(name, known)
      raise UserError(f"--{flag}={name!r}: must be one of {', '.join(known)}{hint}")
  return names


def run(argv: Sequence[str]) -> None:
  """Prints the tables that a command line asks for, each when it is finished."""
  flags = _parser().parse_args(argv)
  chosen = _names("tables", flags.tables, list(tables.TABLES))
  names = _names("peers", flags.peers, list(peers.PEERS))
  nets = _names("nets", flags.nets, list(networks.LAYERS)) if flags.nets else ()
  command_line.check_at_least(flags, windows=1)
  flags.dtype = flags.dtype or ("bfloat16" if hardware.has_gpu() else "float32")
  command_line.check_choice(flags, "dtype", DTYPES)
  lines = hardware.describe()
  with started(names, lines.append) as workers:
    lines += [f"{name}: {worker.about}" for name, worker in workers.items()]
    names = tuple(workers)
  options = tables.Options(nets, names, flags.dtype, flags.data, flags.windows)
  text = ["# Benchmarks", "", *(f"- {line}" for line in lines), ""]
  print("\n".join(lines), "", sep="\n", flush=True)
  for number in chosen:
    for table in tables.make(number, options):
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
    return command_line.report_error(error)
  except KeyboardInterrupt:
    return 130


if __name__ == "__main__":
  sys.exit(main())
