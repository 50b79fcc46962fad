"""Loading, applying and saving LoRAs: what core makes of the same file is the measure."""

from __future__ import annotations

import json

import pytest
import torch
from graphs import NODE, Graph
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.host
ARCHITECTURES = ["sd15", "vega", "sd3", "flux"]


def metadata(path) -> dict:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def ok(result):
    assert result.status == "success", result.message
    return result


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_applies_what_cores_loader_applies(host, arch):
    graph = Graph()
    model = graph.unet(f"{arch}_a")
    mine = graph.out(NODE + "ApplyLoRA", model=model, lora=graph.lora(arch), strength_model=0.7, strength_clip=1.0)
    core = graph.out("LoraLoaderModelOnly", model=model, lora_name=f"{arch}.safetensors", strength_model=0.7)
    node = graph.add("Probe_Compare", a=mine, b=core)
    seen = json.loads(ok(host.run(graph)).text(node))
    assert seen["worst"] == 0 and seen["largest_change"] > 0.2 and len(seen["patched"]) >= 6


def test_applies_to_the_text_encoder(host):
    graph = Graph()
    model, clip = graph.unet("sd15_a"), graph.clip()
    mine = graph.add(
        NODE + "ApplyLoRA", model=model, clip=clip, lora=graph.lora("sd15"), strength_model=1.0, strength_clip=-0.5
    )
    core = graph.add(
        "LoraLoader", model=model, clip=clip, lora_name="sd15.safetensors", strength_model=1.0, strength_clip=-0.5
    )
    node = graph.add("Probe_Compare", a=[mine, 0], b=[core, 0], clip_a=[mine, 1], clip_b=[core, 1])
    seen = json.loads(ok(host.run(graph)).text(node))
    assert seen["worst"] == 0
    assert sum(name.startswith("clip_l.") for name in seen["patched"]) == 12


def test_core_nodes_take_our_adapter(host):
    graph = Graph()
    model, lora = graph.unet("sd3_a"), graph.lora("sd3")
    core = graph.out("LoraModelLoader", model=model, lora=lora, strength_model=1.0, bypass=False)
    file = graph.out("LoraLoaderModelOnly", model=model, lora_name="sd3.safetensors", strength_model=1.0)
    node = graph.add("Probe_Compare", a=core, b=file)
    graph.add("SaveLoRA", lora=lora, prefix="loras/by_core")
    assert json.loads(ok(host.run(graph)).text(node))["worst"] == 0
    assert list((host.base / "output" / "loras").glob("by_core*.safetensors"))


def test_our_nodes_take_a_plain_state_dict(host):
    graph = Graph()
    model = graph.unet("sd3_a")
    plain = graph.out("Probe_Plain", lora=graph.lora("sd3"))
    mine = graph.out(NODE + "ApplyLoRA", model=model, lora=plain, strength_model=1.0, strength_clip=1.0)
    file = graph.out("LoraLoaderModelOnly", model=model, lora_name="sd3.safetensors", strength_model=1.0)
    node = graph.add("Probe_Compare", a=mine, b=file)
    saved = graph.save(plain, "plain")
    result = ok(host.run(graph))
    assert json.loads(result.text(node))["worst"] == 0
    assert "Saved" in result.text(saved)


def test_info_tells_what_the_file_is(host):
    graph = Graph()
    node = graph.add(NODE + "LoadLoRA", lora_name="sd15.safetensors")
    value = graph.value([node, 1])
    text = ok(host.run(graph)).text(value)
    for word in ("sd15.safetensors", "kohya", "SD 1.5", "text encoder", "rank 4", "box"):
        assert word in text


def test_saved_and_reloaded_gives_the_same_weights_and_pictures(host):
    graph = Graph()
    lora = graph.lora("sd15")
    path = graph.save(lora, "round/trip")
    saved = ok(host.run(graph)).text(path).removeprefix("Saved ")
    name = saved.split("/loras/")[1]
    assert name == "round/trip_00001.safetensors"
    assert metadata(saved) == metadata(host.models / "loras" / "sd15.safetensors")

    graph = Graph()
    model, clip = graph.unet("sd15_a"), graph.clip()
    lora = graph.lora("sd15")
    mine = graph.add(NODE + "ApplyLoRA", model=model, clip=clip, lora=lora, strength_model=1.0, strength_clip=1.0)
    core = graph.add("LoraLoader", model=model, clip=clip, lora_name=name, strength_model=1.0, strength_clip=1.0)
    node = graph.add("Probe_Compare", a=[mine, 0], b=[core, 0], clip_a=[mine, 1], clip_b=[core, 1])
    pictures = [graph.sample(m, "sd15") for m in (model, [mine, 0], [core, 0])]
    result = ok(host.run(graph))
    assert json.loads(result.text(node))["worst"] == 0
    plain, inside, reloaded = [json.loads(result.text(p)) for p in pictures]
    assert plain["finite"] and inside["finite"]
    assert inside["sha256"] == reloaded["sha256"] != plain["sha256"]


def test_never_writes_over_a_file(host):
    for number in (1, 2, 3):
        graph = Graph()
        node = graph.save(graph.lora("sd3"), "twice", dtype=("same", "fp32", "bf16")[number - 1])
        path = ok(host.run(graph)).text(node).removeprefix("Saved ")
        assert path.endswith(f"twice_0000{number}.safetensors")
    sizes = [p.stat().st_size for p in sorted((host.base / "output" / "loras").glob("twice_*"))]
    assert len(sizes) == 3 and sizes[1] > 1.8 * sizes[0] and abs(sizes[2] - sizes[0]) < 200


@pytest.mark.parametrize(
    ("arch", "layout"), [("sd15", "diffusers"), ("vega", "diffusers"), ("sd3", "comfy"), ("flux", "comfy")]
)
def test_other_layouts_mean_the_same(host, arch, layout):
    """Read by core's loader, but for diffusers' names of a UNet, of which core knows only a part."""
    graph = Graph()
    model = graph.unet(f"{arch}_a")
    more = {"clip": graph.clip()} if arch == "sd15" else {}
    node = graph.save(
        graph.lora(arch), f"layout_{arch}", folder="models/loras", layout=layout, dtype="fp32", model=model, **more
    )
    path, *notes = ok(host.run(graph)).text(node).removeprefix("Saved ").splitlines()
    assert not any(key.startswith("lora_unet_") for key in load_file(path))
    assert [note.startswith("ComfyUI has no names for diffusers files") for note in notes] == [True] * (
        layout == "diffusers"
    )

    graph = Graph()
    model = graph.unet(f"{arch}_a")
    name = path.rsplit("/", 1)[1]
    core = graph.out("LoraLoaderModelOnly", model=model, lora_name=f"{arch}.safetensors", strength_model=1.0)
    if layout == "comfy":
        new = graph.out("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=1.0)
    else:
        lora = graph.out(NODE + "LoadLoRA", lora_name=name)
        new = graph.out(NODE + "ApplyLoRA", model=model, lora=lora, strength_model=1.0, strength_clip=1.0)
    node = graph.add("Probe_Compare", a=new, b=core)
    assert json.loads(ok(host.run(graph)).text(node))["worst"] < 1e-5


@pytest.mark.parametrize("arch", ["sd15", "vega", "sd3"])
def test_another_layout_needs_no_model_where_the_lora_tells_it(host, arch):
    file = host.models / "loras" / f"{arch}_told.safetensors"
    save_file(
        load_file(host.models / "loras" / f"{arch}.safetensors"),
        file,
        metadata=metadata(host.models / "loras" / f"{arch}.safetensors") | {"sshs_model_hash": "1"},
    )
    graph, paths = Graph(), []
    lora, model = graph.lora(f"{arch}_told"), graph.unet(f"{arch}_a")
    for given in ({}, {"model": model, "clip": graph.clip()}):
        paths.append(graph.save(lora, f"told_{arch}", layout="diffusers", **given))
    result = ok(host.run(graph))
    alone, with_model = [result.text(path).removeprefix("Saved ").splitlines()[0] for path in paths]
    assert "sshs_model_hash" not in metadata(alone), "the hash of other keys"
    alone, with_model = load_file(alone), load_file(with_model)
    assert alone.keys() == with_model.keys() and not any(key.startswith("lora_unet_") for key in alone)
    assert all(torch.equal(alone[key], with_model[key]) for key in alone)


def test_a_lora_at_strength_zero_is_not_even_read(host):
    graph = Graph()
    model, lora = graph.unet("sd3_a"), graph.lora("sd3")
    out = graph.out(NODE + "ApplyLoRA", model=model, lora=lora, strength_model=0.0, strength_clip=1.0)
    node = graph.add("Probe_Digest", model=out)
    result = ok(host.run(graph))
    assert lora[0] not in result.ran()
    assert json.loads(result.text(node))["patched"] == []


def test_the_model_is_read_only_for_another_layout(host):
    graph = Graph()
    model, lora = graph.unet("vega_a"), graph.lora("vega")
    graph.save(lora, "lazy", model=model)
    assert model[0] not in ok(host.run(graph)).ran()


def test_a_changed_file_is_read_again(host):
    target = host.models / "loras" / "changing.safetensors"
    target.write_bytes((host.models / "loras" / "sd3.safetensors").read_bytes())
    graph = Graph()
    node = graph.add(NODE + "LoadLoRA", lora_name="changing.safetensors")
    value = graph.value([node, 1])
    first = ok(host.run(graph))
    assert node not in ok(host.run(graph)).ran()
    target.write_bytes((host.models / "loras" / "flux.safetensors").read_bytes())
    second = ok(host.run(graph))
    assert node in second.ran() and first.text(value) != second.text(value)
