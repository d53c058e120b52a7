"""Commands whose standard streams are closed, broken, full or in ASCII."""

import contextlib
import errno
import io
import os
import pathlib
import subprocess
import sys

import pytest

from cifar_flax import command_line, train
from cifar_flax.run import observers, streams
from stress.lab import Lab

ROOT = pathlib.Path(__file__).parents[2]
SUMMARY = "-m cifar_flax summary --config configs/net6b.py"
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has /dev/full")


def shell(line, **environment):
  """Runs a line of a shell in which $P is Python; returns exit code, output, errors."""
  done = subprocess.run(
    ["bash", "-c", line],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env={**os.environ, "P": sys.executable, "PYTHONUNBUFFERED": "", **environment},
  )
  return done.returncode, done.stdout, done.stderr


PRINTS = """
import sys
from cifar_flax import command_line
def run(argv):
  for number in range(int(argv[0])):
    print("line", number)
sys.exit(command_line.answer(run, None))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_command_whose_reader_has_left_ends_as_after_sigpipe(lines, unbuffered):
  # The reader leaves before the first line is written.
  line = f'(sleep 1; "$P" -c "$PRINTS" {lines}; echo $? >&2) | true'
  environment = {"PRINTS": PRINTS, "PYTHONUNBUFFERED": unbuffered}
  assert shell(line, **environment) == (0, "", "141\n")


def test_the_summary_can_be_read_in_part():
  code, out, error = shell(f'"$P" {SUMMARY} | head -1; echo ${{PIPESTATUS[0]}} >&2')
  assert code == 0 and len(out.splitlines()) == 1
  assert error in ("141\n", "0\n")  # 0 if it has printed all before head left


@FULL
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
  "arguments",
  ['-c "$PRINTS" 1', '-c "$PRINTS" 100000', "-m cifar_flax --help", SUMMARY],
)
def test_a_full_device_is_an_error_of_one_line(arguments, unbuffered):
  environment = {"PRINTS": PRINTS, "PYTHONUNBUFFERED": unbuffered}
  found = shell(f'"$P" {arguments} > /dev/full', **environment)
  assert found == (1, "", "error: standard output: No space left on device\n")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(redirection):
  code, _, error = shell(f'"$P" -c "$PRINTS" 3 {redirection}', PRINTS=PRINTS)
  assert (code, error) == (0, "")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_file_never_gets_the_descriptor_of_a_closed_stream(redirection, tmp_path):
  program = """
import os, sys
from cifar_flax import command_line
def run(argv):
  with open(argv[0], "w") as file:
    for descriptor in (1, 2):
      os.write(descriptor, b"of a library")
    file.write(str(file.fileno()))
sys.exit(command_line.answer(run, None))
"""
  line = f'"$P" -c "$PROGRAM" {tmp_path}/file {redirection}'
  code, _, _ = shell(line, PROGRAM=program)
  assert code == 0 and int((tmp_path / "file").read_text()) > 2


@pytest.mark.parametrize(
  "environment",
  [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}],
)
def test_what_the_encoding_lacks_is_escaped(environment):
  program = """
import sys
from cifar_flax import command_line
from cifar_flax.errors import UserError
def run(argv):
  print("caf\\u00e9 \\udce9")
  raise UserError("caf\\u00e9")
sys.exit(command_line.answer(run, None))
"""
  environment |= {"PYTHONCOERCECLOCALE": "0", "PROGRAM": program}
  assert shell('"$P" -c "$PROGRAM"', **environment) == (
    2,
    "caf\\xe9 \\udce9\n",
    "error: caf\\xe9\n",
  )


def test_the_streams_are_as_before_afterwards(capsys):
  before = sys.stdout, sys.stderr
  assert command_line.answer(lambda argv: print("text"), []) == 0
  assert (sys.stdout, sys.stderr) == before
  assert capsys.readouterr().out == "text\n"


def test_an_os_error_without_a_file_is_not_taken_for_one_of_the_streams(capsys):
  def fail(argv):
    raise BrokenPipeError(errno.EPIPE, "Broken pipe")

  with pytest.raises(BrokenPipeError):
    command_line.answer(fail, [])


class Broken(io.StringIO):
  """A stream whose terminal is gone."""

  def write(self, text):
    raise OSError(errno.EIO, "Input/output error")

  def flush(self):
    self.write("")


@pytest.mark.parametrize("stream", [Broken(), None, "closed"])
def test_a_run_is_watched_whatever_becomes_of_its_terminal(stream):
  if stream == "closed":
    stream = io.StringIO()
    stream.close()
  with contextlib.redirect_stderr(stream):
    *_, first, lines = observers.create(start_time=0.0)
  lines._write("a line")
  first.progress(None)
  lines.close()


def test_errors_of_the_streams_are_ignored_while_a_command_trains():
  def run(argv):
    sys.stdout._stream = sys.stderr._stream = Broken()
    with streams.guarded(lasts=True):
      print("trains", flush=True)
    print("trained", flush=True)
    return 7

  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(None):
    assert command_line.answer(run, []) == 7


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
  return Lab(tmp_path_factory.mktemp("streams"))


@pytest.mark.parametrize(
  "redirection",
  [
    "<&- >&- 2>&-",
    pytest.param(">/dev/full 2>/dev/full", marks=[FULL, pytest.mark.full]),
    pytest.param("2> >(true)", marks=pytest.mark.full),
  ],
)
def test_a_training_goes_on_without_its_terminal(redirection, lab):
  command = lab.command(lab.new("run"), num_epochs="2")
  line = f'sleep 0.5; "$@" {redirection}'  # a reader of a pipe has left by then
  environment = {**lab.environment, "PYTHONUNBUFFERED": ""}
  done = subprocess.run(
    ["bash", "-c", line, "bash", *command], cwd=ROOT, env=environment
  )
  assert done.returncode == 0
  assert (lab.folder / "run" / "summary.json").exists()
  assert len((lab.folder / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_program_can_redirect_what_a_run_prints(lab, monkeypatch):
  from cifar_flax import main

  for name, value in lab.environment.items():
    monkeypatch.setenv(name, value)
  workdir = lab.new("redirected")
  config, _, _ = main.parse(lab.command(workdir, num_epochs="1")[3:])
  with contextlib.redirect_stderr(io.StringIO()) as text:
    train.train_and_evaluate(config, workdir)
  assert "epoch 1/1" in text.getvalue()
