"""Names that are shown as they are, in terminals and in Markdown."""

import doctest
import re

import pytest

from cifar_flax import text

NAMES = [
  "depthwise_separable",
  "_init_",
  "a|b",
  "<b>x</b>",
  "R&D &amp; co",
  "$x^2$ and $5",
  "**bold** *x* `code` ~~gone~~",
  "[link](http://x)",
  "# head #",
  "back\\slash",
  "naïve 猫",
]


def test_the_examples_are_right():
  assert doctest.testmod(text).failed == 0 and doctest.testmod(text).attempted > 3


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_a_name_as_it_is(name):
  """Removes escapes as CommonMark defines them, and finds no markup besides."""
  written = text.markdown(name)
  bare = re.sub(r"\\[!-/:-@\[-`{-~]", "", written)
  assert not re.search(r"[`*<|$~\\]|\](?=[(\[:])|&\w+;|^[#>]|#$", bare)
  assert not re.search(r"(?<!\w)_|_(?!\w)", bare)
  assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", written) == name
  assert text.markdown("two\nlines") == r"two\\nlines"
