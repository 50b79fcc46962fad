"""Every class of the host's ``supported_models.models``: its family is named, and each key it reads means one weight.

A family that a newer host adds fails here by its class until ``FAMILY`` and the tables of names/ know it.
"""

from collections.abc import Callable

from lora_graft.jobs import loaders
from lora_graft.names import WeightSlice, adapter_families, guess_architecture, names_for

# The host's class -> what the names are told as.
FAMILY = {
    **dict.fromkeys(["Stable_Zero123", "SD15_instructpix2pix", "SD15"], "SD 1.5"),
    **dict.fromkeys(["LotusD", "SD20", "SD21UnclipL", "SD21UnclipH", "SD_X4Upscaler"], "SD 2.x"),
    **dict.fromkeys(["SVD_img2vid", "SV3D_u", "SV3D_p"], "SD 2.x"),
    **dict.fromkeys(["SDXL", "SDXL_instructpix2pix"], "SDXL"),
    "SDXLRefiner": "SDXL refiner",
    "SSD1B": "SSD-1B",
    "Segmind_Vega": "Segmind Vega",
    **dict.fromkeys(["KOALA_700M", "KOALA_1B"], "KOALA"),
    **dict.fromkeys(["Stable_Cascade_C", "Stable_Cascade_B"], "Stable Cascade"),
    "SD3": "SD3",
    **dict.fromkeys(["StableAudio", "StableAudio3"], "Stable Audio"),
    "AuraFlow": "AuraFlow",
    **dict.fromkeys(["PixArtAlpha", "PixArtSigma"], "PixArt"),
    **dict.fromkeys(["HunyuanDiT", "HunyuanDiT1"], "HunyuanDiT"),
    **dict.fromkeys(["Flux", "FluxInpaint", "FluxSchnell", "LongCatImage"], "Flux"),
    "Flux2": "Flux.2",
    **dict.fromkeys(["Chroma", "ChromaRadiance"], "Chroma"),
    "Lens": "Lens",
    "GenmoMochi": "Mochi",
    **dict.fromkeys(["LTXV", "LTXAV"], "LTX-Video"),
    "MiniMaxH3": "MiniMax H3",
    "MiniMaxMusic3": "MiniMax Music",
    **dict.fromkeys(["HunyuanVideo", "HunyuanVideoI2V", "HunyuanVideoSkyreelsI2V"], "HunyuanVideo"),
    **dict.fromkeys(["HunyuanVideo15", "HunyuanVideo15_SR_Distilled"], "HunyuanVideo"),
    **dict.fromkeys(["HunyuanImage21", "HunyuanImage21Refiner"], "HunyuanVideo"),
    **dict.fromkeys(["CosmosT2V", "CosmosI2V"], "Cosmos"),
    **dict.fromkeys(["CosmosT2IPredict2", "CosmosI2VPredict2"], "Cosmos Predict2"),
    "Anima": "Anima",
    "Lumina2": "Lumina 2",
    **dict.fromkeys(["ZImage", "ZImagePixelSpace"], "Z-Image"),
    **dict.fromkeys(["PiD", "PixelDiTT2I"], "PixelDiT"),
    **dict.fromkeys(["WAN21_T2V", "WAN21_CausalAR_T2V", "WAN21_I2V", "WAN21_FunControl2V", "WAN21_Camera"], "Wan"),
    **dict.fromkeys(["WAN21_Vace", "WAN21_HuMo", "WAN21_FlowRVS", "WAN21_SCAIL", "WAN21_SCAIL2"], "Wan"),
    **dict.fromkeys(["WAN22_T2V", "WAN22_Camera", "WAN22_S2V", "WAN22_Animate", "WAN22_WanDancer"], "Wan"),
    "WAN_Animate2": "Wan",
    "Trellis2": "Trellis 2",
    **dict.fromkeys(["Hunyuan3Dv2", "Hunyuan3Dv2_1", "Hunyuan3Dv2mini"], "Hunyuan3D"),
    "TripoSplat": "TripoSplat",
    "HiDream": "HiDream",
    "HiDreamO1": "HiDream O1",
    "SeedVR2": "SeedVR2",
    "ACEStep": "ACE-Step",
    "ACEStep15": "ACE-Step 1.5",
    "Omnigen2": "Omnigen2",
    "Boogu": "Boogu",
    "Ideogram4": "Ideogram 4",
    "Krea2": "Krea 2",
    "QwenImage": "Qwen-Image",
    "MageFlow": "Qwen-Image",  # its blocks under the same names
    "JoyImage": "JoyImage",
    **dict.fromkeys(["Kandinsky5", "Kandinsky5Image"], "Kandinsky 5"),
    "ErnieImage": "Ernie-Image",
    **dict.fromkeys(["CogVideoX_T2V", "CogVideoX_I2V", "CogVideoX_Inpaint"], "CogVideoX"),
    # No pictures come of these, and no adapters are made for them.
    **dict.fromkeys(["SAM3", "SAM31", "RT_DETR_v4", "DepthAnything3"], "unknown"),
}

# class -> (why, the keys that the host reads in another way than here)
OTHERWISE: dict[str, tuple[str, Callable[[str], bool]]] = {
    "Lumina2": (
        "the host cuts the fused attention into three equal parts, though keys and values are narrower than queries",
        lambda key: key.replace(".", "_").endswith(("attention_to_k", "attention_to_v")),
    ),
    "Flux2": (
        "the host offers the slices of Flux.1's single blocks, whose feed-forward is half as wide",
        lambda key: "single_transformer_blocks" in key,
    ),
}

# Classes whose adapters cannot be told from another family's by their keys.
ALIKE = {
    "Hunyuan3Dv2": ("Flux",),
    "Hunyuan3Dv2mini": ("Flux",),
    "HiDreamO1": ("language model",),
}


def test_every_family_is_named(host_families):
    built = {name: found for name, found in host_families.items() if "error" not in found}
    assert {n: f["error"] for n, f in host_families.items() if n not in built} == {}
    seen = {name: guess_architecture(_shapes(found)) for name, found in built.items()}
    assert {n: f"told as {family}, not listed" for n, family in seen.items() if n not in FAMILY} == {}
    assert seen == {name: FAMILY[name] for name in seen}


def test_every_key_means_the_hosts_weight(host_families):
    wrong = {name: _read_otherwise(found) for name, found in host_families.items() if "error" not in found}
    for name, (why, listed) in OTHERWISE.items():
        assert any(listed(key) for key in wrong.get(name, ())), f"{name} needs no exception any more: {why}"
        wrong[name] = [key for key in wrong[name] if not listed(key)]
    assert {name: (len(keys), keys[:3]) for name, keys in wrong.items() if keys} == {}


def test_an_adapter_of_every_family_is_told(host_families):
    """Of all matrices, under ComfyUI's keys and under kohya's."""
    strange = {}
    for name, found in host_families.items():
        shapes = {} if "error" in found else _shapes(found)
        modules = {n.removesuffix(".weight"): s for n, s in shapes.items() if n.endswith(".weight") and len(s) > 1}
        kohya = {"lora_unet_" + key.partition(".")[2].replace(".", "_"): s for key, s in modules.items()}
        told = {adapter_families(modules), adapter_families(kohya)}
        family = FAMILY.get(name, "not listed")
        if family != "unknown" and any(family not in each for each in told):
            strange[name] = told
    assert strange == {name: {one} for name, one in ALIKE.items()}


def test_what_is_said_of_layouts_is_what_the_host_reads(host_families):
    """jobs/loaders.py: the families of whose diffusers and PEFT files the host knows most keys."""
    for layout, prefix, said in (
        ("diffusers", "transformer.", loaders._DIFFUSERS_READ),
        ("peft", "base_model.model.", loaders._PEFT_READ),
    ):
        read = {FAMILY[name] for name, found in host_families.items() if _reads_most(found, layout, prefix)}
        assert read == said - {"SD3.5 medium", "SD3.5 large"}  # which the host has no class of their own for


def _reads_most(found, layout: str, prefix: str) -> bool:
    names = names_for(_shapes(found))
    matrices = [name for name, shape in names.shapes.items() if name.endswith(".weight") and len(shape) > 1]
    cut = [WeightSlice(name, rows) for name in matrices for rows in names.slices(name) or (None,)]
    keys = [key for key in (names.layout_key(one, layout) for one in cut) if key and key.startswith(prefix)]
    return 2 * sum(key in found["aliases"] for key in keys) > len(keys)


def _shapes(found):
    return {n: tuple(s) for n, s in found["weights"].items() if n.startswith("diffusion_model.")}


def _read_otherwise(found) -> list[str]:
    """The keys of weights that exist which mean something else here, or nothing."""
    names = names_for(_shapes(found))
    expected = {
        key: WeightSlice(name, tuple(rows[1:]) if rows else None, function is not None)
        for key, (name, rows, function) in found["aliases"].items()
        if name in names.shapes
    }
    assert len(expected) > 40
    return [key for key, weight_slice in expected.items() if names.resolve(key) != weight_slice]
