"""Keeps what a finished run is judged by, in a small folder.

python -m cifar_flax publish --workdir runs/net6b --output results/net6b
python -m cifar_flax publish --workdir runs/study --output results/study --no_weights

Copies config, metrics and summary, and the weights of the last epoch without what only
training needs, such as the optimizer's state. `eval`, `predict`, `export`, `report` and
`cifar_flax.load` take the new folder like a run directory; it cannot be resumed. Of a
folder with runs in it, such as that of a study, all are copied; the command that made
the study writes its page from the copies.
"""

import pathlib

from cifar_flax import command_line
from cifar_flax import config as config_lib
from cifar_flax.errors import UserError
from cifar_flax.run import checkpoints, directory
from cifar_flax.run.files import write_atomically
from cifar_flax.text import shown
from cifar_flax.tools import study

FILES = ("config.json", "metrics.jsonl", "summary.json")
USED = ("step", "params", "batch_stats", "ema")  # of the state, by an evaluation


def weights(workdir: pathlib.Path) -> bytes:
  """Returns a checkpoint file with the last weights of a run.

  If the run keeps moving averages of its weights, these are the weights.

  Raises:
    UserError: it has no intact checkpoint.
  """
  content = checkpoints.restore(workdir / "checkpoints", "last")
  directory.run_of(content)
  state = {name: content["state"][name] for name in USED}
  if state["ema"]:
    del state["params"], state["batch_stats"]
  return checkpoints.encode({"state": state, "run": content["run"], "published": True})


def contents(workdir: pathlib.Path, with_weights: bool) -> dict[str, bytes]:
  """Returns what is kept of a run, by the name of the file.

  Raises:
    UserError: the run is not finished.
  """
  config = config_lib.load(str(workdir / "config.json"))
  if directory.finished_summary(workdir, config) is None:
    raise UserError(f"{str(workdir)!r}: is not finished; train it to its end first")
  files = {name: (workdir / name).read_bytes() for name in FILES}
  if with_weights:
    files[f"checkpoints/{checkpoints.WEIGHTS}"] = weights(workdir)
  return files


def publish(workdir: pathlib.Path, output: pathlib.Path, with_weights: bool) -> None:
  """Writes the files of a finished run, or of all in a folder, to a new folder.

  Raises:
    UserError: there is no run, one is not finished, or the new folder has other files.
  """
  from cifar_flax.tools import finished

  if output.exists() and (output.is_file() or any(output.iterdir())):
    raise UserError(f"{str(output)!r}: exists; name a new folder")
  files = {
    folder.relative_to(workdir) / name: data
    for folder in finished.run_directories(workdir)
    for name, data in contents(folder, with_weights).items()
  }
  if not files:
    raise UserError(f"{str(workdir)!r}: no run here, or below")
  if (measured := workdir / study.MEASURED).exists():
    files[measured.relative_to(workdir)] = measured.read_bytes()
  for name, data in files.items():
    path = output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)


def run(argv: list[str]) -> None:
  """Publishes the runs of a command line and prints the size of what it wrote."""
  parser = command_line.Parser("publish", __doc__)
  parser.add_argument("--workdir", metavar="RUN", help="directory of a finished run")
  parser.add_argument("--output", metavar="DIR", help="folder to make")
  parser.add_argument(
    "--no_weights", action="store_true", help="leaves the weights out"
  )
  flags = parser.parse_args(argv)
  workdir = command_line.require_workdir(flags.workdir)
  if flags.output is None:
    raise UserError("--output=DIR is missing; for example --output=results/net6b")
  output = pathlib.Path(flags.output)
  publish(workdir, output, not flags.no_weights)
  size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
  print(f"{shown(output)}: {size:,} bytes")
