"""A document of headings, texts, tables and pictures, as Markdown and as one HTML file that needs no network.

A document is a list of blocks; the files of `templates/` know them by their `kind`. Ids, labels and folder names are
whatever people typed: HTML is escaped by Jinja and pandas, Markdown by `escape_markdown`, so that neither file runs or
loads anything.

Tables of Markdown are written by hand: `DataFrame.to_markdown` pads each column by the two characters that it keeps for
headers, which breaks the lines of the printed table in a terminal of 80 columns, and it escapes nothing.
"""

import base64
import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

ACTIVE_MARKDOWN = re.compile(
    r"<(?=[a-z/!?])|(?<=\])[(:]", re.IGNORECASE
)  # opens a tag or an address; `p < 0.1` doesn't


class Block:
    """A part of a document."""

    @property
    def kind(self):
        """The name that the templates know it by."""
        return type(self).__name__.lower()


@dataclass
class Heading(Block):
    text: str
    level: int = 2


@dataclass
class Text(Block):
    """A paragraph; `note` sets it small."""

    text: str
    note: bool = False


@dataclass
class Alarm(Block):
    """Things that the reader must not miss."""

    lines: list


@dataclass
class Table(Block):
    """A table of texts; the first column names the rows."""

    frame: pd.DataFrame

    @property
    def html(self):
        return self.frame.to_html(index=False, border=0, justify="unset", na_rep="–")  # escaped

    @property
    def markdown(self):
        cells = [[str(name) for name in self.frame.columns], *self.frame.astype(str).to_numpy().tolist()]
        cells = [[escape_markdown(cell).replace("|", "\\|") for cell in row] for row in cells]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        aligned = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
        lines = [" | ".join([row[0].strip().ljust(widths[0]), *row[1:]]) for row in aligned]
        rule = "|".join("-" * (w + 1) + ":" if i else "-" * (w + 2) for i, w in enumerate(widths))
        return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])


@dataclass
class Picture(Block):
    """A PNG: `name` is its file name beside the Markdown, `text` what it shows, for those who can't see it."""

    png: bytes
    name: str
    text: str
    width: int | None = None  # pixels on the page, at most

    @property
    def source(self):
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass
class Gallery(Block):
    """Pictures side by side where there is room."""

    pictures: list


@dataclass
class Details(Block):
    """Blocks that open on demand."""

    summary: str
    blocks: list = field(default_factory=list)


@dataclass
class Code(Block):
    text: str

    @property
    def fence(self):
        """More backticks than stand together anywhere in the text, so that nothing in it ends the block."""
        return "`" * max(3, *(len(run) + 1 for run in ["", *re.findall("`+", self.text)]))


def escape_markdown(text):
    """One line of text that Markdown shows and never acts on: no tag, no address of a link or picture."""
    line = " ".join(text.splitlines())
    return ACTIVE_MARKDOWN.sub(lambda found: "&lt;" if found[0] == "<" else f"\\{found[0]}", line)


def render_html(title, blocks):
    """One HTML file with the pictures inside."""
    return _render("page.html.j2", title, blocks)


def render_markdown(title, blocks):
    """Markdown that expects its pictures in `pictures/`."""
    return _render("page.md.j2", title, blocks)


def _render(template, title, blocks):
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = escape_markdown
    return environment.get_template(template).render(title=title, blocks=blocks)


def find_pictures(blocks):
    """Every Picture of a list of blocks."""
    found = []
    for block in blocks:
        if isinstance(block, Picture):
            found.append(block)
        found += find_pictures(getattr(block, "pictures", []) + getattr(block, "blocks", []))
    return found
