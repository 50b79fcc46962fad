"""The README and the pages it leads to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parent.parent
PAGES = [PACK / "README.md", PACK / "CONTRIBUTING.md", PACK / "family/README.md", *sorted((PACK / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PACK).as_posix())
def test_links_lead_to_files_in_the_repository(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_is_a_front_page():
    """What it is, how to set up and a first result; formats, methods and options have pages of their own."""
    assert len((PACK / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_every_node_has_its_page_in_the_site():
    site = (PACK / "mkdocs.yml").read_text(encoding="utf-8")
    assert all(f"nodes/{page.name}" in site for page in (PACK / "web/docs").glob("*.md"))
