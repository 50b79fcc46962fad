"""Names made up from sizes are those of the host's own models, and adapters alone find the right ones."""

import pytest
from lora_graft.names import (
    DENOISER,
    KNOWN,
    WeightSlice,
    guess_architecture,
    known_names,
    known_weights,
    metadata_architecture,
    names_for,
    names_of_adapters,
    style_of,
)

TEXT = {
    "SD 1.5": "SD 1.5",
    "SD 2.x": "SD 2.x",
    "SDXL refiner": "SDXL refiner",
    "Flux": "Flux",
    "Flux schnell": "Flux",
    "SD3": "SD3",
    "SD3.5 medium": "SD3",
    "SD3.5 large": "SD3",
}
ONE_OF = {"KOALA 700M": "KOALA", "Flux schnell": "Flux"}
STYLES = ("kohya", "kohya-diffusers", "onetrainer", "lycoris", "diffusers", "peft", "comfy", "bare")


def real(maps, architecture):
    """Weights of the host's model with its text encoders, scalars left out as no adapter changes them."""
    found = maps[architecture]["weights"] | maps[f"text {TEXT.get(architecture, 'SDXL')}"]["weights"]
    return {name: tuple(shape) for name, shape in found.items() if shape}


def shape_of(weights, weight_slice):
    shape = weights[weight_slice.name]
    return (weight_slice.rows[1], *shape[1:]) if weight_slice.rows else shape


def linear(weights, style, keep=lambda name: True):
    """Module key -> (shape, weight_slice) for every matrix of a model in one naming style."""
    return {
        key: (shape_of(weights, weight_slice), weight_slice)
        for key, weight_slice in names_for(weights).aliases.items()
        if style_of(key, weight_slice) == style and len(weights[weight_slice.name]) == 2 and keep(weight_slice.name)
    }


def shapes(modules):
    return {key: shape for key, (shape, _) in modules.items()}


@pytest.mark.parametrize("architecture", KNOWN)
def test_weights_are_the_hosts(host_maps, architecture):
    weights = real(host_maps, architecture)
    assert known_weights(architecture) == weights
    assert known_names(architecture).aliases == names_for(weights).aliases
    assert guess_architecture(known_weights(architecture)) == ONE_OF.get(architecture, architecture)


def test_no_other_model_is_known():
    for name in ("Wan", "unknown", "", "sdxl"):
        assert known_names(name) is None and known_weights(name) == {}
    assert known_names("SDXL", 640) is None and known_names("SD3", 100) is None


def test_small_sd3():
    weights = known_weights("SD3", 128)
    assert weights["diffusion_model.joint_blocks.1.context_block.attn.qkv.weight"] == (384, 128)
    assert guess_architecture(weights) == "SD3" and not any(".joint_blocks.2." in name for name in weights)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("architecture", KNOWN)
def test_adapters_find_their_names(host_maps, architecture, style):
    """Every matrix of the real model under every key it has: read as the very weight and rows it is."""
    modules = linear(real(host_maps, architecture), style, lambda name: name.startswith(DENOISER))
    if not modules:
        pytest.skip("no such keys")
    found = names_of_adapters(shapes(modules))
    assert found is not None
    wrong = {
        key: found[0].resolve(key)
        for key, (_, weight_slice) in modules.items()
        if found[0].resolve(key) != weight_slice
    }
    assert not wrong


@pytest.mark.parametrize("architecture", [name for name in KNOWN if name != "SD 2.x"])
def test_attention_alone_is_enough(host_maps, architecture):
    weights = real(host_maps, architecture)
    for style in ("diffusers", "kohya"):
        modules = linear(weights, style, lambda name: "attn" in name and name.startswith(DENOISER))
        names, _ = names_of_adapters(shapes(modules))
        assert all(names.resolve(key) == weight_slice for key, (_, weight_slice) in modules.items())


@pytest.mark.parametrize("architecture", ["SD 1.5", "SD 2.x", "SDXL", "SDXL refiner"])
def test_text_encoders_alone(host_maps, architecture):
    weights = {n: s for n, s in real(host_maps, architecture).items() if not n.startswith(DENOISER)}
    style = {"SD 1.5": "te-kohya", "SD 2.x": "te-kohya", "SDXL": "te-kohya-numbered"}.get(architecture, "comfy")
    modules = linear(weights, style, lambda name: "self_attn" in name)
    names, _ = names_of_adapters(shapes(modules))
    assert all(names.resolve(key) == weight_slice for key, (_, weight_slice) in modules.items())


def test_sdxl_serves_its_relatives():
    key = "lora_unet_down_blocks_2_attentions_1_transformer_blocks_{}_attn2_to_k"
    for last, text in ((1, "Segmind Vega"), (3, "SSD-1B"), (9, "SDXL")):
        assert names_of_adapters({key.format(i): (1280, 2048) for i in range(last + 1)})[1] == "SDXL", text
    # six blocks look like KOALA's, but KOALA has one attention per level where this adapter has two
    assert names_of_adapters({key.format(i): (1280, 2048) for i in range(6)})[1] == "SDXL"
    one = key.replace("attentions_1", "attentions_0")
    names, architecture = names_of_adapters({one.format(i): (1280, 2048) for i in range(6)})
    assert architecture == "KOALA"
    assert names.resolve(one.format(0)).name.startswith("diffusion_model.input_blocks.5.1.")
    names, architecture = names_of_adapters(
        {one.format(i): (1280, 2048) for i in range(6)}, {"ss_base_model_version": "sdxl_base_v1-0"}
    )
    assert architecture == "SDXL"
    assert names.resolve(one.format(0)).name.startswith("diffusion_model.input_blocks.7.1.")


def test_shapes_count_more_than_metadata():
    key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    assert names_of_adapters({key: (640, 768)}, {"ss_base_model_version": "sdxl_base_v1-0"})[1] == "SD 1.5"
    assert names_of_adapters({key: (640, 1024)}, {"modelspec.architecture": "stable-diffusion-v1"})[1] == "SD 2.x"
    assert names_of_adapters({key: None}, {"modelspec.architecture": "stable-diffusion-v2-768-v/lora"})[1] == "SD 2.x"


def test_no_guess_where_two_models_differ():
    """This block is in SD 1.5, SD 2 and SDXL with one size; kohya's name for it is not the same in all of them."""
    key = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    assert names_of_adapters({key: (640, 640)}) is None
    assert names_of_adapters({key: (640, 640)}, {"ss_base_model_version": "sd_v1"})[1] == "SD 1.5"
    assert names_of_adapters({"unet.up_blocks.3.attentions.2.transformer_blocks.0.attn1.to_q": (320, 320)}) is not None


def test_what_is_not_known():
    assert names_of_adapters({"diffusion_model.blocks.0.self_attn.q": (5120, 5120)}) is None
    assert names_of_adapters({"lora_unet_down_blocks_9_attentions_0_proj_in": (320, 320)}) is None
    assert names_of_adapters({}) is None
    # a Flux of another width: its fused weights would be cut in the wrong places
    assert names_of_adapters({"transformer.single_transformer_blocks.0.attn.to_q": (2048, 2048)}) is None


def test_small_sd3_by_its_width():
    slices = {f"transformer.transformer_blocks.1.attn.to_{letter}": (128, 128) for letter in "qkv"}
    names, architecture = names_of_adapters(slices)
    qkv = "diffusion_model.joint_blocks.1.x_block.attn.qkv.weight"
    assert architecture == "SD3"
    assert [names.resolve(key) for key in slices] == [WeightSlice(qkv, (start, 128)) for start in (0, 128, 256)]


def test_most_keys_are_enough_when_asked():
    known, strange = "lora_unet_double_blocks_0_img_attn_proj", "lora_unet_double_blocks_0_img_telepathy"
    modules = {known: (3072, 3072), strange: (8, 8)}
    assert names_of_adapters(modules) is None
    names, architecture = names_of_adapters(modules, every=False)
    assert architecture == "Flux" and names.resolve(known) and names.resolve(strange) is None


@pytest.mark.parametrize(
    "value, family",
    [
        ("sd_v1", "SD 1.5"),
        ("sd_v2_768_v", "SD 2.x"),
        ("sdxl_base_v1-0", "SDXL"),
        ("sdxl_1.0", "SDXL"),
        ("sd_1.5", "SD 1.5"),
        ("flux1", "Flux"),
        ("flux2_klein_9b", "unknown"),
        ("sd3", "SD3"),
        ("", "unknown"),
        ("stable-diffusion-v1/lora", "SD 1.5"),
        ("stable-diffusion-v2-768-v/lora", "SD 2.x"),
        ("stable-diffusion-xl-v1-base/lora", "SDXL"),
        ("stable-diffusion-3-5-large/lora", "SD3.5 large"),
        ("stable-diffusion-3-m/lora", "SD3"),
        ("flux-1-dev/lora", "Flux"),
        ("lumina-2", "unknown"),
        ("stable-diffusion-xl-v1-refiner", "SDXL refiner"),
    ],
)
def test_what_metadata_says(value, family):
    assert metadata_architecture({"modelspec.architecture": value}) == family
    assert metadata_architecture({"modelspec.architecture": "?", "ss_base_model_version": value}) == family
