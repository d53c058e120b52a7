"""Makes a user's text, such as a name, fit for terminals, pictures, Markdown, LaTeX."""

import os
import re
import unicodedata

# Punctuation that Markdown, with GitHub's extensions, could take for markup.
_MARKUP = re.compile(
  r"[\\`*<|$~]|(?<!\w)_|_(?!\w)|\](?=[(\[:])|&(?=#?\w+;)|^[#>\[]|^[-+](?=\s)|#$"
)

_LATEX = str.maketrans(
  {character: f"\\{character}" for character in "&%$#_{}"}
  | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
  | {"<": "$<$", ">": "$>$", "|": r"\textbar{}", "±": r"$\pm$", "µ": r"\textmu{}"}
)


def shown(text: str | os.PathLike) -> str:
  r"""Returns a name in one line that every terminal and file can take.

  Control characters and bytes that are not UTF-8 are escaped; all else stays as it is.

  >>> shown("a\nb $x$ \udcff")
  'a\\nb $x$ \\xff'
  """

  def escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8
      return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()

  return "".join(
    escaped(c) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c
    for c in os.fspath(text)
  )


def shortened(text: str | os.PathLike, limit: int) -> str:
  """Returns a name as `shown` does, with its middle left out if it is too long.

  >>> shortened("depthwise_separable", 9)
  'dept…able'
  """
  line = shown(text)
  if len(line) <= limit:
    return line
  end = (limit - 1) // 2
  return f"{line[: limit - 1 - end]}…{line[len(line) - end :]}"


def markdown(text: str) -> str:
  r"""Returns Markdown that shows a text as it is, in one line.

  >>> markdown("depthwise_separable | <b> $x$")
  'depthwise_separable \\| \\<b> \\$x\\$'
  """
  return _MARKUP.sub(lambda found: f"\\{found[0]}", shown(text))


def latex(text: str) -> str:
  r"""Returns LaTeX that shows a text as it is, in one line.

  >>> latex("a_b & 5 % ± 1")
  'a\\_b \\& 5 \\% $\\pm$ 1'
  """
  return shown(text).translate(_LATEX)


def code(text: str) -> str:
  """Returns Markdown that shows a text as code.

  >>> code("test[:10%]"), code("a`b")
  ('`test[:10%]`', '`` a`b ``')
  """
  line = shown(text)
  longest = max((len(run) for run in re.findall("`+", line)), default=0)
  fence, space = "`" * (longest + 1), " " if longest else ""
  return f"{fence}{space}{line}{space}{fence}"


def width(text: str) -> int:
  r"""Returns how many columns of a terminal a text takes.

  >>> width("café"), width("猫"), width("e\u0301")
  (4, 2, 1)
  """
  return sum(
    2 if unicodedata.east_asian_width(c) in "WF" else 1
    for c in text
    if unicodedata.category(c) not in ("Mn", "Me", "Cf")
  )
