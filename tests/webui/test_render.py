"""Reports as HTML: tables and escapes are read, and nothing in a file's metadata becomes HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from lora_graft.jobs.text import table
from lora_graft.untrusted import code, in_markdown
from lora_graft.webui import panel, render
from lora_graft.webui.jobs import DONE, FAILED, Job
from lora_graft.webui.work import Result

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "[x](javascript:alert(1))",
    "`</code><script>`",
    "**<b onclick=x>**",
    "| <iframe> |",
    "# <h1>\n- <li>",
    "\\<script\\>",
    "&lt;script&gt;",
    "\u202eevil\x00\x1b[31m",
]
OURS = {"h3", "h4", "h5", "h6", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "div", "code", "strong"}
OURS |= {"details", "summary", "img", "span", "button", "progress"}
ATTRIBUTES = {
    "class",
    "scope",
    "tabindex",
    "role",
    "alt",
    "src",
    "type",
    "data-tag",
    "onclick",
    "aria-label",
    "max",
    "value",
}


class Seen(HTMLParser):
    """The elements and attributes that a browser would make of a text, and the text in them."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes, self.text, self.clicks = set(), set(), "", set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.clicks |= {value for name, value in attrs if name == "onclick"}

    def handle_data(self, data):
        self.text += data


def harmless(html: str) -> Seen:
    seen = Seen(html)
    assert seen.tags <= OURS and seen.attributes <= ATTRIBUTES
    assert all("dataset.tag" in click and "alert" not in click for click in seen.clicks)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", html)
    return seen


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_wherever_it_stands(text):
    safe = in_markdown(text)
    for markdown in (f"# {safe}", safe, f"- {safe}", f"- {code(text)}", table(("a", "b"), [[text, f"`{text}`"]]), text):
        harmless(render.html(markdown))
    harmless(render.picture(b"x", text))
    job = Job(1, "inspect", text, {}, state=FAILED, error=text, label=text)
    done = Job(2, "merge", text, {}, state=DONE, result=Result(text, picture=b"x", alt=text, notes=[text]))
    desk = SimpleNamespace(
        host=SimpleNamespace(language="en", sends=True), queue=SimpleNamespace(jobs=lambda: [job, done])
    )
    for html in (
        panel.listed(desk),
        panel.result(desk, job),
        panel.result(desk, done),
        panel.alert(text),
        panel.said(text),
    ):
        harmless(html)


def test_a_tag_with_quotes_stays_an_attribute():
    desk = SimpleNamespace(host=SimpleNamespace(language="en", sends=True))
    file = SimpleNamespace(stem='it\'s "so" <b>', name="x")
    html = panel.result(desk, Job(1, "merge", "t", {}, state=DONE, result=Result("", file=file)))
    assert '<lora:it\'s "so" <b>:1>' in harmless(html).text


def test_what_was_escaped_for_markdown_reads_as_it_was():
    for text in ("a_b*c", "1 < 2 & 3 > 2", "C:\\loras\\a", "# 1", "x|y", "50 %"):
        assert harmless(render.html(in_markdown(text))).text == text
        assert text in harmless(render.html(table(("a",), [[text]]))).text


def test_headings_lists_tables_bold_and_code():
    html = render.html("# T\n\nSome **bold** `code`.\n\n- a\n- b\n\n| x | y |\n| --- | --- |\n| n | 1.5 |\n")
    assert "<h3>T</h3>" in html and "<p>Some <strong>bold</strong> <code>code</code>.</p>" in html
    assert "<ul><li>a</li><li>b</li></ul>" in html
    assert '<th scope="col">x</th>' in html and '<td>n</td><td class="lora-graft-number">1.5</td>' in html
    assert "<details>" not in html
    assert "<details>" in render.html(table(("x",), [["1"]] * 12)), "a long table is folded away"
