"""Distillation inside ComfyUI: from prompts to a picture, on five architectures, with every kind of adapter."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from distill_graph import DistillGraph, family, frames, ok, parsed  # noqa: F401
from graphs import NODE
from safetensors import safe_open

pytestmark = pytest.mark.host
KINDS = ["lora", "lora-x", "lora-x-diagonal", "loha", "lokr", "dora"]


def test_from_prompts_to_a_picture_on_an_unrelated_base(family):  # noqa: F811
    graph = DistillGraph()
    models, lora, vae = graph.models("family_a", "family_s"), graph.lora("family_frame_a"), graph.vae()
    prompts = graph.out(
        NODE + "SyntheticPrompts",
        seed_prompts="a red seven\ngreen digit one",
        count=12,
        seed=1,
        template="{seed}\n{tags}",
        lora=lora,
        guard_share=0.0,
    )
    data = graph.dataset(models, lora, prompts=prompts, source_vae=vae, count=32, least_action=0.05)
    node = graph.distill(
        [data, 0], models, lora, steps=16, lessons=128, batch=32, rank=8, pictures=3, source_vae=vae, target_vae=vae
    )
    saved = graph.save([node, 0], "chain/frame_on_s")
    drawn = [graph.pictures(model) for model in (models["target"], [node, 1])]
    previews, curve, sheet, share = (graph.value(out) for out in ([data, 1], [node, 2], [node, 3], [node, 5]))
    result = ok(family.run(graph, seconds=300))
    alone, taught = (frames(family, result, name) for name in drawn)
    assert alone < 0.2 and taught > 0.6
    report = result.text(node)
    assert "family_frame_a.safetensors of family_a was taught to family_s in 16 steps" in report
    assert "Both bases share one latent space" in report and "15 weights that the adapter changes" in report
    explained = float(result.text(share))
    assert explained > 0.5 and f"reproduces {explained:.0%} of the effect" in report.replace(" %", "%")
    assert "16 of 16 samples were kept" in result.text(data)
    assert parsed(result, previews)["shape"] == [16, 64, 64, 3] and parsed(result, previews)["spread"] > 0.05
    assert parsed(result, curve)["shape"] == [1, 420, 768, 3]
    shape = parsed(result, sheet)["shape"]
    assert shape[0] == 1 and shape[1] > 3 * 64 and shape[2] > 3 * 64 and parsed(result, sheet)["spread"] > 0.05
    assert len(result.outputs[node]["images"]) == 1, "the sheet is shown under the node"

    path = Path(result.text(saved).removeprefix("Saved "))
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["lora_graft.job"] == "distill" and json.loads(metadata["ss_tag_frequency"])
    core = graph.out(
        "LoraLoader",
        model=models["target"],
        clip=models["target_clip"],
        strength_model=1.0,
        lora_name=path.relative_to(family.base / "output" / "loras").as_posix(),
        strength_clip=1.0,
    )
    same, again = graph.compare([node, 1], core), graph.pictures(core)
    result = ok(family.run(graph, seconds=300))
    assert node not in result.ran(), "the node's result was kept by the host"
    seen = parsed(result, same)
    assert seen["worst"] == 0 and seen["largest_change"] > 0.01 and len(seen["patched"]) == 15
    assert frames(family, result, again) == taught


@pytest.mark.parametrize(
    ("arch", "kinds"),
    [("sd15", ["lora", "loha"]), ("vega", ["lokr", "dora"]), ("sd3", KINDS), ("flux", ["lora-x", "dora"])],
)
def test_every_architecture_and_kind_reloads_as_it_was(family, arch, kinds):  # noqa: F811
    def build():
        graph = DistillGraph()
        models, lora = graph.models(f"{arch}_a", f"{arch}_b"), graph.lora(arch)
        data = graph.dataset(models, lora, count=4, steps=2, cfg=1.0)
        nodes = [
            graph.distill([data, 0], models, lora, kind=kind, steps=2, lessons=4, batch=4, learning_rate=1e-3)
            for kind in kinds
        ]
        return graph, models, nodes

    graph, _, nodes = build()
    saved = [graph.save([node, 0], f"kinds/{arch}_{kind}") for node, kind in zip(nodes, kinds, strict=True)]
    result = ok(family.run(graph, seconds=300))
    files = [result.text(name).split("/loras/")[1] for name in saved]
    reports = [result.text(node) for node in nodes]
    graph, models, nodes = build()
    cores = [
        graph.out("LoraLoaderModelOnly", model=models["target"], lora_name=file, strength_model=1.0) for file in files
    ]
    compared = [graph.compare([node, 1], core) for node, core in zip(nodes, cores, strict=True)]
    result = ok(family.run(graph, seconds=300))
    for kind, report, node in zip(kinds, reports, compared, strict=True):
        seen = parsed(result, node)
        assert seen["worst"] == 0 and seen["largest_change"] > 1e-4, kind
        assert f"{len(seen['patched'])} weights that the adapter changes" in report
        if arch == "sd15":
            assert "changes the text encoder" in report
            assert all(name.startswith("diffusion_model.") for name in seen["patched"])


def test_prompts_of_every_length(family):  # noqa: F811
    """One, two and three chunks of the text encoder's 77 tokens, and none, in one batch."""
    graph = DistillGraph()
    models, lora = graph.models("sd15_a", "sd15_b"), graph.lora("sd15")
    prompts = "\n".join(["a box", "a box, " * 40, "a red box on a table, " * 25])
    data = graph.dataset(models, lora, count=6, steps=1, cfg=2.0, prompts=prompts, negative="bad, " * 60)
    node = graph.distill([data, 0], models, lora, steps=1, lessons=8, batch=8)
    assert "was taught" in ok(family.run(graph, seconds=300)).text(node)


def test_dataset_from_disk(family):  # noqa: F811
    graph = DistillGraph()
    models, lora = graph.models("family_a", "family_b"), graph.lora("family_slant_a")
    data = graph.dataset(models, lora, seed=5)
    saved = graph.add(NODE + "SaveDataset", dataset=[data, 0], filename_prefix="mine/slant")
    first = graph.distill([data, 0], models, lora)
    result = ok(family.run(graph, seconds=300))
    path = Path(result.text(saved))
    assert path.relative_to(family.base / "output" / "datasets") == Path("mine/slant_00001.safetensors")
    loaded = graph.add(NODE + "LoadDataset", file="mine/slant_00001.safetensors")
    second = graph.distill([loaded, 0], models, lora)
    same, report = graph.compare([first, 1], [second, 1]), graph.value([loaded, 1])
    result = ok(family.run(graph, seconds=300))
    assert parsed(result, same)["worst"] == 0 and parsed(result, same)["largest_change"] > 0
    assert "8 of 8 samples were kept" in result.text(report) and second in result.ran()
    graph = DistillGraph()
    gone = graph.add(NODE + "LoadDataset", file="mine/gone.safetensors")
    graph.value([gone, 1])
    assert family.run(graph).status == "rejected"


def test_several_loras_become_one(family):  # noqa: F811
    graph = DistillGraph()
    models = graph.models("family_a", "family_a")
    loras = [graph.lora(f"family_{effect}_a") for effect in ("frame", "stripes")]
    data = graph.dataset(models, *loras)
    node = graph.distill([data, 0], models, *loras, strengths="1, 0.8")
    report = ok(family.run(graph, seconds=300)).text(node)
    assert "family_frame_a.safetensors and family_stripes_a.safetensors of family_a" in report


def test_another_latent_space(family):  # noqa: F811
    """Flux has other latents than SD3: `auto` takes the way through pictures, and both VAEs are needed for it."""
    graph = DistillGraph()
    models, lora = graph.models("family_a", "flux_a"), graph.lora("family_frame_a")
    vaes = {"source_vae": graph.vae(), "target_vae": graph.vae("taesd16")}
    data = graph.dataset(models, lora, count=4, **vaes)
    node = graph.distill([data, 0], models, lora, **vaes, pictures=2, modules="attention", batch=4, lessons=4)
    sheet = graph.value([node, 3])
    result = ok(family.run(graph, seconds=300))
    assert "different latent spaces" in result.text(node) and "from pictures" in result.text(node)
    assert parsed(result, sheet)["spread"] > 0.02
    for objective, more, message in (("auto", {}, "a VAE is missing"), ("difference", vaes, "'difference' compares")):
        node = graph.distill([data, 0], models, lora, **more, objective=objective)
        broken = family.run(graph)
        assert broken.status == "error" and broken.error["node_id"] == node and message in broken.message
        del graph[node]
    assert "SD3" in broken.message and "Flux" in broken.message


def test_references_choose_samples(family):  # noqa: F811
    """A vision model that sees the border: pictures with the golden frame are accepted, the source's own are not."""
    graph = DistillGraph()
    models, lora, vae = graph.models("family_a", None), graph.lora("family_frame_a"), graph.vae()
    known = graph.dataset(models, lora, seed=300, count=6, source_vae=vae)
    eye = graph.out("Probe_Eye")
    data = graph.dataset(models, lora, source_vae=vae, references=[known, 1], clip_vision=eye)
    result = ok(family.run(graph, seconds=300))
    assert "likeness" in result.text(data) and "16 of 16 samples were kept" in result.text(data)
    nothing = graph.dataset(models, lora, source_vae=vae, references=[known, 1], clip_vision=eye, strengths="0.0")
    result = ok(family.run(graph, seconds=300))
    kept = int(re.search(r"(\d+) of 16 samples were kept", result.text(nothing))[1])
    assert kept < 12, "the source's own pictures are no longer told apart from themselves"
    graph = DistillGraph()
    models = graph.models("family_a", None)
    data = graph.dataset(
        models,
        graph.lora("family_frame_a"),
        references=graph.out("EmptyImage", width=64, height=64, batch_size=1, color=0),
    )
    broken = family.run(graph)
    assert broken.status == "error" and "Connect clip_vision and source_vae" in broken.message


def test_matched_strength_is_built_into_the_adapter(family):  # noqa: F811
    graph = DistillGraph()
    models, lora = graph.models("family_a", "family_b"), graph.lora("family_frame_a")
    drawing = {
        "width": 64,
        "height": 64,
        "steps": 4,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "negative": "",
        "batch": 16,
    }
    same, other = (
        graph.add(NODE + "MatchStrength", lora=lora, original=lora, prompts="", seed=0, **drawing, **chosen)
        for chosen in (models | {"target": models["source"], "target_clip": models["source_clip"]}, models)
    )
    values = [graph.value([node, weight_slice]) for node in (same, other) for weight_slice in (1, 2)]
    result = ok(family.run(graph, seconds=300))
    on_itself, nothing_left, strength, residual = (float(result.text(value)) for value in values)
    assert on_itself == pytest.approx(1, abs=0.05) and nothing_left < 0.05
    assert 0.6 < strength < 2 and residual < 0.6
    assert f"Strength {strength:.2f} makes the LoRA act on family_b" in result.text(other)
    ours = graph.add(NODE + "ApplyLoRA", model=models["target"], lora=[other, 0], strength_model=1.0, strength_clip=1.0)
    core = graph.out(
        "LoraLoaderModelOnly", model=models["target"], lora_name="family_frame_a.safetensors", strength_model=strength
    )
    compared = graph.compare([ours, 0], core)
    seen = parsed(ok(family.run(graph, seconds=300)), compared)
    assert seen["worst"] < 2e-3 and len(seen["patched"]) == 15


def test_an_effort_stands_for_what_is_not_set_and_older_workflows_set_everything(family):  # noqa: F811
    graph = DistillGraph()
    models, lora = graph.models("family_a", "family_s"), graph.lora("family_frame_a")
    data = graph.dataset(models, lora, count=0, steps=1, effort="quick")
    new = graph.distill([data, 0], models, lora, steps=0, accumulation=0, lessons=8, guards=0, effort="quick")
    old = graph.distill([data, 0], models, lora, guards=0)
    result = ok(family.run(graph, seconds=300))
    assert "8 samples of family_a with its LoRA" in result.text(data) and "8 of family_s" in result.text(data)
    assert "was taught to family_s in 20 steps" in result.text(new)
    assert "Effort: quick, but for what was set by itself (noisy latents)." in result.text(new)
    assert "was taught to family_s in 2 steps" in result.text(old)
    assert "Effort: normal, but for what was set by itself (steps, accumulation, noisy latents)." in result.text(old)
