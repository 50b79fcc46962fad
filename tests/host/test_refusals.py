"""Bad input: the prompt's error says what is wrong and where, and nothing is written."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from graphs import NODE, Graph
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def bad(host):
    """Broken copies of the SD3 LoRA in models/loras."""
    folder = host.models / "loras"
    good = load_file(folder / "sd3.safetensors")
    key = next(k for k in good if k.endswith(".lora_up.weight"))
    module = key.removesuffix(".lora_up.weight")
    whole = (folder / "sd3.safetensors").read_bytes()
    (folder / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "text.safetensors").write_text("<!DOCTYPE html><html>not found</html>" * 9)
    (folder / "pickle.pt").write_bytes(pickle.dumps({"a": 1}))
    save_file(good | {key: torch.full_like(good[key], torch.nan)}, folder / "nan.safetensors")
    save_file({k: v for k, v in good.items() if k != key}, folder / "half.safetensors")
    zero = {f"{module}.lora_up.weight": good[key][:, :0], f"{module}.lora_down.weight": torch.zeros(0, 128)}
    save_file(good | {k: v.contiguous() for k, v in zero.items()}, folder / "zero.safetensors")
    wide = {f"{module}.lora_up.weight": torch.ones(7, 4), f"{module}.lora_down.weight": torch.ones(4, 9)}
    save_file(good | wide, folder / "shapes.safetensors")
    save_file({"some.other.tensor": torch.ones(3, 3)}, folder / "nothing.safetensors")
    return module


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("truncated.safetensors", ["truncated.safetensors"]),
        ("text.safetensors", ["text.safetensors", "safetensors"]),
        ("pickle.pt", ["pickle.pt", "pickle"]),
        ("nan.safetensors", ["nan.safetensors", "NaN", "MODULE"]),
        ("half.safetensors", ["half.safetensors", "missing", "MODULE"]),
        ("zero.safetensors", ["zero.safetensors", "rank", "MODULE"]),
        ("nothing.safetensors", ["nothing.safetensors", "no adapter"]),
    ],
)
def test_unusable_files(host, bad, name, words):
    graph = Graph()
    graph.save(graph.out(NODE + "LoadLoRA", lora_name=name), "never")
    result = host.run(graph)
    assert result.status == "error"
    for word in words:
        assert word.replace("MODULE", bad).lower() in result.message.lower()
    assert not list((host.base / "output" / "loras").glob("never*"))


def test_a_file_that_is_gone(host):
    graph = Graph()
    graph.save(graph.out(NODE + "LoadLoRA", lora_name="gone.safetensors"), "never")
    result = host.run(graph)
    assert result.status == "rejected" and "There is no file gone.safetensors" in json.dumps(result.error)


@pytest.mark.parametrize("job", ["apply", "transfer", "similarity"])
def test_lora_for_another_architecture(host, job):
    graph = Graph()
    model, lora = graph.unet("sd3_a"), graph.lora("flux")
    if job == "apply":
        out = graph.out(NODE + "ApplyLoRA", model=model, lora=lora, strength_model=1.0, strength_clip=1.0)
        graph.value(out)
    elif job == "transfer":
        graph.transfer(lora, model, graph.unet("sd3_b"))
    else:
        graph.similarity(model, graph.unet("sd3_b"), lora=lora)
    result = host.run(graph)
    assert result.status == "error"
    assert "flux.safetensors" in result.message and "looks like" in result.message
    assert "Flux" in result.message and "sd3_a" in result.message


@pytest.mark.parametrize("job", ["apply", "transfer"])
def test_shapes_that_fit_no_module(host, bad, job):
    graph = Graph()
    model, lora = graph.unet("sd3_a"), graph.lora("shapes")
    if job == "apply":
        graph.value(graph.out(NODE + "ApplyLoRA", model=model, lora=lora, strength_model=1.0, strength_clip=1.0))
    else:
        graph.transfer(lora, model, graph.unet("sd3_b"))
    result = host.run(graph)
    assert result.status == "error"
    assert "shapes.safetensors" in result.message and bad in result.message and "7×9" in result.message


def test_target_of_another_architecture(host):
    graph = Graph()
    graph.transfer(graph.lora("sd3"), graph.unet("sd3_a"), graph.unet("flux_a"))
    result = host.run(graph)
    assert result.status == "error"
    assert "flux_a (Flux)" in result.message and "another architecture" in result.message
    assert "sd3.safetensors" in result.message


@pytest.mark.parametrize("prefix", ["../outside", "/tmp/outside", "", "folder/"])
def test_saving_outside_the_folder(host, prefix):
    graph = Graph()
    graph.save(graph.lora("sd3"), prefix)
    result = host.run(graph)
    assert result.status == "error" and "does not name a file inside" in result.message
    assert not list(host.base.glob("output/outside*"))


def test_another_layout_of_a_lora_that_does_not_tell_its_model(host):
    graph = Graph()
    graph.save(graph.lora("flux"), "never", layout="diffusers")
    result = host.run(graph)
    assert result.status == "error" and "looks like one for Flux" in result.message
    assert "the model input of the node" in result.message
