"""The page: one file without a network, in which whatever people typed stays text."""

import base64
import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from report.page import Code, escape_markdown, render_markdown
from run_folders import write_ablation, write_run
from scripts import report


class Resources(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_the_html_needs_no_network(ablation):
    text = (ablation / "report" / "report.html").read_text(encoding="utf-8")
    parser = Resources()
    parser.feed(text)
    images = [attributes for tag, attributes in parser.tags if tag == "img"]
    assert len(images) >= 6 + 1 + 1 + 6 + 4  # confusions, scores, curves, curves of each, embeddings
    for image in images:
        kind, data = image["src"].split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
        assert image["alt"]
    for tag, attributes in parser.tags:
        assert tag not in ("link", "script", "iframe")
        assert not re.match("https?:|//", attributes.get("href", "") or attributes.get("src", ""))
    assert "url(" not in text
    assert "@import" not in text
    markdown = (ablation / "report" / "report.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\((pictures/[^)]+)\)", markdown)
    assert linked
    assert all((ablation / "report" / path).is_file() for path in linked)


def test_names_are_escaped(tmp_path):
    names = ["<b>hap", "neu|x", "sad & co", "ang"]
    root = write_ablation(tmp_path / "runs", ["+ AVEL"], folds=2, size=12, names=names)
    report.main([str(root), "--resamples", "100", "--tsne_points", "0", "--title", "<script>alert(1)</script>"])
    text = (root / "report" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<b>" not in text
    for line in (root / "report" / "report.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| recall"):
            assert line.replace("\\|", "").count("|") == len(names) + 2


def test_scripts_in_ids_labels_and_folders_are_escaped(tmp_path):
    tag, link = "<script>alert(1)", "[a](javascript:alert)"
    names, utt_ids = [f"{tag}hap", f"neu{link}"], [f"{tag}{link}{i}" for i in range(8)]
    labels = np.arange(8) % 2
    for folder, system in ((f"{tag}{link}", "+ AVEL"), ("other", "+ AVEL")):
        write_run(tmp_path / folder / "session1", utt_ids, labels, labels, system, names)
        labels = 1 - labels  # so that the page names an id whose labels differ
    report.main([str(tmp_path), "--resamples", "100", "--tsne_points", "0"])
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    parser = Resources()
    parser.feed(page)
    assert not {"script", "a"} & {name for name, _ in parser.tags}
    for text in (utt_ids[0], names[0], f"{tag}{link}/session1"):
        assert html.escape(text) in page
    markdown = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    shown = re.sub(r"^```\n.*?^```$", "", markdown, flags=re.M | re.S)  # a block of code shows tags as they are
    assert "<script" not in shown.lower()
    assert "](javascript" not in shown
    safe = r"&lt;script>alert(1)"
    for text in (f"e.g. {safe}[a]\\(javascript:alert)0", f"| {safe}hap |", f"+ AVEL ({safe}[a]\\("):
        assert text in shown


@pytest.mark.parametrize("text", ["p < 0.0001", "[1.0, 2.0] (n = 3)", "a & b", "x <= y"])
def test_plain_text_stays_as_it_is(text):
    assert escape_markdown(text) == text


@pytest.mark.parametrize("text", ["<b>", "</b>", "<!-- ", "<?x", "<A@b.c>", "[a](b)", "[a]: b", "a\n# b", "a\r\n\n> b"])
def test_active_text_does_not_survive(text):
    assert re.search(r"<[\w/!?]|\][(:]|[\r\n]", text)
    assert not re.search(r"<[\w/!?]|\][(:]|[\r\n]", escape_markdown(text))


def test_no_text_ends_its_block_of_code():
    lines = render_markdown("title", [Code("a\n```\n<b>\n`````")]).splitlines()
    assert [i for i, line in enumerate(lines) if line == "``````"] == [2, len(lines) - 1]
    assert Code("a `b`").fence == "```"
