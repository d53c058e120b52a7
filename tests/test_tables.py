"""One table in every format: what is shown, and what other programs read."""

import csv
import doctest
import io
import json
from xml.etree import ElementTree

import pytest

from cifar_flax import tables
from cifar_flax.tables import Number, Table


@pytest.fixture
def table():
  return Table(
    "Runs & <b>",
    ["config", "accuracy, %", "published", "parameters"],
    [
      ["a_b<i>", Number.of([90.001, 92.001]), None, Number(1234567, digits=0)],
      ["c", Number(91.0014), None, Number(1234, digits=0)],
      ["d, e", Number(80.0), None, Number(99_999, digits=0)],
    ],
    best={"accuracy, %": max, "parameters": min},
  )


def test_the_examples_are_right():
  assert doctest.testmod(tables).failed == 0 and doctest.testmod(tables).attempted


def test_other_programs_read_numbers_with_all_digits(table):
  rows = list(csv.DictReader(io.StringIO(table.csv())))
  first = {"config": "a_b<i>", "accuracy, %": "91.001", "published": ""}
  # The deviation of two numbers is their difference, divided by the root of two.
  deviation = pytest.approx(2**0.5)
  assert rows[0].items() >= first.items() and rows[0]["parameters"] == "1234567"
  assert float(rows[0]["accuracy, %, std"]) == deviation
  assert rows[2]["config"] == "d, e" and rows[2]["accuracy, %"] == "80.0"
  content = json.loads(table.json())
  assert content["title"] == "Runs & <b>"
  assert content["rows"][0]["parameters"] == 1_234_567
  assert content["rows"][0]["accuracy, %, std"] == deviation
  assert content["rows"][1] == {
    "config": "c",
    "accuracy, %": 91.0014,
    "accuracy, %, std": None,
    "published": None,
    "parameters": 1234,
  }


def test_the_best_numbers_are_marked_unless_all_look_the_same(table):
  assert table.marked() == {(0, 1), (1, 1), (1, 3)}  # both show 91.00
  table.rows[2][1] = Number(91.2)
  assert table.marked() == {(2, 1), (1, 3)}
  for row in table.rows:
    row[3] = Number(5, digits=0)
  assert table.marked() == {(2, 1)}
  assert "| d, e | **91.20** | - | 5 |" in table.markdown()
  table.rows = table.rows[:1]
  assert not table.marked()


def test_columns_without_a_known_cell_are_left_out(table):
  assert table.without_empty_columns().columns == [
    "config",
    "accuracy, %",
    "parameters",
  ]
  assert [len(row) for row in table.without_empty_columns().rows] == [3, 3, 3]
  table.rows[0][2] = Number(0.0)  # zero is known
  assert table.without_empty_columns().columns == table.columns


def test_latex_is_a_booktabs_table_with_names_as_they_are(table):
  lines = table.latex().splitlines()
  assert lines[1:4] == [
    r"\begin{tabular}{lrrr}",
    r"\toprule",
    r"config & accuracy, \% & published & parameters \\",
  ]
  assert lines[5:8] == [
    r"a\_b$<$i$>$ & $\mathbf{91.00} \pm 1.41$ & - & $1{,}234{,}567$ \\",
    r"c & $\mathbf{91.00}$ & - & $\mathbf{1{,}234}$ \\",
    r"d, e & $80.00$ & - & $99{,}999$ \\",
  ]
  assert lines[8:] == [r"\bottomrule", r"\end{tabular}"]


def test_html_shows_the_same_cells_as_the_terminal(table):
  root = ElementTree.fromstring(table.html().replace("<wbr>", ""))
  shown = [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]
  assert shown[0] == table.columns
  assert shown[1:] == [list(map(tables.cell_text, row)) for row in table.rows]
  assert [strong.text for strong in root.iter("strong")] == [
    "91.00 ± 1.41",
    "91.00",
    "1,234",
  ]
