"""Pages of the site that are written elsewhere: the README, the nodes' help as ComfyUI shows it, the reference.

mkdocs calls :func:`on_files` and :func:`on_page_markdown`. A link to a file that has no page leads to the repository.
What the program itself knows is not written twice: ``<!-- options of transfer -->`` in a page gives way to what
``--help`` says, ``<!-- python face -->`` to the signatures and docstrings of ``lora_graft.face``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from command_reference import commands
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from node_reference import HELP, help_pages, sockets
from python_reference import described

ROOT = Path(__file__).resolve().parent.parent
BORROWED = {
    "index.md": ROOT / "README.md",
    "contributing.md": ROOT / "CONTRIBUTING.md",
    "changelog.md": ROOT / "CHANGELOG.md",
    "results.md": ROOT / "benchmarks/RESULTS.md",
    "family.md": ROOT / "family/README.md",
    **help_pages(),
    **{f"nodes/images/{file.name}": file for file in sorted((HELP / "images").iterdir())},
}
PAGES = {source: page for page, source in BORROWED.items()}
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
INDENT = re.compile(r"^( +)(?=- )", re.M)  # ComfyUI is content with two spaces before an inner list, mkdocs wants four
MARK = re.compile(r"<!-- (options of|python) (\S+) -->")


def on_files(files, config):
    for page, source in BORROWED.items():
        files.append(File.generated(config, page, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown, page, config, files):
    """The page's text, generated parts filled in, each link leading to a page of the site or to the repository."""
    source = BORROWED.get(page.file.src_uri, ROOT / "docs" / page.file.src_uri)
    inside_help = source.is_relative_to(HELP)
    folder = HELP if inside_help else source.parent  # ComfyUI looks for a help page's pictures there, too

    def led(found: re.Match) -> str:
        file = (folder / found[1]).resolve()
        anchor = found[2] or ""
        own = file.relative_to(ROOT / "docs").as_posix() if file.is_relative_to(ROOT / "docs") else None
        inside = PAGES.get(file) or own
        if inside and files.get_file_from_path(inside):
            return f"]({os.path.relpath(inside, os.path.dirname(page.file.src_uri) or '.')}{anchor})"
        if file.exists():
            kind = "tree" if file.is_dir() else "blob"
            return f"]({config['repo_url']}/{kind}/main/{file.relative_to(ROOT).as_posix()}{anchor})"
        return found[0]  # strict building stops at it

    if inside_help:
        markdown = INDENT.sub(r"\1\1", markdown) + sockets(source)
    return LINK.sub(led, MARK.sub(_generated, markdown))


def _generated(mark: re.Match) -> str:
    try:
        return commands()[mark[2]] if mark[1] == "options of" else described(mark[2])
    except (KeyError, ImportError, AttributeError) as error:
        raise PluginError(f"{mark[0]} names nothing that there is: {error}") from error
