"""The nodes' help pages of ``web/docs`` in the site: their places, their languages, and a list of sockets."""

from __future__ import annotations

import json
from pathlib import Path

from command_reference import cell

ROOT = Path(__file__).resolve().parent.parent
HELP = ROOT / "web/docs"
# What a language calls itself, and its words for the list of sockets.
LANGUAGES = {
    "en": ("English", "In short", "Input", "Output", "Meaning"),
    "zh": ("中文", "一览", "输入", "输出", "说明"),
}


def help_pages() -> dict[str, Path]:
    """Page of the site -> file: ``nodes/ID.md`` in English, ``nodes/LANGUAGE/ID.md`` in the others."""
    english = {f"nodes/{file.name}": file for file in sorted(HELP.glob("*.md"))}
    others = {f"nodes/{file.stem}/{file.parent.name}.md": file for file in sorted(HELP.glob("*/*.md"))}
    return english | others


def sockets(page: Path) -> str:
    """Links to the page's other languages, and its node's inputs and outputs as ComfyUI names and explains them."""
    node, language = (page.stem, "en") if page.parent == HELP else (page.parent.name, page.stem)
    _, title, *words = LANGUAGES[language]
    known = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))[node]
    text = f"\n\n## {title}\n\n{known['description']}\n"
    for group, heading in (("inputs", words[0]), ("outputs", words[1])):
        rows = [f"| {cell(one['name'])} | {cell(one.get('tooltip', ''))} |" for one in known.get(group, {}).values()]
        text += "\n".join(["", f"| {heading} | {words[2]} |", "|---|---|", *rows, ""]) if rows else ""
    return f"{text}\n{_languages(node, language)}\n"


def _languages(node: str, language: str) -> str:
    pages = {"en": f"{node}.md"} | {file.stem: f"{node}/{file.name}" for file in sorted((HELP / node).glob("*.md"))}
    return " · ".join(f"[{LANGUAGES[other][0]}]({file})" for other, file in pages.items() if other != language)
