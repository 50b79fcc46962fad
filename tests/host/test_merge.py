"""Merging inside ComfyUI: the merged file against a chain of core's loaders, the nodes' inputs, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from graphs import NODE, Graph
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.host
ARCHITECTURES = ["sd15", "vega", "sd3", "flux"]
LEGO = dict(
    rank="auto", k=16, energy=0.95, units="canonical", parameter_reweighting=True, output_reweighting=True, seed=0
)
ANY = dict(LEGO, method="concat", density=0.5)


@pytest.fixture(scope="module")
def shelf(host):
    """For each architecture a second LoRA of rank 6 and a third of rank 3 on half the modules, beside the first."""
    folder = host.models / "loras"
    for arch in ARCHITECTURES:
        first = load_file(folder / f"{arch}.safetensors")
        modules = [k.removesuffix(".alpha") for k in first if k.endswith(".alpha")]
        save_file(like(first, modules, 6, 11), folder / f"{arch}_second.safetensors")
        save_file(like(first, modules[::2], 3, 12), folder / f"{arch}_third.safetensors")
    return host


def like(first: dict, modules: list[str], rank: int, seed: int) -> dict:
    """A LoRA of another rank for the same weights, about as strong."""
    dice, out = torch.Generator().manual_seed(seed), {}
    for module in modules:
        for half, name in ((1, "up"), (0, "down")):
            old = first[f"{module}.lora_{name}.weight"]
            shape = [rank if i == half else n for i, n in enumerate(old.shape)]
            out[f"{module}.lora_{name}.weight"] = (torch.randn(shape, generator=dice) * old.float().std() / 2).half()
        out[f"{module}.alpha"] = torch.tensor(2.0 * rank)
    return out


def ok(result):
    assert result.status == "success", result.message
    return result


def merged(graph: Graph, names: list[str], strengths: str = "1", node: str = "MergeLoRAs", **more) -> str:
    inputs = {f"loras.lora_{i}": graph.lora(name) for i, name in enumerate(names)}
    settings = ANY if node == "MergeLoRAs" else LEGO
    return graph.add(NODE + node, **inputs, strengths=strengths, **{**settings, **more})


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_sum_is_a_chain_of_loaders(shelf, arch):
    """Saved in fp16 and applied once by core's loader: the same weights as three loaders, text encoder included."""
    graph = Graph()
    names = [arch, f"{arch}_second", f"{arch}_third"]
    strengths = "0.8, 1:0.5, -0.3"
    made = merged(graph, names, strengths)
    path = ok(shelf.run(graph | {"s": saved([made, 0], f"sum_{arch}")})).text("s").removeprefix("Saved ")
    state = load_file(path)
    assert {t.dtype for k, t in state.items() if not k.endswith(".alpha")} == {torch.float16}

    graph = Graph()
    model, clip = graph.unet(f"{arch}_a"), graph.clip()
    chain = [model, clip]
    for name, on_model, on_clip in zip(names, (0.8, 1.0, -0.3), (0.8, 0.5, -0.3), strict=True):
        loader = graph.add(
            "LoraLoader",
            model=chain[0],
            clip=chain[1],
            lora_name=f"{name}.safetensors",
            strength_model=on_model,
            strength_clip=on_clip,
        )
        chain = [[loader, 0], [loader, 1]]
    once = graph.add(
        "LoraLoader", model=model, clip=clip, lora_name=path.split("/loras/")[1], strength_model=1.0, strength_clip=1.0
    )
    node = graph.add("Probe_Compare", a=[once, 0], b=chain[0], clip_a=[once, 1], clip_b=chain[1])
    seen = json.loads(ok(shelf.run(graph)).text(node))
    print(f"{arch}: {seen['worst']:.1e} over {len(seen['patched'])} weights")
    assert seen["worst"] <= 1e-3 and seen["largest_change"] > 0.2
    assert any(name.startswith("clip_l.") for name in seen["patched"]) == (arch == "sd15")


def saved(lora: list, prefix: str) -> dict:
    inputs = dict(lora=lora, filename_prefix=prefix, folder="output/loras", dtype="same", layout="same")
    return {"class_type": NODE + "SaveLoRA", "inputs": inputs}


def test_lego_merge(shelf):
    graph = Graph()
    node = merged(graph, ["sd15", "sd15_second"], "0.8, -1", "LegoMerge", rank="fixed", k=7)
    state, plot = graph.value([node, 0]), graph.value([node, 2])
    result = ok(shelf.run(graph))
    assert "sd15.safetensors × 0.8" in result.text(node) and "rank 7" in result.text(node)
    assert result.outputs[node]["images"]
    assert json.loads(result.text(plot))["spread"] > 0.05
    kept = json.loads(result.text(state))
    assert kept["type"] == "LoraState" and kept["metadata"]["ss_network_module"] == "networks.lora"
    assert "ss_tag_frequency" in kept["metadata"] and "lora_graft.loras" in kept["metadata"]


def test_every_method_of_the_menu(shelf):
    menu = json.loads(shelf.get("/object_info/LoraGraft_MergeLoRAs"))["LoraGraft_MergeLoRAs"]["input"]["required"]
    methods = menu["method"][1]["options"]
    assert {"concat", "svd", "lego", "linear"} <= set(methods)
    for method in methods:
        graph = Graph()
        node = merged(graph, ["sd3", "sd3_second"], "1", method=method, rank="max")
        value = graph.value([node, 1])
        assert "became one" in ok(shelf.run(graph)).text(value)


def test_the_same_inputs_give_the_same_bytes(shelf):
    paths = []
    for name in ("first", "again"):
        graph = Graph()
        node = merged(graph, ["sd3", "sd3_second", "sd3_third"], "1", "LegoMerge", seed=5, rank="max")
        paths.append(ok(shelf.run(graph | {"s": saved([node, 0], f"bytes_{name}")})).text("s").removeprefix("Saved "))
    assert Path(paths[0]).read_bytes() == Path(paths[1]).read_bytes()


@pytest.mark.parametrize(("rule", "amount"), [("rank", 2), ("energy", 0.5)])
def test_resize(shelf, rule, amount):
    graph = Graph()
    node = graph.add(NODE + "ResizeLoRA", lora=graph.lora("sd15"), rule=rule, amount=amount, max_rank=3)
    result = ok(shelf.run(graph | {"s": saved([node, 0], f"small_{rule}")}))
    assert "became a LoRA of rank" in result.text(node) and result.outputs[node]["images"]
    downs = [t.shape[0] for k, t in load_file(result.text("s").removeprefix("Saved ")).items() if "lora_down" in k]
    assert max(downs) == (2 if rule == "rank" else max(downs)) <= 3


def test_a_stack_joins_the_connected_ones(shelf):
    graph = Graph()
    stack = graph.out("Probe_Stack", text='[["sd3_second.safetensors", 0.5, 1.0], ["sd3_third.safetensors", -1, -1]]')
    mixed = merged(graph, ["sd3"], "0.7", lora_stack=stack)
    alone = merged(graph, ["sd3", "sd3_second", "sd3_third"], "0.7, 0.5, -1")
    model = graph.unet("sd3_a")
    on = [
        graph.out(NODE + "ApplyLoRA", model=model, lora=[m, 0], strength_model=1.0, strength_clip=1.0)
        for m in (mixed, alone)
    ]
    node = graph.add("Probe_Compare", a=on[0], b=on[1])
    only = merged(graph, [], "1", lora_stack=stack)
    value = graph.value([only, 1])
    result = ok(shelf.run(graph))
    assert json.loads(result.text(node))["worst"] < 1e-6
    assert "sd3_second.safetensors × 0.5 (text encoder 1)" in result.text(value)


def test_a_dora_needs_its_model(shelf):
    folder = shelf.models / "loras"
    dora = load_file(folder / "sd3.safetensors")
    base = load_file(shelf.models / "diffusion_models" / "sd3_a.safetensors")
    for key in [k for k in dora if k.endswith(".alpha")]:
        name = key.removeprefix("lora_unet_").removesuffix(".alpha")
        weight = next(t for k, t in base.items() if k.removesuffix(".weight").replace(".", "_") == name)
        dora[f"{key.removesuffix('.alpha')}.dora_scale"] = weight.float().flatten(1).norm(dim=1)[:, None] * 1.1
    save_file(dora, folder / "sd3_dora.safetensors")
    graph = Graph()
    merged(graph, ["sd3_second", "sd3_dora"])
    result = shelf.run(graph)
    assert result.status == "error"
    for words in ("dora", "lora_unet_", "model input", "sd3_dora.safetensors"):
        assert words in result.message
    graph = Graph()
    model = graph.unet("sd3_a")
    node = merged(graph, ["sd3_second", "sd3_dora"], model=model)
    value = graph.value([node, 1])
    assert "act through their base weight" in ok(shelf.run(graph)).text(value)


@pytest.mark.parametrize(
    ("names", "strengths", "more", "words"),
    [
        ([], "1", {}, ["empty"]),
        (["sd3", "sd3_second"], "0, 0", {}, ["strengths are 0"]),
        (["sd3", "sd3_second"], "1, 2, 3", {}, ["2 LoRAs and 3 strengths"]),
        (["sd3", "sd3_second"], "1, much", {}, ["much"]),
        (["sd3", "sd3_second"], "1, nan", {}, ["'nan' is not a strength", "0.8:0.5"]),
        (["sd3", "flux"], "1", {}, ["different architectures", "sd3.safetensors", "flux.safetensors"]),
        (["sd15", "vega"], "1", {}, ["different architectures", "sd15.safetensors", "vega.safetensors"]),
        (["sd3", "sd3_second"], "1", {"rank": "fixed", "k": 11}, ["above the possible", "10"]),
    ],
)
def test_bad_input(shelf, names, strengths, more, words):
    graph = Graph()
    node = merged(graph, names, strengths, **more)
    result = shelf.run(graph | {"s": saved([node, 0], "never_merged")})
    assert result.status == "error", result.outputs
    for word in words:
        assert word in result.message
    assert not list((shelf.base / "output" / "loras").glob("never_merged*"))


def test_a_stack_of_a_file_that_is_gone(shelf):
    graph = Graph()
    merged(graph, ["sd3"], lora_stack=graph.out("Probe_Stack", text='[["gone.safetensors", 1, 1]]'))
    result = shelf.run(graph)
    assert result.status == "error" and "gone.safetensors" in result.message
