"""Similarity and transfer inside ComfyUI: four architectures, text encoders, progress, cancel, untouched bases."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from graphs import NODE, Graph
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.host
ARCHITECTURES = ["sd15", "vega", "sd3", "flux"]
METHODS = ["copy", "lora-x", "prolora", "rotate"]


def ok(result):
    assert result.status == "success", result.message
    return result


def report_of(result, node: str) -> str:
    return result.text(node)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_transfer_save_reload_and_draw(host, arch):
    """The picture with the transferred adapter differs from the target's and equals the one from the saved file."""
    graph = Graph()
    source, target, lora = graph.unet(f"{arch}_a"), graph.unet(f"{arch}_b"), graph.lora(arch)
    moved = graph.transfer(lora, source, target, method="rotate", k=8)
    saved = graph.save([moved, 0], f"moved_{arch}")
    heat = graph.value([moved, 4])
    result = ok(host.run(graph, seconds=300))
    path = result.text(saved).removeprefix("Saved ")
    seen = json.loads(result.text(heat))
    assert seen["shape"][0] == 1 and seen["shape"][3] == 3 and 0 <= seen["min"] < seen["max"] <= 1
    assert result.outputs[moved]["images"] and f"{arch}_b" in report_of(result, moved)

    graph = Graph()
    source, target, lora = graph.unet(f"{arch}_a"), graph.unet(f"{arch}_b"), graph.lora(arch)
    moved = graph.transfer(lora, source, target, method="rotate", k=8)
    name = path.split("/loras/")[1]
    core = graph.out("LoraLoaderModelOnly", model=target, lora_name=name, strength_model=1.0)
    node = graph.add("Probe_Compare", a=[moved, 1], b=core)
    drawn = [graph.sample(model, arch) for model in (target, [moved, 1], core)]
    result = ok(host.run(graph, seconds=300))
    compared = json.loads(result.text(node))
    assert compared["worst"] == 0 and compared["largest_change"] > 0.05
    plain, inside, reloaded = [json.loads(result.text(d)) for d in drawn]
    assert plain["finite"] and inside["finite"] and plain["std"] > 0
    assert inside["sha256"] == reloaded["sha256"] != plain["sha256"]
    original, written = load_file(host.models / "loras" / f"{arch}.safetensors"), load_file(path)
    ours = {k for k in original if not k.startswith("lora_te_")}
    assert ours <= set(written)
    with safe_open(path, "pt") as file:
        assert file.metadata()["ss_network_module"] == "networks.lora"
        digest = hashlib.sha256((host.models / "loras" / f"{arch}.safetensors").read_bytes()).hexdigest()
        assert file.metadata()["lora_graft.adapter_sha256"] == digest


@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_every_method(host, method):
    graph = Graph()
    source, target, lora = graph.unet("sd3_a"), graph.unet("sd3_b"), graph.lora("sd3")
    moved = graph.transfer(lora, source, target, method=method, subspace="share", strength=0.5)
    copied = graph.out("LoraLoaderModelOnly", model=target, lora_name="sd3.safetensors", strength_model=0.5)
    node = graph.add("Probe_Compare", a=[moved, 1], b=copied)
    value = graph.value([moved, 0])
    result = ok(host.run(graph))
    seen = json.loads(result.text(node))
    if method == "copy":
        assert seen["worst"] < 2e-3
    elif method != "auto":
        assert seen["worst"] > 0.01
    state = json.loads(result.text(value))
    assert state["type"] == "LoraState" and state["metadata"]["ss_network_module"] == "networks.lora"


def test_the_threshold_leaves_out_or_copies(host):
    """Weights under a threshold in the widest gap of their Φ: lora-x has none of them, or all as they were."""

    def run(**more):
        graph = Graph()
        source, target, lora = graph.unet("sd3_a"), graph.unet("sd3_b"), graph.lora("sd3")
        moved = graph.transfer(lora, source, target, method="lora-x", k=8, **more)
        node = graph.add("Probe_Compare", a=[moved, 1], b=target)
        result = host.run(graph)
        return result, node, moved

    result, _, moved = run()
    rows = [line.split(" | ") for line in report_of(ok(result), moved).splitlines() if " lora-x | " in line]
    levels = sorted((float(row[4]) + float(row[5])) / 2 for row in rows if row[3] == "8")
    _, middle = max((high - low, (high + low) / 2) for low, high in zip(levels, levels[1:], strict=False))
    below = sum(level < middle for level in levels)

    result, node, moved = run(threshold=middle)
    filtered, text = json.loads(ok(result).text(node)), report_of(result, moved)
    assert f"{below} modules are left out" in text and text.count("| left out |") == below
    result, node, moved = run(threshold=middle, below_threshold="copy")
    whole, text = json.loads(ok(result).text(node)), report_of(result, moved)
    assert "left out" not in text and text.count("is under the threshold") == below
    assert len(whole["patched"]) == len(filtered["patched"]) + below
    result, _, _ = run(threshold=1.0)
    assert (
        result.status == "error"
        and "leaves out everything" in result.message
        and "Lower the threshold" in result.message
    )


def test_same_base_gives_the_lora_unchanged(host):
    graph = Graph()
    base, lora = graph.unet("sd3_a"), graph.lora("sd3")
    moved = graph.transfer(lora, base, base, method="auto")
    core = graph.out("LoraLoaderModelOnly", model=base, lora_name="sd3.safetensors", strength_model=1.0)
    node = graph.add("Probe_Compare", a=[moved, 1], b=core)
    result = ok(host.run(graph))
    assert json.loads(result.text(node))["worst"] == 0
    assert "same" in report_of(result, moved).lower() or "identical" in report_of(result, moved).lower()


def test_text_encoder_modules_move_too(host):
    graph = Graph()
    source, target, lora = graph.unet("sd15_a"), graph.unet("sd15_b"), graph.lora("sd15")
    clips = graph.clip("clip_l_a"), graph.clip("clip_l_b")
    moved = graph.transfer(lora, source, target, source_clip=clips[0], target_clip=clips[1], method="lora-x", k=64)
    whole = graph.add(
        "LoraLoader", model=target, clip=clips[1], lora_name="sd15.safetensors", strength_model=1.0, strength_clip=1.0
    )
    node = graph.add("Probe_Compare", a=[moved, 1], b=[whole, 0], clip_a=[moved, 2], clip_b=[whole, 1])
    result = ok(host.run(graph, seconds=300))
    assert clips[0][0] in result.ran()
    seen = json.loads(result.text(node))
    assert seen["worst"] > 0.1
    assert sum(name.startswith("clip_l.") for name in seen["patched"]) == 12
    assert "clip_l" in report_of(result, moved)


SPELLED = {  # kohya's and ComfyUI's the host reads itself; OneTrainer's and PEFT's are brought into its words
    "lora_te_layers_{}_{}": True,
    "text_encoders.{encoder}.transformer.model.layers.{}.{}": True,
    "text_encoder.model.layers.{}.{}": False,
    "base_model.model.model.layers.{}.{}": False,
}


@pytest.mark.parametrize(("kind", "encoder"), [("gemma", "gemma2_2b"), ("qwen", "qwen3_4b")])
def test_loras_of_language_models_move_through_clip(host, kind, encoder):
    """However a trainer spells the keys: a copy is what the host's own loader makes of those that it reads."""
    dice, graph = torch.Generator().manual_seed(3), Graph()
    rows = {"gemma": 512, "qwen": 256}[kind]  # heads of 256 and 128, two of them, over a width of 32
    factors = {"up": torch.randn(rows, 2, generator=dice) / 8, "down": torch.randn(2, 32, generator=dice) / 8}
    model, clips = graph.unet("sd15_a"), [graph.out("Probe_LanguageModel", kind=kind, seed=n) for n in (7, 8)]
    found = []
    for number, (spelled, known) in enumerate(SPELLED.items()):
        middle = "self_attn_q_proj" if spelled.startswith("lora_te_") else "self_attn.q_proj"
        key = spelled.format(1, middle, encoder=encoder)
        state = {f"{key}.lora_{end}.weight": factor for end, factor in factors.items()}
        name = f"{kind}_{number}"
        save_file(state, host.models / "loras" / f"{name}.safetensors")
        moved = graph.transfer(graph.lora(name), model, model, source_clip=clips[0], target_clip=clips[1])
        if known:
            core = graph.add(
                "LoraLoader",
                model=model,
                clip=clips[1],
                lora_name=f"{name}.safetensors",
                strength_model=1.0,
                strength_clip=1.0,
            )
        found.append(graph.add("Probe_Compare", a=[moved, 1], b=[core, 0], clip_a=[moved, 2], clip_b=[core, 1]))
    rotated = graph.transfer(
        graph.lora(f"{kind}_2"), model, model, source_clip=clips[0], target_clip=clips[1], method="rotate", k=8
    )
    found.append(graph.add("Probe_Compare", a=[rotated, 1], b=[core, 0], clip_a=[rotated, 2], clip_b=[core, 1]))
    result = ok(host.run(graph, seconds=300))
    *copies, turned = [json.loads(result.text(node)) for node in found]
    for seen in copies:
        assert seen["patched"] == [f"{encoder}.transformer.model.layers.1.self_attn.q_proj.weight"]
        assert seen["worst"] == 0 and seen["largest_change"] > 0.01
    assert turned["worst"] > 0.1


def test_source_clip_is_left_alone_when_the_lora_has_no_text_encoder(host):
    graph = Graph()
    clip = graph.out("CLIPLoader", clip_name="clip_l_b.safetensors", type="sd3")
    moved = graph.transfer(graph.lora("sd3"), graph.unet("sd3_a"), graph.unet("sd3_b"), source_clip=clip, strength=0.9)
    result = ok(host.run(graph))
    assert moved in result.ran() and clip[0] not in result.ran()


def test_loras_on_the_incoming_models_count(host):
    """A base with a LoRA on it is another base: the same as the original with that LoRA baked in, not the original."""
    graph = Graph()
    base = graph.unet("sd3_a")
    patched = graph.out("LoraLoaderModelOnly", model=base, lora_name="sd3.safetensors", strength_model=1.0)
    same, other = graph.similarity(base, base), graph.similarity(base, patched)
    values = [graph.value([n, 2]) for n in (same, other)]
    result = ok(host.run(graph))
    alike, unlike = [float(json.loads(result.text(v))) for v in values]
    assert alike == pytest.approx(1, abs=1e-4) and unlike < 0.99


def test_similarity(host):
    graph = Graph()
    source, target, lora = graph.unet("sd3_a"), graph.unet("sd3_b"), graph.lora("sd3")
    node = graph.similarity(source, target, subspace="share", lora=lora)
    whole = graph.similarity(source, target, subspace="share")
    number, heat = graph.value([node, 2]), graph.value([node, 1])
    result = ok(host.run(graph))
    assert 0 < float(json.loads(result.text(number))) < 1
    assert json.loads(result.text(heat))["spread"] > 0.05
    assert len(result.text(whole)) > len(result.text(node)) > 500
    assert result.outputs[node]["images"]


def test_without_matplotlib_there_is_a_note_instead_of_a_picture(host):
    graph = Graph()
    done = graph.similarity(graph.unet("sd3_a"), graph.unet("sd3_b"))
    node = graph.value(graph.out("Probe_NoPlots", after=[done, 2]))
    seen = json.loads(ok(host.run(graph)).text(node))
    assert seen["shape"] == [1, 120, 480, 3] and seen["spread"] > 0.05


@pytest.mark.parametrize("arch", ["sd15", "sd3"])
def test_bases_are_not_changed(host, arch):
    graph = Graph()
    models = graph.unet(f"{arch}_a"), graph.unet(f"{arch}_b")
    before = [graph.add("Probe_Digest", model=m) for m in models]
    first = ok(host.run(graph))
    moved = graph.transfer(graph.lora(arch), *models, method="prolora", k=8)
    graph.similarity(*models, lora=graph.lora(arch), k=8)
    graph.sample([moved, 1], arch)
    after = [graph.add("Probe_Digest", model=m, after=[moved, 3]) for m in models]
    second = ok(host.run(graph, seconds=300))
    for was, now in zip(before, after, strict=True):
        seen = json.loads(second.text(now))
        assert seen["sha256"] == json.loads(first.text(was))["sha256"] and seen["patched"] == []


def test_progress_moves_per_module(host):
    graph = Graph()
    moved = graph.transfer(graph.lora("vega"), graph.unet("vega_a"), graph.unet("vega_b"), method="lora-x", k=33)
    steps = ok(host.run(graph, seconds=300)).progress(moved)
    values, largest = [v for _, v, _ in steps], {m for _, _, m in steps}
    modules = len({key.split(".")[0] for key in load_file(host.models / "loras" / "vega.safetensors")})
    assert len(largest) == 1 and max(largest) >= modules
    assert values == sorted(values) and values[-1] == max(largest)
    assert len(set(values)) > 5, "the host shows ten a second at most"


def test_cancel_stops_within_a_module(host):
    graph = Graph()
    moved = graph.transfer(
        graph.lora("vega"), graph.unet("vega_a"), graph.unet("vega_b"), method="lora-x", subspace="energy", energy=0.61
    )
    saved = graph.save([moved, 0], "cancelled")
    asked = []

    def on_event(event):
        if event.type == "progress" and event.data["node"] == moved and event.data["value"] >= 2 and not asked:
            asked.append(event.data["value"])
            host.interrupt()

    result = host.run(graph, seconds=300, on_event=on_event)
    assert result.status == "interrupted" and result.error["node_id"] == moved
    steps = result.progress(moved)
    assert steps[-1][1] < steps[-1][2]
    assert steps[-1][1] <= asked[0] + 3, "modules done after cancel; the request itself takes a moment"
    assert not list((host.base / "output" / "loras").glob("cancelled*")) and saved not in result.outputs
    # and the next prompt runs as if nothing had been
    graph = Graph()
    node = graph.add(NODE + "LoadLoRA", lora_name="sd3.safetensors")
    graph.value([node, 1])
    ok(host.run(graph))
