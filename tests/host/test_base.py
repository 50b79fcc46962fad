"""ComfyUI's models as the jobs see them: weights as the host would use them, hashes that tell models apart."""

from __future__ import annotations

import json

import pytest
import torch
from graphs import NODE, Graph
from lora_graft import open_base, similarity
from lora_graft.io.comfy_quant import LAYOUTS
from lora_graft.kernels.spectral import SubspaceSize
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.host


def look(host, graph: Graph, node: str) -> dict:
    result = host.run(graph)
    assert result.status == "success", result.message
    return json.loads(result.text(node))


@pytest.mark.parametrize(("arch", "named"), [("sd15", "SD 1.5"), ("vega", "Vega"), ("sd3", "SD3"), ("flux", "Flux")])
def test_weights_are_the_files(host, arch, named):
    graph = Graph()
    seen = look(host, graph, graph.add("Probe_Base", model=graph.unet(f"{arch}_a")))
    assert seen["label"] == f"{arch}_a" and named in seen["architecture"]
    assert seen["worst"] == 0 and seen["sizes"].items() <= seen["shapes"].items() and not seen["unknown"]
    assert len(seen["shapes"]) == len(load_file(host.models / "diffusion_models" / f"{arch}_a.safetensors"))
    assert seen["fingerprint"] == seen["again"]
    assert bool(seen["slices"]) == (arch in ("sd3", "flux"))


def test_text_encoder_weights(host):
    graph = Graph()
    node = graph.add("Probe_Base", model=graph.unet("sd15_a"), clip=graph.clip())
    seen = look(host, graph, node)
    assert seen["worst"] == 0
    assert "clip_l.transformer.text_model.encoder.layers.11.mlp.fc2.weight" in seen["shapes"]


def test_hashes_tell_models_apart(host):
    looks = []
    for name in ("sd3_a", "sd3_b", "sd3_a"):
        graph = Graph()
        looks.append(look(host, graph, graph.add("Probe_Base", model=graph.unet(name))))
    a, b, again = looks
    assert a["fingerprint"] == again["fingerprint"] != b["fingerprint"]
    assert a["digests"] == again["digests"]
    assert all(a["digests"][name] != b["digests"][name] for name in a["digests"])


def test_loras_on_the_model_count(host):
    graph = Graph()
    model, lora = graph.unet("sd3_a"), graph.lora("sd3")
    patched = graph.out(NODE + "ApplyLoRA", model=model, lora=lora, strength_model=0.5, strength_clip=0.0)
    plain, with_lora = graph.add("Probe_Base", model=model), graph.add("Probe_Base", model=patched)
    result = host.run(graph)
    a, b = (json.loads(result.text(n)) for n in (plain, with_lora))
    assert b["worst"] < 1e-6 and a["fingerprint"] != b["fingerprint"] == b["again"]
    differing = {n for n in a["digests"] if a["digests"][n] != b["digests"][n]}
    assert differing and all("attn" in n or "mlp" in n for n in differing)

    graph = Graph()  # and the same after sampling, when the host has baked the LoRA into the weights it keeps
    model, lora = graph.unet("sd3_a"), graph.lora("sd3")
    patched = graph.out(NODE + "ApplyLoRA", model=model, lora=lora, strength_model=0.5, strength_clip=0.0)
    drawn = graph.sample(patched, "sd3")
    latent = graph[drawn]["inputs"]["latent"]
    plain, with_lora = (graph.add("Probe_Base", model=m, after=latent) for m in (model, patched))
    result = host.run(graph)
    c, d = (json.loads(result.text(n)) for n in (plain, with_lora))
    assert c["digests"] == a["digests"] and d["digests"] == b["digests"] and d["worst"] < 1e-6
    assert (c["fingerprint"], d["fingerprint"]) == (a["fingerprint"], b["fingerprint"])


def test_fp8_weights_come_as_numbers(host):
    graph = Graph()
    model = graph.out("UNETLoader", unet_name="sd3_a.safetensors", weight_dtype="fp8_e4m3fn")
    seen = look(host, graph, graph.add("Probe_Base", model=model))
    assert seen["worst"] == 0 and len(set(seen["digests"].values())) > 20
    assert "fp8 (e4m3)" in seen["storages"].values()


def test_scaled_fp8_weights_are_decoded(host):
    """ComfyUI's own quantised form: fp8 values, a scale per weight, a note of the format."""
    folder = host.models / "diffusion_models"
    plain = load_file(folder / "sd3_a.safetensors")
    scaled, original = {}, {}
    for key, weight in plain.items():
        if weight.ndim == 2 and ("attn.qkv" in key or "mlp.fc" in key) and key.endswith(".weight"):
            scale = weight.float().abs().max() / 448
            stored = (weight.float() / scale).to(torch.float8_e4m3fn)
            scaled[key] = stored
            scaled[key.replace(".weight", ".weight_scale")] = scale
            note = json.dumps({"format": "float8_e4m3fn"}).encode()
            scaled[key.replace(".weight", ".comfy_quant")] = torch.tensor(list(note), dtype=torch.uint8)
            original["diffusion_model." + key] = float((stored.float() * scale).norm())
        else:
            scaled[key] = weight
    save_file(scaled, folder / "sd3_scaled.safetensors")
    graph = Graph()
    model = graph.unet("sd3_scaled")
    seen = look(host, graph, graph.add("Probe_Base", model=model))
    assert original and seen["worst"] < 1e-6
    assert set(seen["shapes"]) == {"diffusion_model." + key for key in plain}

    graph = Graph()  # decoded, it is nearly the model it was made from; undecoded it would be 448 times too large
    node = graph.similarity(graph.unet("sd3_a"), graph.unet("sd3_scaled"), subspace="share")
    value = graph.value([node, 2])
    result = host.run(graph)
    assert result.status == "success", result.message
    assert float(result.text(value)) > 0.95


@pytest.mark.parametrize("kind", ["nvfp4", "mxfp8", "int8_tensorwise", "convrot_w4a4", "asym_w4a8_int8"])
def test_quantised_layouts_are_read_alike_from_the_graph_and_from_the_file(host, kind):
    """The host's own loader takes the file; what it multiplies out is what the pack reads from the disk."""
    kitchen = pytest.importorskip("comfy_kitchen.tensor", reason="comfy-kitchen is not installed")
    folder = host.models / "diffusion_models"
    layout = getattr(kitchen, LAYOUTS[kind].name)
    options = {"convrot_groupsize": 16} if kind in ("convrot_w4a4", "asym_w4a8_int8") else {}
    tensors, count = {}, 0
    for key, weight in load_file(folder / "sd3_a.safetensors").items():
        if weight.ndim != 2 or not key.endswith(("attn.qkv.weight", "mlp.fc1.weight")):
            tensors[key] = weight
            continue
        values, params = layout.quantize(weight.float(), **options)
        stored = layout.state_dict_tensors(values, params)
        tensors |= {key + suffix: tensor.contiguous() for suffix, tensor in stored.items()}
        note = json.dumps({"format": kind, **options}).encode()
        tensors[key.replace(".weight", ".comfy_quant")] = torch.tensor(list(note), dtype=torch.uint8)
        count += 1
    assert count
    file = folder / f"sd3_{kind}.safetensors"
    save_file(tensors, file)

    graph = Graph()
    seen = look(host, graph, graph.add("Probe_Base", model=graph.unet(f"sd3_{kind}")))
    read = open_base(file)
    assert seen["worst"] < 1e-6 and seen["shapes"] == {name: list(shape) for name, shape in read.weights().items()}
    quantised = [name for name in read.weights() if name.endswith(("attn.qkv.weight", "mlp.fc1.weight"))]
    assert {seen["storages"][name] for name in quantised} == {read.storage(name) for name in quantised} != {""}

    graph = Graph()
    node = graph.similarity(graph.unet("sd3_a"), graph.unet(f"sd3_{kind}"))
    value = graph.value([node, 2])
    result = host.run(graph)
    assert result.status == "success", result.message
    report = similarity(open_base(folder / "sd3_a.safetensors"), read, size=SubspaceSize(k=16))
    assert float(result.text(value)) == pytest.approx(report.totals["mean_similarity"], abs=0.01)
