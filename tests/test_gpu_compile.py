"""What a GPU's step starts, counted in a listing written by hand."""

import os
import subprocess
import sys

LISTING = """\
000: kCommandBuffer [source | next]
    001: kCopy [source | sink] kCopy
002: kWhile [prev | next]
condition:
    003: kCustomKernel [source | sink] wrapped_compare grid: [1, 1, 1]
  body:
    004: kCopy [source | next] kCopy
    005: kConvolution [prev | next] kConvolution
    000: kCommandBuffer [prev | next]
        006: kCustomKernel [source | next] fusion_1 grid: [4, 1, 1]
        007: kCustomKernel [prev | sink] fusion_2 grid: [4, 1, 1]
    009: kAsyncStart [prev | next] stream=communication_stream[0]
        008: kAllReduce [source | sink] kAllReduce
    010: kAsyncDone [prev | next] async_id=77
    011: kSomethingNew [prev | sink]
012: kCustomKernel [prev | sink] after grid: [1, 1, 1]
"""
COUNTS = """
import pathlib, sys
from benchmarks import gpu_compile as g
program = "%a = f32[] convolution(%b, %c)\\n %d = f32[] custom-call(%a)"
step = g.read_step(sys.stdin.read(), program)
print(list(step.counts.values()), step.operations, step.graphs, step.convolutions)
epoch = g.CompiledEpoch(390, 100, 0, 0, 0, 96, None)
row = g.Row(("net", "h100", "1", "float32"), epoch, step)
table = pathlib.Path("table.md")
table.write_text("| " + " | ".join(row.cells([])) + " |\\n")
expected = g.expected_operations(table)
print(expected)
print(g.problems_of(row, expected))
print(g.problems_of(row, {row.key: 6}))
"""


def test_operations_of_a_step_are_counted_and_compared(tmp_path):
  environment = os.environ | {"PYTHONPATH": os.getcwd()}
  done = subprocess.run(
    [sys.executable, "-c", COUNTS],
    input=LISTING,
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env=environment,
  )
  assert done.returncode == 0, done.stderr
  counts, expected, same, fewer = done.stdout.splitlines()
  # cuDNN, matrix products, kernels, copies, all-reduces, others.
  assert counts == "[1, 0, 3, 1, 1, 1] 7 1 1"
  assert expected == "{('net', 'h100', '1', 'float32'): 7}"
  problems = (
    "'4 bytes of the state are not donated', '1 convolutions are no call of cuDNN'"
  )
  assert same == f"[{problems}]"
  assert fewer == f"[{problems}, '7 operations a step where there were 6']"
