"""Trains runs one after another in one process, so that they share what is compiled.

`jobs` starts it as `python -m cifar_flax.tools.worker FD`. It reads one JSON object per
line from standard input, `{"arguments": [...], "log": PATH or null}`, runs
`cifar_flax.main` with these arguments and writes its exit code to the file descriptor
FD, as a line. With a log, the run's output is appended to that file.
"""

import contextlib
import ctypes
import gc
import json
import os
import signal
import sys

from cifar_flax import command_line
from cifar_flax import main as main_lib
from cifar_flax.run import signals, streams


def serve(orders, answers) -> None:
  """Trains a run per line of `orders` until they end or a signal stops a run.

  Args:
    orders: lines as described above.
    answers: text file for the exit codes.
  """
  for line in orders:
    order = json.loads(line)
    try:
      if order["log"] is not None:
        _send_output_to(order["log"])
      code = main_lib.main(order["arguments"])
    except OSError as error:  # the log cannot be written
      code = command_line.report_error(error)
    gc.collect()  # frees the images and the state of the run
    with contextlib.suppress(BrokenPipeError):  # the parent has been killed
      print(code, file=answers, flush=True)
    if code in signals.EXIT_CODES:
      return


def _send_output_to(path: str) -> None:
  """Appends standard output and standard error to a file from now on."""
  sys.stdout.flush()
  with open(path, "ab") as log:
    for descriptor in (1, 2):
      os.dup2(log.fileno(), descriptor)


if __name__ == "__main__":
  # Between runs there is nothing to save. Within them, `main` handles signals.
  if signal.SIGINT in signals.heeded():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
  if sys.platform == "linux":
    # PR_SET_PDEATHSIG: if the parent is killed, the run saves and ends as well.
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
  with streams.guarded(lasts=True):
    serve(iter(sys.stdin.readline, ""), os.fdopen(int(sys.argv[1]), "w"))
