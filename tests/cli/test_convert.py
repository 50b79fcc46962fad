"""``lora-graft convert`` without --base: the model is told from the adapter."""

import json
from math import prod

import pytest
import torch
from lora_graft.names import known_weights
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def deltas(tensors):
    """Module key -> dense update of a LoRA in either spelling."""
    found = {}
    for key, up in tensors.items():
        for a, b in ((".lora_up.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_A.weight")):
            if key.endswith(a):
                stem = key.removesuffix(a)
                down = tensors[stem + b]
                scale = float(tensors.get(stem + ".alpha", torch.tensor(float(len(down))))) / len(down)
                found[stem] = scale * (up.flatten(1).float() @ down.flatten(1).float())
    return found


@pytest.fixture
def convert(cli, tmp_path):
    def run(source, layout, name, *more):
        out = tmp_path / name
        return cli("convert", source, "--layout", layout, "-o", out, *more), out

    return run


def sdxl():
    """A kohya LoRA for SDXL of the real sizes, with both text encoders."""
    tensors, generator = {}, torch.Generator().manual_seed(3)

    def add(key, m, n, *kernel):
        tensors[f"{key}.lora_down.weight"] = torch.randn(4, n, *kernel, generator=generator).half()
        tensors[f"{key}.lora_up.weight"] = torch.randn(m, 4, *(1 for _ in kernel), generator=generator).half()
        tensors[f"{key}.alpha"] = torch.tensor(2.0).half()

    for i in (0, 9):
        block = f"lora_unet_input_blocks_7_1_transformer_blocks_{i}"
        add(f"{block}_attn2_to_k", 1280, 2048)
        add(f"{block}_ff_net_0_proj", 10240, 1280)
    add("lora_unet_output_blocks_5_2_conv", 640, 640, 3, 3)
    add("lora_te1_text_model_encoder_layers_11_mlp_fc1", 3072, 768)
    add("lora_te2_text_model_encoder_layers_31_self_attn_out_proj", 1280, 1280)
    return tensors


def flux():
    """A diffusers LoRA for Flux of the real sizes: q, k, v and the MLP apart."""
    tensors, generator = {}, torch.Generator().manual_seed(4)
    block = "transformer.single_transformer_blocks.3."
    for name, rows in (("attn.to_q", 3072), ("attn.to_k", 3072), ("attn.to_v", 3072), ("proj_mlp", 12288)):
        tensors[f"{block}{name}.lora_A.weight"] = torch.randn(2, 3072, generator=generator)
        tensors[f"{block}{name}.lora_B.weight"] = torch.randn(rows, 2, generator=generator)
    return tensors


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "peft", "comfy"])
def test_the_same_file_as_with_the_base(convert, tmp_path, layout):
    base, source = tmp_path / "base.safetensors", tmp_path / "xl.safetensors"
    shapes = {
        ("model." if name.startswith("diffusion_model.") else "text_encoders.") + name: shape
        for name, shape in known_weights("SDXL").items()
        if len(shape) > 1
    }
    header, end = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "F8_E4M3", "shape": shape, "data_offsets": (end, end := end + prod(shape))}
    text = json.dumps(header).encode()
    with base.open("wb") as file:  # its zeros are a hole that takes no room on the disk
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    save_file(sdxl(), source)
    result, without = convert(source, layout, "without.safetensors")
    assert result.exit_code == 0, result.output
    result, given = convert(source, layout, "given.safetensors", "--base", base)
    assert result.exit_code == 0, result.output
    assert without.read_bytes() == given.read_bytes()


def test_sdxl_there_and_back(convert, tmp_path):
    source = tmp_path / "xl.safetensors"
    save_file(sdxl(), source, metadata={"ss_base_model_version": "sdxl_base_v1-0", "ss_output_name": "xl"})
    result, there = convert(source, "diffusers", "there.safetensors")
    assert result.exit_code == 0, result.output
    assert {key.split(".lora_")[0] for key in load_file(there)} >= {
        "unet.down_blocks.2.attentions.0.transformer_blocks.9.attn2.to_k",
        "unet.up_blocks.1.upsamplers.0.conv",
        "text_encoder.text_model.encoder.layers.11.mlp.fc1",
        "text_encoder_2.text_model.encoder.layers.31.self_attn.out_proj",
    }
    with safe_open(there, "pt") as file:
        assert file.metadata()["ss_output_name"] == "xl"
    result, back = convert(there, "kohya", "back.safetensors")
    assert result.exit_code == 0, result.output
    before, after = deltas(load_file(source)), deltas(load_file(back))
    assert before.keys() == after.keys()
    for key, update in before.items():
        torch.testing.assert_close(after[key], update, rtol=1e-3, atol=1e-2)  # half precision


def test_flux_joined_and_cut(convert, tmp_path):
    source = tmp_path / "flux.safetensors"
    save_file(flux(), source)
    result, there = convert(source, "kohya", "there.safetensors")
    assert result.exit_code == 0, result.output
    before, whole = deltas(load_file(source)), deltas(load_file(there))
    assert list(whole) == ["lora_unet_single_blocks_3_linear1"]
    torch.testing.assert_close(
        whole.popitem()[1],
        torch.cat(
            list(
                before[key]
                for key in (
                    "transformer.single_transformer_blocks.3.attn.to_q",
                    "transformer.single_transformer_blocks.3.attn.to_k",
                    "transformer.single_transformer_blocks.3.attn.to_v",
                    "transformer.single_transformer_blocks.3.proj_mlp",
                )
            )
        ),
        rtol=1e-4,
        atol=1e-4,
    )
    result, back = convert(there, "diffusers", "back.safetensors")
    assert result.exit_code == 0, result.output
    after = deltas(load_file(back))
    assert before.keys() == after.keys()
    for key, update in before.items():
        torch.testing.assert_close(after[key], update, rtol=1e-4, atol=1e-4)


def test_a_model_of_another_make_is_asked_for(convert, shelf):
    """The shelf's SD 1.5 has attention where the real one has none."""
    result, out = convert(shelf / "lora.safetensors", "comfy", "out.safetensors")
    assert result.exit_code == 1 and not out.exists()
    for part in ("SD 1.5", "lora_unet_up_blocks_0_attentions_0_proj_in", str(shelf / "lora.safetensors"), "--base"):
        assert part in result.stderr


def test_an_unknown_model_is_asked_for(convert, tmp_path):
    source = tmp_path / "odd.safetensors"
    save_file({"odd.layer.lora_up.weight": torch.ones(8, 2), "odd.layer.lora_down.weight": torch.ones(2, 8)}, source)
    result, out = convert(source, "diffusers", "out.safetensors")
    assert result.exit_code == 1 and not out.exists()
    for part in (str(source), "odd.layer", "--base"):
        assert part in result.stderr
    assert "Traceback" not in result.stderr
