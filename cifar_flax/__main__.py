"""All commands: `python -m cifar_flax COMMAND`, each with a --help of its own."""

from cifar_flax import command_line, registry
from cifar_flax.errors import UserError
from cifar_flax.hints import nearest
from cifar_flax.run import streams

# The function that runs each command, the arguments that stand for it, what it does.
COMMANDS: dict[str, tuple[str, tuple[str, ...], str]] = {
  "train": ("main:main", ("--mode=train",), "trains a config, or resumes its run"),
  "eval": ("main:main", ("--mode=eval",), "evaluates a checkpoint of a run"),
  "summary": ("tools.summary:run", (), "lists a network's layers and what they cost"),
  "preview": ("tools.preview:run", (), "draws the data as training sees them"),
  "predict": ("tools.predict:run", (), "classifies pictures with a trained network"),
  "export": ("tools.export:run", (), "writes a trained network for other programs"),
  "publish": ("tools.publish:run", (), "keeps what a finished run is judged by"),
  "report": ("tools.report:run", (), "compares runs, as Markdown and as one HTML page"),
  "sweep": ("tools.sweep:run", (), "trains a config with many values and seeds"),
  "study": ("tools.study:run", (), "compares the types of convolution, like with like"),
  "reproduce": ("tools.reproduce:run", (), "trains the published and tuned configs"),
}

EXIT_CODES = """
exit codes:
  0        done
  1        a run diverged or failed, or a file could not be written
  2        a mistake in the arguments, the config or the data
  128 + n  stopped by signal n: 130 by Ctrl-C, 143 by SIGTERM; rerun to resume"""

# Those that go on when their terminal goes away.
TRAIN = ("train", "sweep", "study", "reproduce")


def run(argv: list[str]) -> int | None:
  """Runs the command that the first argument names; returns its exit code, or None.

  Raises:
    UserError: there is no such command.
  """
  lines = [f"  {name:<10} {what}" for name, (_, _, what) in COMMANDS.items()]
  epilog = "\n".join(["commands:", *lines, EXIT_CODES])
  if not argv or argv[0] in ("-h", "--help"):
    command_line.Parser("", __doc__, epilog).print_help()
    return 0 if argv else 2
  name, *arguments = argv
  if name not in COMMANDS:
    raise UserError(f"{name}: no such command{nearest(name, COMMANDS)} (--help)")
  function, mode, _ = COMMANDS[name]
  if name in TRAIN:
    streams.outlive()
  return registry.lookup(f"cifar_flax.{function}")([*mode, *arguments])


def main(argv: list[str] | None = None) -> int:
  """Runs; returns the exit code of `command_line.report_error`."""
  return command_line.answer(run, argv)


if __name__ == "__main__":
  command_line.leave(main())
