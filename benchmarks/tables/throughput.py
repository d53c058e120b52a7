"""Table 1: images/s of training and inference.

Training has the published batch. A forward pass gives the same result in any batch, so
in inference each peer has the batch that is fastest for it, and ours its default.
"""

import contextlib
from collections.abc import Iterator, Mapping

from benchmarks import hardware
from benchmarks.comparison import (
  Comparison,
  Measurement,
  compare,
  compare_peers,
  new_table,
)
from benchmarks.networks import LAYERS
from benchmarks.peers import BATCH, OTHERS
from benchmarks.tables import Options
from benchmarks.workers import Absent, Worker, started
from cifar_flax.data import batches
from cifar_flax.tables import Table

INFERENCE_BATCHES = (32, 64, 128, 512)


def make(options: Options) -> Iterator[Table]:
  """Measures training and inference of each network."""
  table = new_table(
    f"1. Images/s, {options.dtype}; ratio of ours to the best peer",
    ["network", "phase", *options.peers, "best peer"],
  )
  table.note(f"training: batch {BATCH}")
  for net in options.nets or tuple(LAYERS):
    arguments = {"net": net, "dtype": options.dtype}
    with started(options.peers, table.note) as workers:
      batched = arguments | {"batch": BATCH}
      trained = compare_peers(workers, "train", batched, options.windows)
      parameters = {fact.get("parameters") for fact in trained.facts.values()}
      assert len(parameters) <= 1, f"{net} differs between peers: {trained.facts}"
      _add_row(table, options, [net, "train"], trained, BATCH)
      sizes = _fastest_batches(workers, arguments)
      inferred = _compare_inference(workers, arguments, sizes, options.windows)
      _add_row(table, options, [net, "infer"], inferred, 1)
      shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
      table.note(f"batch {shown}", row=f"{net} infer")
  yield table


def _add_row(
  table: Table, options: Options, head: list[str], result: Comparison, images: int
) -> None:
  """Adds a row.

  Args:
    table: to add it to.
    options: of the command line.
    head: network and phase.
    result: of the comparison.
    images: that each step of it has.
  """
  best = result.best(OTHERS)
  cells = [*head, *result.rates(options.peers, images), best or "-"]
  table.rows.append([*cells, *result.speedup("ours", over=best)])
  table.note(*result.notes, row=" ".join(head))


def _fastest_batches(
  workers: Mapping[str, Worker], arguments: dict[str, str]
) -> dict[str, int]:
  """Returns the batch of each worker: the fastest for a peer, the default for ours."""
  default = batches.eval_batch_size(0, "gpu" if hardware.has_gpu() else "cpu")
  sizes = dict.fromkeys(workers, default)
  for name in set(workers) & set(OTHERS):
    seconds = {}
    for size in INFERENCE_BATCHES:
      with contextlib.suppress(Absent):  # `compare` reports it
        facts = workers[name].prepare("infer", arguments | {"batch": size})
        seconds[size] = facts["seconds"] / size
    sizes[name] = min(seconds, key=lambda size: seconds[size], default=default)
  return sizes


def _compare_inference(
  workers: Mapping[str, Worker],
  arguments: dict[str, str],
  sizes: Mapping[str, int],
  windows: int,
) -> Comparison:
  """Compares inference at the batches `sizes`; the seconds are those of one image."""
  measurements = {
    name: Measurement(worker, "infer", arguments | {"batch": sizes[name]})
    for name, worker in workers.items()
  }
  result = compare(measurements, windows)
  for name, seconds in result.seconds.items():
    result.seconds[name] = [value / sizes[name] for value in seconds]
  return result
