"""Students on the host's layers: in training they answer as the host does with the file they write."""

from __future__ import annotations

import json

import pytest
from graphs import WIDTHS, Graph

pytestmark = pytest.mark.host
ARCHITECTURES = ["sd15", "vega", "sd3", "flux"]


def words(graph: Graph, arch: str) -> list:
    """A text encoder of the architecture's widths."""
    clip = graph.out("CLIPLoader", clip_name="clip_l_a.safetensors", type="stable_diffusion")
    width, pooled = WIDTHS[arch]
    return graph.out("Probe_Words", clip=clip, width=width, pooled=pooled)


def looked(host, arch, dtype, kinds="", model=None):
    graph = Graph()
    node = graph.add(
        "Probe_Student", model=model or graph.unet(f"{arch}_a"), clip=words(graph, arch), dtype=dtype, kinds=kinds
    )
    result = host.run(graph, seconds=300)
    assert result.status == "success", result.message
    return json.loads(result.text(node))


def is_clean(left: dict) -> bool:
    return not any(left.values())


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_kind_answers_as_its_file_does(host, arch):
    for kind, seen in looked(host, arch, "fp32").items():
        assert seen["effect"] > 1e-3 and seen["patched"] == seen["students"] > 5, kind
        assert seen["off"] < 1e-3, kind
        assert seen["finite"] and seen["untouched"] == 0, f"{kind}: every parameter learns"
        assert seen["twice"] < 1e-4 and seen["grads"] < 1e-3, f"{kind}: checkpointing changes nothing"
        assert seen["again"] == 0 and is_clean(seen["left"]), f"{kind}: nothing stays behind"
        assert seen["alone"] < 1e-4
    assert (seen["convolutions"] > 0) == (arch in ("sd15", "vega"))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_half_precision(host, arch):
    for kind, seen in looked(host, arch, "bf16", "lora dora").items():
        assert seen["off"] < 0.1 and seen["finite"] and seen["twice"] < 0.02, kind
        assert seen["again"] == 0 and is_clean(seen["left"])
