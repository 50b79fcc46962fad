"""The pack as ComfyUI sees it: loads cleanly and quickly, and its nodes keep their names."""

from __future__ import annotations

import json
import re
import urllib.error
from io import BytesIO
from pathlib import Path

import pytest
from graphs import Graph
from PIL import Image
from server import PACK_NAME

pytestmark = pytest.mark.host
WIDGETS = {"COMBO", "INT", "FLOAT", "STRING", "BOOLEAN"}
SNAPSHOT = Path(__file__).with_name("snapshot.json")


def ours(host) -> dict:
    info = json.loads(host.get("/object_info"))
    return {name: node for name, node in info.items() if node["python_module"] == f"custom_nodes.{PACK_NAME}"}


def test_loads_without_a_word_of_complaint(host):
    log = host.greeting
    assert ours(host)
    assert "IMPORT FAILED" not in log
    assert not [line for line in log.splitlines() if PACK_NAME in line and re.search("error|warning|fail", line, re.I)]
    assert re.search(rf"[\d.]+ seconds: \S*{PACK_NAME}$", log, re.M)


def test_starting_imports_no_work_and_no_pictures(host):
    """Menus need the methods' names, so kernels load; what reads files, works, draws or commands waits for a node."""
    loaded = set(host.modules_at_start)
    assert {"torch", "comfy"} <= loaded
    assert not loaded & {"matplotlib", "typer", "websockets", "sklearn", "peft", "lycoris"}
    pack = {name.split(f"{PACK_NAME}.")[1].split(".")[0] for name in loaded if f"{PACK_NAME}." in name}
    assert "nodes" in pack
    assert pack <= {"nodes", "kernels", "names", "choices", "errors", "version"}


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


def sockets_and_widgets(node: dict) -> tuple[dict, dict]:
    """Required inputs that must be connected, and all that show as a widget: name → (type, options)."""
    required = node["input"].get("required", {})
    everything = {**required, **node["input"].get("optional", {})}
    widgets = {key: spec for key, spec in everything.items() if spec[0] in WIDGETS or isinstance(spec[0], list)}
    return {key: spec for key, spec in required.items() if key not in widgets}, widgets


def draws(node: dict) -> bool:
    """Whether the node draws pictures, or works on those that another drew: minutes at its defaults."""
    inputs = {key for kind in node["input"].values() for key in kind}
    drawn = {"LORA_GRAFT_DATASET", "LORA_GRAFT_DISCRIMINATOR"}
    return "sampler_name" in inputs or bool(drawn & {*node["output"], *_types(node)})


def _types(node: dict) -> set[str]:
    return {spec[0] for kind in node["input"].values() for spec in kind.values() if isinstance(spec[0], str)}


def test_every_input_and_output_explains_itself(host):
    for name, node in ours(host).items():
        assert name.startswith("LoraGraft_") and node["category"] == "LoRA Graft", name
        assert node["description"].endswith(".") and len(node["search_aliases"]) >= 2, name
        assert all((tip or "").endswith(".") for tip in node["output_tooltips"]), name
        for kind in ("required", "optional"):
            for key, (_, options, *_) in node["input"].get(kind, {}).items():
                tips = [options.get("tooltip"), *_template_tips(options)]
                assert all((tip or "").endswith(".") for tip in tips), f"{name}.{key}"


def _template_tips(options: dict) -> list[str | None]:
    """Tooltips of the sockets that an input with a template grows."""
    kinds = options.get("template", {}).get("input", {}).values()
    return [spec[1].get("tooltip") for inputs in kinds for spec in inputs.values()]


def test_what_few_need_is_folded_away(host):
    for name, node in ours(host).items():
        _, widgets = sockets_and_widgets(node)
        unfolded = [key for key, spec in widgets.items() if not spec[1].get("advanced")]
        assert len(unfolded) <= (10 if draws(node) else 6), f"{name} shows {unfolded}"


def test_a_seed_stays_until_the_user_changes_it(host):
    """The graph editor would draw a new one after each run, and long work would never be found in the cache."""
    for name, node in ours(host).items():
        seed = node["input"].get("required", {}).get("seed")
        assert seed is None or seed[1].get("control_after_generate") == "fixed", name


def test_every_widget_has_a_default(host):
    for name, node in ours(host).items():
        for key, (kind, options, *_) in sockets_and_widgets(node)[1].items():
            assert "default" in options or kind == "COMBO", f"{name}.{key}"  # of a list of files the first


def of_type(graph: Graph, kind: str, socket: str):
    """Something to connect to a socket of this type; a node's second MODEL is another one."""
    if kind == "MODEL":
        return graph.unet("sd3_b" if socket == "target" else "sd3_a")
    if kind == "LORA_MODEL":
        return graph.lora("sd3")
    raise NotImplementedError(f"say here what to connect to {socket}, a {kind}")


def test_every_node_runs_when_only_its_sockets_are_connected(host):
    for name, node in ours(host).items():
        if draws(node):
            continue  # run with small numbers by tests of its own
        graph, inputs = Graph(), {}
        sockets, widgets = sockets_and_widgets(node)
        for key, (kind, options, *_) in sockets.items():
            if kind == "COMFY_AUTOGROW_V3":
                prefix = options["template"]["prefix"]
                inputs |= {f"{key}.{prefix}{i}": of_type(graph, "LORA_MODEL", key) for i in range(2)}
            else:
                inputs[key] = of_type(graph, kind, key)
        for key, (_, options, *_) in widgets.items():
            inputs[key] = options.get("default", "sd3.safetensors")
        made = graph.add(name, **inputs)
        for weight_slice in range(len(node["output"])):
            graph.value([made, weight_slice])
        result = host.run(graph)
        assert result.status == "success", f"{name}: {result.message}"


def page_of(host, name: str, language: str) -> str:
    """The help page that the graph editor shows: the language's own, else the one without a language."""
    folder = f"/extensions/{PACK_NAME}/docs"
    return host.get(f"{folder}/{name}/{language}.md" if language != "en" else f"{folder}/{name}.md").decode()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_node_has_a_help_page(host, language):
    texts = json.loads(host.get("/i18n"))[language]["nodeDefs"]
    for name, node in ours(host).items():
        page = page_of(host, name, language)
        assert page.startswith(f"# {texts[name]['display_name']}\n")
        for key in (*node["input"].get("required", {}), *node["input"].get("optional", {})):
            assert f"**{key}**" in page, f"{name}.{key} is not explained"
        for key in node["output_name"]:
            assert f"**{key}**" in page, f"{name}: output {key} is not explained"
        lines = [line for line in page.splitlines() if line]
        assert not lines[1].startswith(("#", "-", "!", "|")), f"{name} begins with a sentence"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_help_page_shows_a_picture(host, language):
    """Addresses are relative to the docs folder in every language: so the graph editor resolves them."""
    for name in ours(host):
        found = re.findall(r"!\[(.+)\]\((images/[\w.]+)\)", page_of(host, name, language))
        assert found, name
        for _, address in found:
            data = host.get(f"/extensions/{PACK_NAME}/docs/{address}")
            assert len(data) < 60_000, f"{address} is large"
            width, height = Image.open(BytesIO(data)).size
            assert 300 <= width <= 800 and height <= 800, address


def test_no_page_for_a_node_that_does_not_exist(host):
    with pytest.raises(urllib.error.HTTPError):
        host.get(f"/extensions/{PACK_NAME}/docs/LoraGraft_Nothing.md")
    docs = Path(__file__).parents[2] / "web" / "docs"
    assert {page.stem for page in docs.glob("*.md")} == set(ours(host))
    assert {folder.name for folder in docs.iterdir() if folder.is_dir()} == {"images", *ours(host)}
