"""Train Discriminator inside ComfyUI, its file, and datasets that are drawn by it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from distill_graph import DistillGraph, family, ok  # noqa: F401
from graphs import NODE
from safetensors import safe_open

pytestmark = pytest.mark.host
ELSEWHERE = "blue digit nine\nwhite digit five\nred digit six\na green digit seven"


class Graph(DistillGraph):
    """One teacher: base A with its golden frame."""

    def __init__(self):
        super().__init__()
        self.family, self.frame, self.eyes = self.models("family_a", None), self.lora("family_frame_a"), self.vae()

    def pictures_of(self, strength: str, seed: int, count: int, prompts: str = ELSEWHERE) -> list:
        data = self.dataset(
            self.family,
            self.frame,
            strengths=strength,
            seed=seed,
            count=count,
            prompts=prompts,
            source_vae=self.eyes,
        )
        return [data, 1]

    def train(self, real: list, generated: list, **more) -> str:
        inputs = {"filename_prefix": "", "folder": "output/loras"}
        return self.add(NODE + "TrainDiscriminator", real=real, generated=generated, **(inputs | more))

    def judged(self, discriminator: list, strength: str = "1", **more) -> str:
        given = {"source_vae": self.eyes, "strengths": strength, "seed": 7} | more
        return self.dataset(self.family, self.frame, discriminator=discriminator, **given)


def kept(result, node: str) -> int:
    return int(re.search(r"(\d+) of 16 samples were kept", result.text(node))[1])


@pytest.mark.parametrize("sees", ["clip_vision", "latents", "pixels"])
def test_trained_saved_loaded_and_used(family, sees):  # noqa: F811
    graph = Graph()

    def eyes(graph):
        vision = {"clip_vision": graph.out("Probe_Vision", seed=3, size=48)}
        return {"clip_vision": vision, "latents": {"vae": graph.eyes}, "pixels": {}}[sees]

    node = graph.train(
        graph.pictures_of("1", 300, 10),
        graph.pictures_of("0", 400, 16),
        lora=graph.frame,
        filename_prefix=f"mine/{sees}",
        **eyes(graph),
    )
    with_it, without = (
        graph.judged([node, 0], strength, **{k: v for k, v in eyes(graph).items() if k == "clip_vision"})
        for strength in ("1", "0")
    )
    result = ok(family.run(graph, seconds=300))
    assert kept(result, with_it) >= 13 and kept(result, without) <= 5
    assert "rejected by the discriminator of family_frame_a, trained on 10 real pictures" in result.text(without)
    assert "Cross-validated" in result.text(node) and "10 real and 16 generated" in result.text(node)

    name = f"mine/{sees}_discriminator_00001.safetensors"
    path = family.base / "output" / "loras" / name
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["lora_graft.discriminator"])
        assert file.get_tensor("weight").shape == (header["encoder"]["size"],)
    assert header["encoder"]["kind"] == sees and len(header["lora_digest"]) == 64 and header["accuracy"] > 0.8
    assert str(path) in result.text(node)

    graph = Graph()
    loaded = graph.add(NODE + "LoadDiscriminator", file=name)
    again = graph.judged([loaded, 0], "1", **{k: v for k, v in eyes(graph).items() if k == "clip_vision"})
    report = graph.value([loaded, 1])
    second = ok(family.run(graph, seconds=300))
    assert kept(second, again) == kept(result, with_it)
    assert result.text(node).startswith(second.text(report)[:80])
    menus = json.loads(family.get("/object_info"))
    listed = [menus[NODE + node]["input"]["required"] for node in ("LoadDiscriminator", "LoadLoRA")]
    assert name in json.dumps(listed[0]) and name not in json.dumps(listed[1])


def test_what_looks_must_be_what_it_was_trained_with(family):  # noqa: F811
    """Refused before anything is drawn: nothing connected, another size, other weights, another VAE."""

    def broken(graph, node):
        result = family.run(graph, seconds=300)
        assert result.status == "error" and result.error["node_id"] == node
        return result.message

    graph = Graph()
    classes = graph.pictures_of("1", 300, 4), graph.pictures_of("0", 400, 8)
    trained = graph.train(*classes, clip_vision=graph.out("Probe_Vision", seed=3, size=48))
    result = ok(family.run(graph, seconds=300))
    assert "4 real pictures are few" in result.text(trained)
    for more, message in (
        ({}, "Connect clip_vision"),
        ({"clip_vision": graph.out("Probe_Vision", seed=3, size=32)}, "of 48 numbers, and these have 32"),
        ({"clip_vision": graph.out("Probe_Vision", seed=4, size=48)}, "of other weights"),
    ):
        node = graph.judged([trained, 0], **more)
        assert message in broken(graph, node)
        del graph[node]
    one = graph.train(graph.pictures_of("1", 300, 2), classes[1], vae=graph.eyes)
    node = graph.judged([one, 0], source_vae=graph.vae("taesd16"))
    assert "a VAE's latents of other weights" in broken(graph, node)


def test_a_lora_is_no_discriminator_and_the_other_way_round(family):  # noqa: F811
    folder = family.base / "output" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    name = "wrong_discriminator_00001.safetensors"
    Path(folder / name).write_bytes((family.models / "loras" / "family_frame_a.safetensors").read_bytes())
    family.get("/object_info")
    graph = Graph()
    loaded = graph.add(NODE + "LoadDiscriminator", file=name)
    graph.value([loaded, 1])
    result = family.run(graph)
    assert result.status == "error" and "not a discriminator" in result.message and name in result.message
