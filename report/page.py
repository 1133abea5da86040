"""A document of headings, texts, tables and pictures, as Markdown and as one HTML file that needs no network."""

import base64
import html
from dataclasses import dataclass, field
from string import Template

import pandas as pd

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5d6470; --line: #d9dde3; --page: #ffffff; --band: #f5f7f9;
  --alarm: #8a3800; --alarm-page: #fff3e6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --soft: #a2a9b4; --line: #3a4048; --page: #16181c;
  --band: #1e2126; --alarm: #ffb877; --alarm-page: #33230f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(0.9rem, 4vw, 3rem) 4rem; max-width: 84rem; color: var(--ink);
  background: var(--page); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.4rem; margin: 3rem 0 0.6rem; padding-top: 0.8rem; border-top: 2px solid var(--line); }
h3 { font-size: 1.08rem; margin: 2rem 0 0.5rem; }
p, li { max-width: 46rem; }
p.note { color: var(--soft); font-size: 0.9rem; margin: 0.4rem 0 1rem; overflow-wrap: anywhere; }
ul.alarm { list-style: none; margin: 1rem 0; padding: 0.8rem 1rem; border-left: 5px solid var(--alarm);
  background: var(--alarm-page); color: var(--alarm); }
ul.alarm li { max-width: none; margin: 0.25rem 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 0.8rem 0; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.8rem 0.35rem 0; text-align: right; white-space: nowrap; vertical-align: baseline; }
th + th, td + td { padding-left: 0.4rem; }
th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); vertical-align: bottom;
  white-space: normal; }
td { border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--page); }
td:first-child { font-weight: 600; }
.gallery { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
figure { margin: 0; padding: 0.5rem; background: #ffffff; border: 1px solid var(--line); border-radius: 6px;
  max-width: 100%; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { color: #5d6470; font-size: 0.85rem; padding: 0.3rem 0.3rem 0; max-width: 60rem; }
details { margin: 0.6rem 0; } summary { cursor: pointer; color: var(--soft); }
pre { overflow-x: auto; background: var(--band); padding: 0.7rem; font-size: 0.8rem; }
@media (max-width: 30rem) { body { font-size: 15px; } table { font-size: 0.85rem; }
  th, td { padding-right: 0.5rem; }
  th:first-child, td:first-child { min-width: 7.5rem; max-width: 9.5rem; white-space: normal; } }
"""

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
$body
</body>
</html>
""")


@dataclass
class Heading:
    text: str
    level: int = 2

    def to_html(self):
        return f"<h{self.level}>{html.escape(self.text)}</h{self.level}>"

    def to_markdown(self):
        return f"{'#' * self.level} {self.text}"


@dataclass
class Text:
    """A paragraph; `note` sets it small."""

    text: str
    note: bool = False

    def to_html(self):
        attribute = ' class="note"' if self.note else ""
        return f"<p{attribute}>{html.escape(self.text)}</p>"

    def to_markdown(self):
        return self.text


@dataclass
class Alarm:
    """Things that the reader must not miss."""

    lines: list

    def to_html(self):
        return f'<ul class="alarm">{"".join(f"<li>⚠ {html.escape(line)}</li>" for line in self.lines)}</ul>'

    def to_markdown(self):
        return "\n".join(f"> **⚠ {line}**  " for line in self.lines)


@dataclass
class Table:
    """A table of texts; the first column names the rows."""

    frame: pd.DataFrame

    def to_html(self):
        return f'<div class="scroll">{self.frame.to_html(index=False, border=0, justify="unset", na_rep="–")}</div>'

    def to_markdown(self):
        cells = [[str(name) for name in self.frame.columns], *self.frame.astype(str).to_numpy().tolist()]
        cells = [[cell.replace("|", "\\|") for cell in row] for row in cells]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        aligned = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
        lines = [" | ".join([row[0].strip().ljust(widths[0]), *row[1:]]) for row in aligned]
        rule = "|".join("-" * (w + 1) + ":" if i else "-" * (w + 2) for i, w in enumerate(widths))
        return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])


@dataclass
class Picture:
    """A PNG: `name` is its file name beside the Markdown, `text` what it shows, for those who can't see it."""

    png: bytes
    name: str
    text: str
    width: int | None = None  # pixels on the page, at most

    def to_html(self):
        source = base64.b64encode(self.png).decode()
        width = f' style="width:{self.width}px"' if self.width else ""
        text = html.escape(self.text)
        image = f'<img src="data:image/png;base64,{source}" alt="{text}">'
        return f"<figure{width}>{image}<figcaption>{text}</figcaption></figure>"

    def to_markdown(self):
        return f"![{self.text}](pictures/{self.name})"


@dataclass
class Gallery:
    """Pictures side by side where there is room."""

    pictures: list

    def to_html(self):
        return f'<div class="gallery">{"".join(picture.to_html() for picture in self.pictures)}</div>'

    def to_markdown(self):
        return "\n\n".join(picture.to_markdown() for picture in self.pictures)


@dataclass
class Details:
    """Blocks that open on demand."""

    summary: str
    blocks: list = field(default_factory=list)

    def to_html(self):
        inside = "\n".join(block.to_html() for block in self.blocks)
        return f"<details><summary>{html.escape(self.summary)}</summary>{inside}</details>"

    def to_markdown(self):
        return "\n\n".join([f"*{self.summary}*", *(block.to_markdown() for block in self.blocks)])


@dataclass
class Code:
    text: str

    def to_html(self):
        return f"<pre>{html.escape(self.text)}</pre>"

    def to_markdown(self):
        return f"```\n{self.text}\n```"


def render_html(title, blocks):
    """One HTML file with the pictures inside."""
    body = "\n".join(block.to_html() for block in [Heading(title, 1), *blocks])
    return PAGE.substitute(title=html.escape(title), style=STYLE, body=body)


def render_markdown(title, blocks):
    """Markdown that expects its pictures in `pictures/`."""
    return "\n\n".join(block.to_markdown() for block in [Heading(title, 1), *blocks]) + "\n"


def find_pictures(blocks):
    """Every Picture of a list of blocks."""
    found = []
    for block in blocks:
        if isinstance(block, Picture):
            found.append(block)
        found += find_pictures(getattr(block, "pictures", []) + getattr(block, "blocks", []))
    return found
