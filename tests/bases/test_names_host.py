"""Every key ComfyUI understands resolves to the same weight and rows here, and comes back as a key it understands."""

import pytest
from lora_graft.bases.file import stack
from lora_graft.bases.layout import canonical_parts
from lora_graft.names import WeightSlice, guess_architecture, names_for, style_of

DENOISERS = [
    "SD 1.5",
    "SD 2.x",
    "SDXL",
    "SSD-1B",
    "Segmind Vega",
    "KOALA",
    "KOALA 700M",
    "SDXL refiner",
    "SD3",
    "SD3.5 large",
    "SD3.5 medium",
    "Flux",
    "Flux schnell",
    "Z-Image",
    "Qwen-Image",
]
TEXTS = ["SD 1.5", "SD 2.x", "SDXL", "SDXL refiner", "SD3", "SD3 without T5", "Flux"]
LANGUAGE = ["Z-Image", "Anima", "Qwen-Image", "Lumina 2", "NetaYume", "Flux.2", "Wan"]  # one language model each
WHOLE = [("SD 1.5", "SD 1.5"), ("SD 2.x", "SD 2.x"), ("SDXL", "SDXL"), ("SD3.5 medium", "SD3"), ("Flux", "Flux")]


def host(maps, *families):
    """Weights and alias -> WeightSlice of the host, for keys whose weight exists."""
    weights, aliases = {}, {}
    for family in families:
        weights |= {name: tuple(shape) for name, shape in maps[family]["weights"].items()}
        for alias, (name, offset, function) in maps[family]["aliases"].items():
            assert function in (None, "swap_scale_shift")
            rows = tuple(offset[1:]) if offset else None
            assert offset is None or offset[0] == 0
            aliases[alias] = WeightSlice(name, rows, function is not None)
    return weights, {alias: weight_slice for alias, weight_slice in aliases.items() if weight_slice.name in weights}


@pytest.mark.parametrize(
    "families",
    [(f,) for f in DENOISERS]
    + [(f"text {f}",) for f in (*TEXTS, *LANGUAGE, "HunyuanVideo")]
    + [(d, f"text {t}") for d, t in WHOLE],
    ids="+".join,
)
def test_every_host_key(host_maps, families):
    weights, expected = host(host_maps, *families)
    names = names_for(weights)
    assert len(expected) > 200
    assert {alias: names.resolve(alias) for alias in expected} == expected
    for alias, weight_slice in expected.items():
        back = names.key_for(weight_slice, style_of(alias, weight_slice))
        assert expected.get(back) == weight_slice, f"{alias} comes back as {back}, which the host does not read alike"


@pytest.mark.parametrize("family", DENOISERS)
def test_family_is_recognised(host_maps, family):
    weights, _ = host(host_maps, family)
    assert guess_architecture(weights) == {"KOALA 700M": "KOALA", "Flux schnell": "Flux"}.get(family, family)


def test_keys_of_a_smaller_relative_load_there(host_maps):
    """An adapter moved from SDXL to SSD-1B: each style's key for a shared weight is one the host knows there."""
    source_weights, source = host(host_maps, "SDXL")
    target_weights, target = host(host_maps, "SSD-1B")
    names = names_for(target_weights)
    shared = {alias: weight_slice for alias, weight_slice in source.items() if weight_slice.name in target_weights}
    assert len(shared) > 1000
    for alias, weight_slice in shared.items():
        # block numbers of the two agree, so the very same key must come out
        assert names.rekey(alias, weight_slice, weight_slice) == alias and target[alias] == weight_slice


def test_layouts(host_maps):
    sdxl = names_for(host(host_maps, "SDXL", "text SDXL")[0])
    weight_slice = WeightSlice("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight")
    diffusers = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    assert sdxl.layout_key(weight_slice, "kohya") == "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    assert sdxl.layout_key(weight_slice, "diffusers") == "unet." + diffusers
    assert sdxl.layout_key(weight_slice, "peft") == "base_model.model." + diffusers
    assert sdxl.layout_key(weight_slice, "comfy") == weight_slice.name.removesuffix(".weight")
    text = WeightSlice("clip_g.transformer.text_model.encoder.layers.3.mlp.fc1.weight")
    assert sdxl.layout_key(text, "kohya") == "lora_te2_text_model_encoder_layers_3_mlp_fc1"
    assert sdxl.layout_key(text, "diffusers") == "text_encoder_2.text_model.encoder.layers.3.mlp.fc1"
    assert sdxl.layout_key(text, "comfy") == "text_encoders.clip_g.transformer.text_model.encoder.layers.3.mlp.fc1"
    sd15 = names_for(host(host_maps, "SD 1.5", "text SD 1.5")[0])
    weight_slice = WeightSlice("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
    assert (
        sd15.layout_key(weight_slice, "kohya") == "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    )
    text = WeightSlice("clip_l.transformer.text_model.encoder.layers.3.mlp.fc1.weight")
    assert sd15.layout_key(text, "kohya") == "lora_te_text_model_encoder_layers_3_mlp_fc1"
    with pytest.raises(ValueError):
        sd15.layout_key(weight_slice, "tarot")


def test_fused_slices(host_maps):
    flux = names_for(host(host_maps, "Flux")[0])
    assert flux.slices("diffusion_model.single_blocks.0.linear1.weight") == {
        (0, 3072),
        (3072, 3072),
        (6144, 3072),
        (9216, 12288),
    }
    assert flux.slices("diffusion_model.single_blocks.0.linear2.weight") == set()
    assert flux.resolve("diffusion_model.single_blocks.0.linear1_qkv").rows == (0, 9216)


@pytest.mark.parametrize("family", ["SD 1.5", "SD 2.x", "SDXL", "SDXL refiner", "SD3", "Flux"])
def test_checkpoints_the_host_saves(host_maps, family):
    """From the names in a checkpoint we reach the names the host works with, shapes included."""
    text, denoiser = host_maps[f"text {family}"], host_maps[family]["weights"]
    stored = {name: tuple(shape) for name, shape in text["stored"].items()}
    stored |= {"model." + name: tuple(shape) for name, shape in denoiser.items()}
    found = {name: stack(parts, stored, dict.fromkeys(stored)).shape for name, parts in canonical_parts(stored).items()}
    expected = {name: tuple(shape) for name, shape in (text["weights"] | denoiser).items() if shape}
    missing = expected.keys() - found.keys()
    assert all(name.endswith("text_projection.weight") for name in missing)  # the host leaves CLIP-L's out of some
    assert found == {name: shape for name, shape in expected.items() if name not in missing}


@pytest.mark.parametrize("family", LANGUAGE)
def test_an_encoders_file_holds_what_the_host_makes_of_it(host_maps, family):
    weights, _ = host(host_maps, f"text {family}")
    weights = {name: shape for name, shape in weights.items() if ".transformer." in name}
    stored = {name.partition(".transformer.")[2]: shape for name, shape in weights.items()}
    assert set(canonical_parts(stored)) == set(weights)
    seeing = {"model.": "model.language_model.", "visual.": "model.visual."}
    renamed = {
        next((new + name[len(old) :] for old, new in seeing.items() if name.startswith(old)), name): shape
        for name, shape in stored.items()
    }
    assert set(canonical_parts(renamed)) == set(weights)


@pytest.mark.parametrize("family", ["Z-Image", "Lumina 2", "Wan"])
def test_keys_as_trainers_write_them_for_a_language_model(host_maps, family):
    """kohya, OneTrainer, PEFT and ComfyUI, each key for one weight; and the layouts that are written."""
    weights, expected = host(host_maps, f"text {family}")
    names = names_for(weights)
    inner = "encoder.block.3.layer.0.SelfAttention.q" if family == "Wan" else "layers.3.self_attn.q_proj"
    module, encoder = inner if family == "Wan" else f"model.{inner}", next(iter(weights)).split(".")[0]
    target = WeightSlice(f"{encoder}.transformer.{module}.weight")
    assert target.name in weights
    keys = [
        f"text_encoders.{encoder}.transformer.{module}",
        f"text_encoders.transformer.{module}",
        f"text_encoders.another_name.transformer.{module}",
        f"text_encoder.{inner}",
        f"text_encoder.{module}",
        f"base_model.model.{module}",
        f"base_model.model.{inner}",
        "lora_te_" + inner.replace(".", "_"),
        "lora_te_" + module.replace(".", "_"),
        "lora_te1_" + inner.replace(".", "_"),
    ]
    if family != "Wan":
        keys += [f"base_model.model.model.language_model.{inner}", f"text_encoder.model.language_model.{inner}"]
    assert {key: names.resolve(key) for key in keys} == dict.fromkeys(keys, target)
    assert names.layout_key(target, "peft") == f"base_model.model.{module}"
    assert names.layout_key(target, "kohya") == "lora_te_" + inner.replace(".", "_")
    assert expected[names.layout_key(target, "comfy")] == expected[names.layout_key(target, "diffusers")] == target
