"""Picture Dataset inside ComfyUI: from a folder or an IMAGE to an adapter, and what is refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from distill_graph import DistillGraph, family, frames, ok, parsed  # noqa: F401
from graphs import NODE
from lora_graft.family import materialize
from PIL import Image
from safetensors import safe_open

pytestmark = pytest.mark.host
KINDS = ["lora", "lora-x", "lora-x-diagonal", "loha", "lokr", "dora"]


def pictures(graph: DistillGraph, **more) -> str:
    inputs = {
        "folder": "family_stripes",
        "captions": "",
        "vae": graph.vae(),
        "width": 64,
        "height": 64,
        "steps": 4,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "negative": "",
        "batch": 16,
        "seed": 0,
    }
    return graph.add(NODE + "PictureDataset", **(inputs | more))


@pytest.fixture(scope="module")
def folders(family):  # noqa: F811
    """Makes folders in the host's input folder: name → files, whose content is a size, bytes or a text."""
    inputs = family.base / "input"
    materialize.example_pictures(inputs)

    def made(name: str, files: dict) -> str:
        (inputs / name).mkdir(exist_ok=True)
        for file, content in files.items():
            if isinstance(content, tuple):
                Image.new("RGB", content, "red").save(inputs / name / file)
            else:
                (inputs / name / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return made


def student(graph: DistillGraph) -> dict:
    models = graph.models("family_a", None)
    return {"target": models["source"], "target_clip": models["source_clip"]}


def test_from_a_folder_to_pictures_on_two_bases(family, folders):  # noqa: F811
    """No source and no LoRA anywhere: dataset, LoRA-X adapter, projection, pictures; the dataset also from disk."""
    graph = DistillGraph()
    dataset = pictures(graph)
    saved = graph.add(NODE + "SaveDataset", dataset=[dataset, 0], filename_prefix="mine/stripes")
    one = student(graph)
    node = graph.distill(
        [dataset, 0], one, kind="lora-x", rank=48, steps=20, lessons=0, pictures=3, target_vae=graph.vae()
    )
    moved = graph.transfer([node, 0], one["target"], graph.unet("family_b"), method="lora-x", subspace="share")
    file = graph.save([node, 0], "mine/stripes")
    values = [graph.value(out) for out in ([dataset, 1], [node, 3])]
    drawn = [graph.pictures(model) for model in (one["target"], [node, 1], [moved, 1])]
    result = ok(family.run(graph, seconds=600))
    assert "10 pictures of 64 × 64 with 9 different captions" in result.text(dataset)
    assert len(result.outputs[dataset]["images"]) == 10 and parsed(result, values[0])["shape"] == [10, 64, 64, 3]
    assert "10 pictures were taught to family_a in 20 steps" in result.text(node)
    assert parsed(result, values[1])["spread"] > 0.05, "the contact sheet"
    alone, taught, carried = (frames(family, result, name, "stripes") for name in drawn)
    assert alone < 0.2 < 0.4 < taught and carried > alone + 0.2
    with safe_open(result.text(file).removeprefix("Saved "), "pt") as opened:
        words, keys = opened.metadata(), list(opened.keys())
    assert json.loads(words["ss_tag_frequency"])["pictures"]["white digit six"] == 2
    assert "lora_graft.source" not in words and words["lora_graft.target"] and keys[0].startswith("lora_unet_")
    assert Path(result.text(saved)).name == "stripes_00001.safetensors"

    graph = DistillGraph()
    loaded = graph.add(NODE + "LoadDataset", file="mine/stripes_00001.safetensors")
    again = graph.distill([loaded, 0], student(graph), objective="samples")
    first = graph.distill([pictures(graph), 0], student(graph), objective="samples")
    same, report = graph.compare([first, 1], [again, 1]), graph.value([loaded, 1])
    result = ok(family.run(graph, seconds=600))
    assert parsed(result, same)["worst"] == 0 and parsed(result, same)["largest_change"] > 0
    assert "stripes_10.png" in result.text(report)


def test_every_kind_from_pictures_reloads_as_it_was(family, folders):  # noqa: F811
    def build():
        graph = DistillGraph()
        dataset, one = pictures(graph), student(graph)
        return graph, one, [graph.distill([dataset, 0], one, kind=kind, rank=4, batch=8) for kind in KINDS]

    graph, _, nodes = build()
    saved = [graph.save([node, 0], f"pictures/{kind}") for node, kind in zip(nodes, KINDS, strict=True)]
    result = ok(family.run(graph, seconds=600))
    files = [result.text(name).split("/loras/")[1] for name in saved]
    graph, one, nodes = build()
    compared = [
        graph.compare(
            [node, 1],
            graph.out("LoraLoaderModelOnly", model=one["target"], lora_name=file, strength_model=1.0),
        )
        for node, file in zip(nodes, files, strict=True)
    ]
    result = ok(family.run(graph, seconds=600))
    for kind, node in zip(KINDS, compared, strict=True):
        seen = parsed(result, node)
        assert seen["worst"] == 0 and seen["largest_change"] > 1e-5, kind


def test_images_of_several_sizes_arrive_as_a_list(family, folders):  # noqa: F811
    graph = DistillGraph()
    batch = graph.out("EmptyImage", width=64, height=64, batch_size=2, color=255)
    wide = graph.out("EmptyImage", width=96, height=32, batch_size=1, color=65280)
    images = graph.out("CreateList", **{"inputs.input0": batch, "inputs.input1": wide})
    dataset = pictures(graph, folder="", images=images, captions="red\nred\ngreen")
    result = ok(family.run(graph, seconds=300))
    assert "3 pictures of 64 × 64 with 2 different captions" in result.text(dataset)
    assert "2 sizes" in result.text(dataset) and "image 3 has 96 × 32" in result.text(dataset)


def test_a_changed_folder_is_read_again(family, folders):  # noqa: F811
    name = folders("changing", {"a.png": (64, 64), "b.png": (64, 64), "a.txt": "one", "b.txt": "two"})
    graph = DistillGraph()
    dataset = pictures(graph, folder=name)
    assert "two" in ok(family.run(graph)).text(dataset)
    assert dataset not in family.run(graph).ran()
    folders("changing", {"b.txt": "three words now"})
    assert "three words now" in ok(family.run(graph)).text(dataset)


def test_bad_input_is_refused_in_words(family, folders):  # noqa: F811
    two = {"a.png": (64, 64), "b.png": (64, 64)}
    cases = [
        ({"folder": "gone"}, "There is no such folder", "gone"),
        ({"folder": folders("empty", {})}, "The folder has no pictures", "empty"),
        ({"folder": folders("texts", {"a.txt": "one"})}, "captions but no pictures", "a.txt"),
        ({"folder": folders("bare", {**two, "a.txt": "one"})}, "1 of 2 pictures have no caption: b.png", "b.txt"),
        ({"folder": "bare", "captions": "a\nb\nc"}, "2 pictures and 3 captions", ""),
        ({"folder": folders("lone", {"a.png": (64, 64), "a.txt": "one"})}, "1 picture cannot teach", "Ten to fifty"),
        (
            {"folder": folders("broken", {**two, "c.png": b"no picture"}), "captions": "all"},
            "cannot be read as PNG",
            "c.png",
        ),
        ({"folder": ""}, "There are no pictures", "Connect images"),
        ({"folder": "", "captions": "one"}, "captions but no pictures", ""),
    ]
    for inputs, *parts in cases:
        graph = DistillGraph()
        dataset = pictures(graph, **inputs)
        broken = family.run(graph)
        assert broken.status == "error" and broken.error["node_id"] == dataset, inputs
        assert all(part in broken.message for part in parts), broken.message


def test_a_dataset_without_a_teacher_is_no_dataset_of_one(family, folders):  # noqa: F811
    graph = DistillGraph()
    dataset = pictures(graph)
    node = graph.distill([dataset, 0], student(graph), objective="difference")
    broken = family.run(graph, seconds=300)
    assert broken.status == "error" and broken.error["node_id"] == node
    assert "'difference'" in broken.message and "has no teacher" in broken.message and "'samples'" in broken.message
    del graph[node]
    node = graph.distill([dataset, 0], student(graph), graph.lora("family_frame_a"))
    assert "The LoRAs have no base here" in family.run(graph, seconds=300).message
    del graph[node]
    node = graph.distill([dataset, 0], student(graph), target_vae=graph.vae("family_vae_v"))
    assert "encoded by another VAE" in family.run(graph, seconds=300).message
    graph = DistillGraph()
    models, lora = graph.models("family_a", None), graph.lora("family_frame_a")
    drawn = graph.dataset(models, lora, count=4, steps=1, cfg=1.0)
    graph.distill([drawn, 0], student(graph))
    assert "drawn with a teacher, which is missing" in family.run(graph, seconds=300).message
