"""The README, the pages it leads to, and what the site adds to them."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parent.parent
PAGES = [PACK / "README.md", PACK / "CONTRIBUTING.md", PACK / "family/README.md", *sorted((PACK / "docs").glob("*.md"))]
HELP = sorted((PACK / "web/docs").glob("*.md"))


def text_of(page: str) -> str:
    return (PACK / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PACK).as_posix())
def test_links_lead_to_files_in_the_repository(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_is_a_front_page():
    """What it is, how to set up and a first result; formats, methods and options have pages of their own."""
    lines = text_of("README.md").splitlines()
    assert len(lines) <= 100
    tables = re.findall(r"(?:^\|.*\n)+", text_of("README.md"), re.M)
    assert all(table.count("\n") - 2 <= 10 for table in tables)


def test_every_node_has_its_page_in_the_site_and_on_the_overview():
    site, overview = text_of("mkdocs.yml"), text_of("docs/nodes.md")
    assert HELP and all(f"nodes/{page.name}" in site and f"web/docs/{page.name}" in overview for page in HELP)


def test_every_method_is_described():
    from lora_graft.kernels import merge, transfer

    transferring, merging = text_of("docs/methods.md").split("## Merge")
    assert [name for name in transfer.METHODS if f"`{name}`" not in transferring] == []
    assert [name for name in merge.METHODS if f"`{name}`" not in merging] == []


@pytest.fixture(scope="module")
def reference():
    """The modules that write the site's generated parts."""
    sys.path.insert(0, str(PACK / "docs"))
    try:
        yield importlib.import_module("command_reference"), importlib.import_module("python_reference")
    finally:
        sys.path.remove(str(PACK / "docs"))


def test_every_command_has_a_section_with_all_that_help_says(reference):
    from lora_graft.cli.app import app
    from typer.testing import CliRunner

    commands = reference[0].commands()
    sections = re.findall(r"^## (\w+)$", text_of("docs/commands.md"), re.M)
    assert sections == list(commands) == re.findall(r"<!-- options of (\w+) -->", text_of("docs/commands.md"))
    for name, shown in commands.items():
        asked = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "300", "NO_COLOR": "1"})
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", asked.stdout.split("Options", 1)[1]))
        assert "--help" in options and [o for o in sorted(options) if o not in shown] == []


def test_python_pages_name_all_that_is_offered(reference):
    python, kernels = text_of("docs/python.md"), text_of("docs/kernels.md")
    marks = re.findall(r"<!-- python (\S+) -->", python + kernels)
    shown = "\n".join(reference[1].described(mark) for mark in marks)
    from lora_graft import face

    assert [name for name in face.__all__ if f"### {name}\n" not in shown] == []
    files = (PACK / "kernels").rglob("*.py")
    modules = [f.relative_to(PACK).with_suffix("").as_posix().replace("/", ".") for f in files if f.stem != "__init__"]
    assert modules and [module for module in modules if f"### {module}\n" not in shown] == []


def test_a_docstring_becomes_markdown(reference):
    doc = """
    What ``x`` is, as :class:`.a.B` has it: W < 1.

    Args:
        x: (n,) numbers,
            in order.

    Raises:
        SettingsError: none given.
    """
    assert reference[1].text(doc, ["x"]) == (
        "What `x` is, as `a.B` has it: W &lt; 1.\n\n**Args**\n\n- **x**: (n,) numbers,\n  in order.\n\n"
        "**Raises**\n\n- **SettingsError**: none given."
    )


# The two ways of docs/architecture.md, followed.


def function_of(name: str):
    """The function, method or property that a dotted name of the package means."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module("lora_graft." + ".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = inspect.getattr_static(found, part)
        return inspect.unwrap(getattr(found, "__func__", getattr(found, "fget", found)))
    raise ModuleNotFoundError(name)


def test_the_page_on_the_papers_names_what_there_is():
    """The second column of its tables: functions and classes by their dotted names, scripts by their paths."""
    cells = [line.split("|")[2] for line in text_of("docs/papers.md").splitlines() if line.startswith("| ")]
    quoted = re.findall(r"`([\w/]+\.[\w.]+)`", " ".join(cells))
    assert len(quoted) > 30
    for name in quoted:
        found = PACK / name if "/" in name else function_of(name)
        assert callable(found) or found.is_file(), name


def test_architecture_names_every_floor():
    shown = text_of("docs/architecture.md")
    packages = [f.parent.name for f in PACK.glob("*/__init__.py") if f.parent.name not in ("tests", "docs")]
    assert packages and [name for name in packages if f"{name}/" not in shown] == []


def test_a_file_and_a_weight_go_the_ways_that_are_described(family_models, tmp_path, monkeypatch):
    from lora_graft.cli.app import app

    ways = {}
    for section in text_of("docs/architecture.md").split("\n## ")[1:]:
        title, body = section.split("\n", 1)
        ways[title] = re.findall(r"^\d+\. `([\w.]+)`", body, re.M)
    assert len(ways) == 2 and all(len(way) > 5 for way in ways.values())
    codes = {function_of(name).__code__: name for way in ways.values() for name in way}
    monkeypatch.setenv("LORA_GRAFT_CACHE", str(tmp_path / "cache"))
    files = {file.stem: file for file in family_models.rglob("*.safetensors")}
    seen: dict[str, None] = {}

    def watch(frame, event, argument):
        if event == "call" and frame.f_code in codes:
            seen.setdefault(codes[frame.f_code])

    bases = ["--source", files["family_a"], "--target", files["family_b"]]
    call = ["transfer", files["family_frame_a"], *bases, "--method", "lora-x", "-o", tmp_path / "moved.safetensors"]
    sys.setprofile(watch)
    try:
        app([str(part) for part in call], standalone_mode=False)
    finally:
        sys.setprofile(None)
    for way in ways.values():
        assert [name for name in seen if name in way] == way
