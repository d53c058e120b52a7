"""A peer for the tests of the benchmarks: it naps for a known time, or fails."""

import os
import sys
import time

from benchmarks.peers import Peer, Workload


class Toy(Peer):
  def describe(self):
    print("chatter of a library, on standard output")
    return f"toy {os.environ.get('TOY', '')}".strip()

  def nap(self, seconds, multiple=1):
    return Workload(lambda steps: time.sleep(seconds * steps), multiple, {"size": 7})

  def fail(self):
    raise RuntimeError("no such thing\nand a second line")

  def die(self):
    sys.exit("last words")


class Missing(Peer):
  def __init__(self):
    import no_such_package  # noqa: F401
