"""Odd key schemes: understood on reading, written back key for key."""

import pytest
import torch
from adapter_samples import SAMPLES, relative
from lora_graft import adapters
from lora_graft.errors import AdapterError

H, R = 12, 2


def numbered(layers):
    """cloneofsimo tensors for (part, [(name, out, in)])."""
    tensors = {}
    generator = torch.Generator().manual_seed(0)
    for part, shapes in layers.items():
        for i, (_, out, into) in enumerate(shapes):
            tensors[f"{part}:{i}:up"] = torch.randn(1, R, generator=generator).expand(out, R).contiguous()
            tensors[f"{part}:{i}:down"] = torch.randn(R, 1, generator=generator).expand(R, into).contiguous()
    return tensors


def found_in(model, owners, kinds):
    """Layers in cloneofsimo's order: for every module of a searched class, its layers of the searched kinds."""
    return [
        (f"{name}.{inner}" if inner else name, layer.weight.shape[0], layer.weight.shape[1])
        for name, owner in model.named_modules()
        if type(owner).__name__ in owners
        for inner, layer in owner.named_modules()
        if isinstance(layer, kinds)
    ]


@pytest.fixture(scope="module")
def unet():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        return diffusers.UNet2DConditionModel(cross_attention_dim=768)  # Stable Diffusion 1.5 is the default


@pytest.mark.parametrize("owners", [{"Attention", "GEGLU"}, {"Attention", "GEGLU", "ResnetBlock2D"}])
def test_cloneofsimo_unet_is_the_walk_of_diffusers(unet, owners):
    layers = found_in(unet, owners, (torch.nn.Linear, torch.nn.Conv2d))
    assert len(layers) in (144, 144 + 80)
    adapter = adapters.from_state_dict(numbered({"unet": layers}))
    assert list(adapter.modules) == [f"unet.{name}" for name, _, _ in layers]
    assert adapter.layout == "cloneofsimo"


def test_cloneofsimo_of_old_diffusers(unet):
    """Up to diffusers 0.12 a block's feed-forward came before its second attention; shapes tell the two apart."""
    layers = found_in(unet, {"Attention", "GEGLU"}, torch.nn.Linear)
    old = []
    for i in range(0, len(layers), 9):
        block = layers[i : i + 9]
        feed = [layer for layer in block if ".ff." in layer[0]]
        old += block[:4] + feed + [layer for layer in block[4:] if layer not in feed]
    adapter = adapters.from_state_dict(numbered({"unet": old}))
    assert list(adapter.modules) == [f"unet.{name}" for name, _, _ in old]


def test_cloneofsimo_text_encoder_and_round_trip(unet, tmp_path):
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        text = transformers.CLIPTextModel(transformers.CLIPTextConfig(num_hidden_layers=12))
    layers = found_in(text, {"CLIPAttention"}, torch.nn.Linear)
    named = [name if name.startswith("text_model.") else "text_model." + name for name, _, _ in layers]
    tensors = numbered({"unet": found_in(unet, {"Attention", "GEGLU"}, torch.nn.Linear), "text_encoder": layers})
    tensors["<s1>"] = torch.randn(768)
    metadata = {"unet": '["GEGLU"]', "unet:0:rank": "2", "<s1>": "<embed>"}
    adapter = adapters.from_state_dict(tensors, metadata)
    assert [k for k in adapter.modules if k.startswith("text_encoder.")] == [f"text_encoder.{n}" for n in named]
    assert list(adapter.embeddings) == ["<s1>"]
    again = adapters.read(adapters.write(adapter, tmp_path / "x.safetensors"))
    assert adapters.to_state_dict(again).keys() == tensors.keys() and again.metadata == metadata
    assert all(torch.equal(t, tensors[k]) for k, t in adapters.to_state_dict(again).items())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t.pop("unet:3:up"),
        lambda t: (t.pop("unet:3:up"), t.pop("unet:3:down")),
        lambda t: t.update({"unet:0:up": torch.ones(7, R)}),
    ],
)
def test_cloneofsimo_that_fits_nothing(unet, spoil):
    tensors = numbered({"unet": found_in(unet, {"Attention", "GEGLU"}, torch.nn.Linear)})
    spoil(tensors)
    with pytest.raises(AdapterError, match="key unet:"):
        adapters.from_state_dict(tensors, file="f.safetensors")


def pair(key, up=".up.weight", down=".down.weight", rows=3 * H):
    return {key + up: torch.randn(rows, R), key + down: torch.randn(R, H)}


def flux_processors():
    return {
        **pair("double_blocks.0.processor.qkv_lora1"),
        **pair("double_blocks.0.processor.proj_lora2", rows=H),
        **pair("single_blocks.1.processor.qkv_lora"),
        **pair("single_blocks.1.processor.proj_lora", rows=H),
    }


def flux_control():
    return {
        **pair("img_in", ".lora_B.weight", ".lora_A.weight", H),
        "img_in.lora_B.bias": torch.randn(H),
        "single_blocks.0.norm.key_norm.scale": torch.randn(4),
        **pair("double_blocks.0.img_attn.qkv", ".lora_B.weight", ".lora_A.weight"),
    }


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (
            flux_processors(),
            {
                "diffusion_model.double_blocks.0.img_attn.qkv",
                "diffusion_model.double_blocks.0.txt_attn.proj",
                "diffusion_model.single_blocks.1.linear1_qkv",
                "diffusion_model.single_blocks.1.linear2",
            },
        ),
        (
            flux_control(),
            {
                "diffusion_model.img_in",
                "diffusion_model.single_blocks.0.norm.key_norm",
                "diffusion_model.double_blocks.0.img_attn.qkv",
            },
        ),
        (
            pair("lora_unet__blocks_0_cross_attn_k", ".lora_up.weight", ".lora_down.weight"),
            {"lora_unet_blocks_0_cross_attn_k"},
        ),
    ],
    ids=["xlabs and uso", "black forest labs control", "wan fun"],
)
def test_dialects(tensors, expected, tmp_path):
    adapter = adapters.from_state_dict(tensors)
    assert set(adapter.modules) == expected and not adapter.extras
    again = adapters.to_state_dict(adapters.read(adapters.write(adapter, tmp_path / "x.safetensors")))
    assert again.keys() == tensors.keys() and all(torch.equal(again[k], tensors[k]) for k in again)


def test_control_adapter_widens_the_image_input():
    tensors = flux_control()
    module = adapters.from_state_dict(tensors).modules["diffusion_model.img_in"]
    assert module.shape == (H, H) and torch.equal(module.bias(), tensors["img_in.lora_B.bias"])


@pytest.mark.host
def test_host_translates_control_adapters_alike(comfy, tmp_path):
    from adapter_samples import judged_by_host

    tensors = flux_control()
    adapter = adapters.from_state_dict(tensors)
    weights = {k: torch.randn(m.shape) for k, m in adapter.modules.items()}
    deltas = judged_by_host(comfy, tmp_path, weights, tensors)
    for key, module in adapter.modules.items():
        assert relative(module.delta(weights[key]), deltas[key + ".weight"]) < 1e-6


def test_renamed_modules_leave_the_dialect():
    adapter = adapters.from_state_dict(flux_processors())
    moved = {f"new.{i}": m.renamed(f"new.{i}") for i, m in enumerate(adapter.modules.values())}
    state = adapters.to_state_dict(adapter.with_modules(moved))
    assert "new.0.lora_up.weight" in state and len(state) == 8


def test_embedded_vectors():
    tensors = {"m" + s: t for s, t in SAMPLES["lora"].tensors().items()} | {
        "bundle_emb.sks.string_to_param.*": torch.randn(2, 768),
        "bundle_emb.a.b.clip_g": torch.randn(1, 1280),
        "bundle_emb.a.b.clip_l": torch.randn(1, 768),
        "emb_params": torch.randn(3, 768),
    }
    adapter = adapters.from_state_dict(tensors)
    assert {name: set(parts) for name, parts in adapter.embeddings.items()} == {
        "sks": {"string_to_param.*"},
        "a.b": {"clip_l", "clip_g"},
        "": {"emb_params"},
    }
    assert adapters.to_state_dict(adapter).keys() == tensors.keys()
