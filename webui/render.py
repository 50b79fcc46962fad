"""A report's Markdown as HTML that can hold nothing but its own text.

Reports are made of headings, paragraphs, lists, tables, code spans, bold and escapes; that is all that is known here.
Every letter of theirs is escaped, so that what strangers wrote into a file's metadata stays text.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from html import escape

from ..untrusted import visible

_INLINE = re.compile(r"\\([!-/:-@\[-`{-~])|`([^`]*)`|\*\*(.+?)\*\*")
_BAR = re.compile(r"(?<!\\)\|")
FOLDED = 12  # rows from which a table can be folded away


def html(markdown: str) -> str:
    """The HTML of a report."""
    return "\n".join(_blocks(markdown.splitlines()))


def picture(png: bytes, alt: str) -> str:
    """A picture that is its own address: hosts differ in which files they serve."""
    data = base64.b64encode(png).decode()
    return f'<img class="lora-graft-picture" alt="{text(alt)}" src="data:image/png;base64,{data}">'


def text(words: object) -> str:
    """Anything as HTML text."""
    return escape(visible(str(words)))


def _blocks(lines: list[str]) -> Iterator[str]:
    """Headings become one level smaller than a page's own."""
    at = 0
    while at < len(lines):
        line = lines[at]
        until = at + 1
        if heading := re.fullmatch(r"(#{1,4}) (.*)", line):
            level = len(heading[1]) + 2
            yield f"<h{level}>{inline(heading[2])}</h{level}>"
        elif line.startswith("- "):
            until = _end(lines, at, "- ")
            yield "<ul>" + "".join(f"<li>{inline(item[2:])}</li>" for item in lines[at:until]) + "</ul>"
        elif line.startswith("| ") and lines[until : until + 1] and lines[until].startswith("| ---"):
            until = _end(lines, at, "|")
            yield _table(lines[at:until])
        elif line.strip():
            yield f"<p>{inline(line)}</p>"
        at = until


def _end(lines: list[str], start: int, lead: str) -> int:
    return next((n for n in range(start, len(lines)) if not lines[n].startswith(lead)), len(lines))


def _table(lines: list[str]) -> str:
    head, _, *body = [_cells(line) for line in lines]
    top = "".join(f'<th scope="col">{inline(cell)}</th>' for cell in head)
    rows = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in body)
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>"
    scrolled = f'<div class="lora-graft-table" tabindex="0">{table}</div>'
    if len(body) < FOLDED:
        return scrolled
    return f"<details><summary>{len(body)} × {len(head)}</summary>{scrolled}</details>"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in _BAR.split(line.strip().removeprefix("|").removesuffix("|"))]


def _cell(cell: str) -> str:
    number = re.fullmatch(r"[-−]?[\d.,]+(e[-+]?\d+)?( %)?|–", cell.replace("\\", ""))
    kind = ' class="lora-graft-number"' if number else ""
    return f"<td{kind}>{inline(cell)}</td>"


def inline(words: str) -> str:
    """A line's escapes, code spans and bold as HTML."""
    parts: list[str] = []
    at = 0
    for hit in _INLINE.finditer(words):
        parts.append(text(words[at : hit.start()]))
        if hit[1] is not None:
            parts.append(text(hit[1]))
        elif hit[2] is not None:
            parts.append(f"<code>{text(hit[2].replace(chr(92) + '|', '|'))}</code>")
        else:
            parts.append(f"<strong>{inline(hit[3])}</strong>")
        at = hit.end()
    parts.append(text(words[at:]))
    return "".join(parts)
