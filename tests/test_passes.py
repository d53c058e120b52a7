"""The operations of a compiled step, read from a listing written by hand."""

from benchmarks import passes

LISTING = """\
HloModule step

%product (a: f32[8,4], b: f32[4,2]) -> f32[8,2] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = f32[4,2]{1,0} parameter(1)
  ROOT %dot.1 = f32[8,2]{1,0} dot(%a, %b), lhs_contracting_dims={1}
}

%sum (c: f32[8,2]) -> f32[2] {
  %c = f32[8,2]{1,0} parameter(0)
  ROOT %reduce.1 = f32[2]{0} reduce(%c), dimensions={0}
}

ENTRY %main.7 (x: f32[8,4]) -> f32[2] {
  %x = f32[8,4]{1,0} parameter(0)
  %w = bf16[4,2]{1,0} convert(%x)
  %ynn_fusion.1 = f32[1000,250]{1,0} fusion(%x, %w), kind=kCustom, calls=%product
  %two = (f32[500000]{0}, u8[1000000]{0}) fusion(%x), kind=kLoop, calls=%sum
  %conv-of = f32[128,2]{1,0} convolution(%x, %w), window={size=3x3}
  %loop = (s32[], f32[8,2]) while(%two), condition=%sum, body=%product
  ROOT %ynn_fusion.2 = f32[2]{0} fusion(%ynn_fusion.1), kind=kCustom, calls=%sum
}
"""


def test_operations_are_told_apart_and_their_results_measured():
  found = passes.operations(LISTING)
  assert found["ynn_fusion.1"] == passes.Operation("product", 1.0)
  assert found["two"] == passes.Operation("pass", 3.0)  # 4 * 0.5 + 1 million bytes
  assert found["ynn_fusion.2"] == passes.Operation("pass", 8e-6)
  assert found["w"] == passes.Operation("pass", 16e-6)
  assert found["conv-of"].kind == "convolution"
  assert {found[name].kind for name in ("loop", "x", "a")} == {"control"}
  assert found["dot.1"].kind == "product"
