"""The pack as ComfyUI sees it: loads cleanly and quickly, and its nodes keep their names."""

from __future__ import annotations

import json
import re
import urllib.error
from pathlib import Path

import pytest
from server import PACK_NAME

pytestmark = pytest.mark.host
SNAPSHOT = Path(__file__).with_name("snapshot.json")


def ours(host) -> dict:
    info = json.loads(host.get("/object_info"))
    return {name: node for name, node in info.items() if node["python_module"] == f"custom_nodes.{PACK_NAME}"}


def test_loads_without_a_word_of_complaint(host):
    log = host.greeting
    assert len(ours(host)) == 8
    assert "IMPORT FAILED" not in log
    assert not [line for line in log.splitlines() if PACK_NAME in line and re.search("error|warning|fail", line, re.I)]
    seconds = re.search(rf"([\d.]+) seconds: \S*{PACK_NAME}$", log, re.M)
    assert float(seconds[1]) <= 0.3


def test_starting_imports_nothing_heavy(host):
    loaded = set(host.modules_at_start)
    assert "torch" in loaded
    assert not loaded & {"matplotlib", "typer", "sklearn", "peft", "lycoris"}


def test_ids_inputs_and_outputs_are_the_published_ones(host):
    """Saved workflows depend on these. Additions go into the snapshot; nothing in it is ever renamed or removed."""
    seen = {
        name: {
            "inputs": {
                kind: {i: spec[0] if isinstance(spec[0], str) else "COMBO" for i, spec in inputs.items()}
                for kind, inputs in node["input"].items()
                if kind != "hidden"
            },
            "outputs": [list(pair) for pair in zip(node["output_name"], node["output"], strict=True)],
        }
        for name, node in sorted(ours(host).items())
    }
    assert seen == json.loads(SNAPSHOT.read_text())


def test_every_input_and_output_explains_itself(host):
    for name, node in ours(host).items():
        assert node["category"] == "LoRA Graft" and node["description"] and node["search_aliases"], name
        assert all(node["output_tooltips"]), name
        for kind in ("required", "optional"):
            for key, spec in node["input"].get(kind, {}).items():
                assert spec[1].get("tooltip"), f"{name}.{key}"


def test_every_node_has_a_help_page(host):
    for name, node in ours(host).items():
        page = host.get(f"/extensions/{PACK_NAME}/docs/{name}.md").decode()
        assert page.startswith(f"# {node['display_name']}")
        for key in (*node["input"].get("required", {}), *node["input"].get("optional", {})):
            assert f"**{key}**" in page, f"{name}.{key} is not explained"
        for key in node["output_name"]:
            assert f"**{key}**" in page, f"{name}: output {key} is not explained"


def test_no_page_for_a_node_that_does_not_exist(host):
    with pytest.raises(urllib.error.HTTPError):
        host.get(f"/extensions/{PACK_NAME}/docs/LoraGraft_Nothing.md")
    pages = {p.stem for p in (Path(__file__).parents[2] / "web" / "docs").glob("*.md")}
    assert pages == set(ours(host))
