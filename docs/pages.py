"""Pages of the site that are written elsewhere: the README, the nodes' help as ComfyUI shows it, the results.

mkdocs calls :func:`on_files` and :func:`on_page_markdown`. A link to a file that has no page leads to the repository.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
BORROWED = {
    "index.md": ROOT / "README.md",
    "contributing.md": ROOT / "CONTRIBUTING.md",
    "changelog.md": ROOT / "CHANGELOG.md",
    "results.md": ROOT / "benchmarks/RESULTS.md",
    "family.md": ROOT / "family/README.md",
    **{f"nodes/{file.name}": file for file in sorted((ROOT / "web/docs").glob("*.md"))},
    **{f"nodes/images/{file.name}": file for file in sorted((ROOT / "web/docs/images").iterdir())},
}
PAGES = {source: page for page, source in BORROWED.items()}
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files, config):
    for page, source in BORROWED.items():
        files.append(File.generated(config, page, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown, page, config, files):
    """The page's text with every link leading to a page of the site, or else to the file in the repository."""
    source = BORROWED.get(page.file.src_uri, ROOT / "docs" / page.file.src_uri)

    def led(found: re.Match) -> str:
        file = (source.parent / found[1]).resolve()
        anchor = found[2] or ""
        own = file.relative_to(ROOT / "docs").as_posix() if file.is_relative_to(ROOT / "docs") else None
        inside = PAGES.get(file) or own
        if inside and files.get_file_from_path(inside):
            return f"]({os.path.relpath(inside, os.path.dirname(page.file.src_uri) or '.')}{anchor})"
        if file.exists():
            kind = "tree" if file.is_dir() else "blob"
            return f"]({config['repo_url']}/{kind}/main/{file.relative_to(ROOT).as_posix()}{anchor})"
        return found[0]  # strict building stops at it

    return LINK.sub(led, markdown)
