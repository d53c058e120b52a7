"""All commands alike: help, mistakes, exit codes."""

import signal
import subprocess
import sys

import pytest

from cifar_flax import __main__ as commands
from cifar_flax import command_line
from cifar_flax.errors import Diverged, Stopped, UserError


def test_help_lists_every_command(capsys):
  assert commands.main(["--help"]) == 0
  text = capsys.readouterr().out
  for name, (_, _, what) in commands.COMMANDS.items():
    assert f"  {name} " in text and what in text
  for code in ("0 ", "1 ", "2 ", "128 + n"):
    assert f"\n  {code} " in text


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_has_help_of_its_own(name, capsys):
  with pytest.raises(SystemExit) as ended:
    commands.main([name, "--help"])
  assert ended.value.code == 0
  text = capsys.readouterr().out
  assert text.startswith(f"usage: python -m cifar_flax {name} ")
  assert "--help" in text and len(text.splitlines()) > 5


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_reports_a_mistake_in_one_line_with_code_2(name, capsys):
  assert commands.main([name, "--no_such_flag=1"]) == 2
  out, err = capsys.readouterr()
  assert out == "" and len(err.splitlines()) == 1
  assert err.startswith("error: --no_such_flag=1: no such flag")


def test_a_mistyped_command_and_none_at_all(capsys):
  assert commands.main(["sumary"]) == 2
  assert "sumary: no such command; did you mean 'summary'?" in capsys.readouterr().err
  assert commands.main([]) == 2
  assert "commands:" in capsys.readouterr().out


def test_main_is_train_by_its_own_name():
  done = subprocess.run(
    [sys.executable, "-m", "cifar_flax.main", "--no_such_flag"],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert done.stderr.startswith("error: --no_such_flag: no such flag")


FILE_ERROR = OSError(28, "No space left on device", "runs/x/metrics.jsonl")


@pytest.mark.parametrize(
  ("error", "code", "line"),
  [
    (
      UserError("config.seed=-1: wrong\nin two lines"),
      2,
      "error: config.seed=-1: wrong in",
    ),
    (Diverged("diverged: a loss"), 1, "error: diverged: a loss"),
    (FILE_ERROR, 1, "error: runs/x/metrics.jsonl: No space left on device"),
    (Stopped(signal.SIGTERM), 143, "stopped by SIGTERM; everything is saved: rerun"),
    (Stopped(signal.SIGINT), 130, "stopped by SIGINT; everything is saved: rerun"),
    (KeyboardInterrupt(), 130, "interrupted: rerun the same command to resume"),
  ],
)
def test_errors_have_one_line_and_an_exit_code(error, code, line, capsys):
  def fail(argv):
    raise error

  assert command_line.answer(fail, []) == code
  found = capsys.readouterr().err
  assert found.startswith(line) and len(found.splitlines()) == 1


def test_an_error_that_names_no_file_is_not_hidden():
  def fail(argv):
    raise OSError("broken")

  with pytest.raises(OSError, match="broken"):
    command_line.answer(fail, [])
