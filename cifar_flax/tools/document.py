"""Documents of text, tables and pictures, as Markdown and as one page of HTML.

The page needs no network and no script. Its sections fold. It can be read on a phone
and in the dark: what is too wide, such as a table, scrolls inside itself.
"""

import base64
import dataclasses
import datetime
import functools
import html
import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from cifar_flax import text
from cifar_flax.run import provenance
from cifar_flax.run.files import name_in_errors, write_atomically
from cifar_flax.tables import Table
from cifar_flax.text import shown

if TYPE_CHECKING:
  from matplotlib.figure import Figure

PIXELS = 96  # of CSS in an inch
SHRINK = 0.75  # a picture is not shown smaller than this; its text has 8 points
TABLE = 340  # least width of tables that are side by side, in pixels


@dataclasses.dataclass
class Picture:
  """A picture, which is written as PNG and as SVG.

  Attributes:
    name: of its files, without a suffix.
    caption: one line below it.
    figure: what it shows.
    is_photo: whether its colours must stay as they are in the dark.
  """

  name: str
  caption: str
  figure: "Figure"
  is_photo: bool = False

  @functools.cached_property
  def files(self) -> dict[str, bytes]:
    """The content of its files, by suffix."""
    from cifar_flax import figures

    return {"png": figures.png(self.figure), "svg": figures.svg(self.figure)}

  @property
  def width(self) -> int:
    """The width of the SVG, in pixels of CSS."""
    return round(PIXELS * self.figure.get_size_inches()[0])

  def html(self) -> str:
    """Returns the picture, embedded, with its caption."""
    caption, data = (
      html.escape(shown(self.caption)),
      base64.b64encode(self.files["svg"]),
    )
    kind = "photo" if self.is_photo else "drawing"
    style = f"width: {self.width}px; min-width: {round(SHRINK * self.width)}px"
    return (
      f'<figure><div class="scroll" tabindex="0"><img class="{kind}" alt="{caption}" '
      f'style="{style}" src="data:image/svg+xml;base64,{data.decode()}"></div>\n'
      f"<figcaption>{caption}</figcaption></figure>"
    )


Part: TypeAlias = str | Table | Picture


@dataclasses.dataclass
class Section:
  """A section, which folds; tables, and pictures, that follow each other share a line.

  Attributes:
    title: its heading.
    parts: paragraphs, tables and pictures; without any, the section is left out.
    is_open: whether it is unfolded at first.
  """

  title: str
  parts: Sequence[Part]
  is_open: bool = True

  def markdown(self) -> list[str]:
    """Returns the blocks of the section."""
    blocks = [f"## {text.markdown(self.title)}"]
    for part in self.parts:
      if isinstance(part, Table):
        blocks.append(part.markdown(level=3).strip())
      elif isinstance(part, Picture):
        caption = text.markdown(part.caption)
        blocks += [f"![{caption}](pictures/{part.name}.png)", caption]
      else:
        blocks.append(text.markdown(part))
    return blocks

  def html(self) -> str:
    """Returns the section as HTML."""
    title = f"<summary><h2>{html.escape(shown(self.title))}</h2></summary>"
    body = [
      _side_by_side(list(parts)) if kind is not str else _paragraphs(parts)
      for kind, parts in itertools.groupby(self.parts, type)
    ]
    opened = " open" if self.is_open else ""
    return "\n".join([f"<details{opened}>{title}", *body, "</details>"])


def _paragraphs(lines: Iterable) -> str:
  return "\n".join(f"<p>{html.escape(shown(line))}</p>" for line in lines)


def _side_by_side(parts: Sequence) -> str:
  """Returns tables or pictures, as many in a line as there is room for."""
  if len(parts) == 1:
    return parts[0].html()
  least = max(
    SHRINK * part.width if isinstance(part, Picture) else TABLE for part in parts
  )
  items = "\n".join(f"<div>{part.html()}</div>" for part in parts)
  return f'<div class="gallery" style="--least: {round(least)}px">\n{items}\n</div>'


@dataclasses.dataclass
class Document:
  """A document.

  Attributes:
    title: its heading.
    facts: how it was made and of what, on top: lines by name.
    sections: what follows.
  """

  title: str
  facts: Mapping[str, Sequence[str]]
  sections: Sequence[Section]

  def __post_init__(self) -> None:
    """Leaves out facts without lines, and sections without parts."""
    self.facts = {name: lines for name, lines in self.facts.items() if lines}
    self.sections = [section for section in self.sections if section.parts]

  def markdown(self) -> str:
    """Returns the document as Markdown that links to its pictures.

    No name in it is taken for markup.
    """
    facts = [
      f"- {name}: {text.markdown(line)}"
      for name, lines in self.facts.items()
      for line in lines
    ]
    blocks = [f"# {text.markdown(self.title)}", "\n".join(facts)]
    blocks += [block for section in self.sections for block in section.markdown()]
    return "\n\n".join(blocks) + "\n"

  def html(self) -> str:
    """Returns the document as one page with its pictures embedded."""
    title = html.escape(shown(self.title))
    facts = "\n".join(
      f"<dt>{html.escape(name)}</dt>"
      + "".join(f"<dd>{html.escape(shown(line))}</dd>" for line in lines)
      for name, lines in self.facts.items()
    )
    head = (
      '<meta charset="utf-8">\n'
      '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
      f"<title>{title}</title>\n<style>{_STYLE}</style>"
    )
    sections = "\n".join(section.html() for section in self.sections)
    return (
      f'<!doctype html>\n<html lang="en"><head>\n{head}\n</head><body>\n'
      f"<h1>{title}</h1>\n<dl>\n{facts}\n</dl>\n{sections}\n</body></html>\n"
    )

  def write(self, folder: pathlib.Path, name: str) -> None:
    """Writes NAME.md, NAME.html, and the files of each table and picture.

    Args:
      folder: where to write; `tables/` and `pictures/` in it are made if needed.
      name: the name of the two files, without a suffix.
    """
    files = {f"{name}.md": self.markdown(), f"{name}.html": self.html()}
    pictures: dict[str, bytes] = {}
    for part in (part for section in self.sections for part in section.parts):
      if isinstance(part, Table):
        forms = {"csv": part.csv(), "json": part.json(), "tex": part.latex()}
        files |= {f"tables/{part.name}.{kind}": form for kind, form in forms.items()}
      elif isinstance(part, Picture):
        for kind, data in part.files.items():
          pictures[f"pictures/{part.name}.{kind}"] = data
    content = {path: form.encode() for path, form in files.items()} | pictures
    for path, data in content.items():
      with name_in_errors(parent := (folder / path).parent):
        parent.mkdir(parents=True, exist_ok=True)
      write_atomically(folder / path, data)


def origin(command: str) -> dict[str, list[str]]:
  """Returns the facts on how a document is made: date, command line and commit."""
  now = datetime.datetime.now().astimezone()
  commit = provenance.describe_commit(*provenance.current_commit())
  return {
    "date": [now.strftime("%Y-%m-%d %H:%M %Z")],
    "command": [command],
    "commit": [commit],
  }


# In the dark, drawings are inverted: white becomes the page's colour, and hues stay.
_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #2b2b2b; --faint: #666;
  --line: #ddd; --raised: #f4f6f8; --best: #e3f1e8 }
@media (prefers-color-scheme: dark) {
  :root { --page: #121212; --text: #ddd; --faint: #a0a0a0; --line: #3a3a3a;
    --raised: #1e2124; --best: #1f3a2a }
  img.drawing { filter: invert(.93) hue-rotate(180deg) }
  img.photo { filter: brightness(.88) }
}
* { box-sizing: border-box }
body { background: var(--page); color: var(--text); max-width: 1360px; margin: 0 auto;
  padding: 1rem; font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 1rem }
h2 { font-size: 1.15rem; display: inline }
p, li { max-width: 80ch }
ul { padding-left: 1.2rem; font-size: 13px; color: var(--faint) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem;
  margin: 0 0 1.5rem; padding: .7rem 1rem; background: var(--raised);
  border-radius: 6px; font-size: 13px }
dt { grid-column: 1; color: var(--faint) }
dd { grid-column: 2; margin: 0 }
details { border-top: 1px solid var(--line); padding: .6rem 0 }
summary { cursor: pointer; padding: .2rem 0 }
.scroll { overflow-x: auto; max-width: 100% }
.gallery { display: grid; gap: 1rem 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--least)), 1fr)) }
.gallery > div { min-width: 0 }
figure { margin: .8rem 0 }
figcaption, caption { font-size: 13px; color: var(--faint); text-align: left }
img { display: block; height: auto; max-width: 100%; border-radius: 4px }
table { border-collapse: collapse; font-size: 13px; margin: .6rem 0;
  font-variant-numeric: tabular-nums; overflow-wrap: normal }
caption { padding-bottom: .3rem }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line) }
thead th { vertical-align: bottom; white-space: normal; color: var(--faint) }
th { font-weight: 600 }
.text { text-align: left }
th:first-child { position: sticky; left: 0; background: var(--page) }
th > div { width: max-content; max-width: 44vw; white-space: normal;
  overflow-wrap: anywhere }
td strong { background: var(--best); padding: .05rem .25rem; border-radius: 3px }
@media (max-width: 600px) {
  body { padding: .8rem }
  dl { grid-template-columns: 1fr }
  dt, dd { grid-column: 1 }
  dd + dt { margin-top: .3rem }
}
"""
