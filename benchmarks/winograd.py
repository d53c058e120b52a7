"""Measures what Winograd's algorithm gains in a whole training step on this machine.

python -m benchmarks.winograd net6a net6b

Windows with and without it take turns in one process. Leave the machine alone while it
runs.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable
from unittest import mock

from benchmarks.peers import BATCH
from benchmarks.peers.ours import Ours
from cifar_flax.ops import winograd

STEPS, WINDOWS = 4, 8


def make_run(net: str, use: bool) -> Callable[[int], None]:
  """Returns a function that makes a number of training steps of a network."""
  run = Ours("fast").train(net, BATCH, "float32").run
  if use:
    run(1)  # compiles
  else:
    with mock.patch.object(winograd, "suits", lambda *arguments: False):
      run(1)
  return run


def main(nets: list[str]) -> None:
  """Prints a line for each network."""
  for net in nets:
    runs = {use: make_run(net, use) for use in (True, False)}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for window in range(WINDOWS):
      for use in random.Random(window).sample([True, False], 2):
        started = time.perf_counter()
        runs[use](STEPS)
        seconds[use].append((time.perf_counter() - started) / STEPS)
    ratios = [b / a for a, b in zip(seconds[True], seconds[False], strict=True)]
    print(
      f"{net}: {1e3 * statistics.median(seconds[True]):.0f} ms per step with, "
      f"{1e3 * statistics.median(seconds[False]):.0f} ms without; speedup "
      f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}], "
      f"median and range of {WINDOWS} windows",
      flush=True,
    )


if __name__ == "__main__":
  main(sys.argv[1:] or ["net6a", "net6a_dense", "net6b"])
