"""Diffusers' own converters and models as oracles: names, row slices, exchanged halves, and values from folders."""

import pytest
import torch
from lora_graft.adapters import from_state_dict, to_state_dict
from lora_graft.bases import load_weight_slice, open_base
from lora_graft.errors import AdapterError
from lora_graft.names import DENOISER, WeightSlice, names_for
from safetensors.torch import save_file

diffusers = pytest.importorskip("diffusers")
from diffusers.loaders import single_file_utils  # noqa: E402

CONVERTERS = {
    "SD 1.5": single_file_utils.convert_ldm_unet_checkpoint,
    "SD 2.x": single_file_utils.convert_ldm_unet_checkpoint,
    "SDXL": single_file_utils.convert_ldm_unet_checkpoint,
    "SDXL refiner": single_file_utils.convert_ldm_unet_checkpoint,
    "SD3": single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers,
    "SD3.5 large": single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers,
    "SD3.5 medium": single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers,
    "Flux": single_file_utils.convert_flux_transformer_checkpoint_to_diffusers,
}


class UNetConfig(dict):
    """What the UNet converter asks of a configuration."""

    def __init__(self, weights):
        super().__init__(
            layers_per_block=2,
            class_embed_type=None,
            addition_embed_type="text_time" if any("label_emb" in name for name in weights) else None,
            down_block_types=["x"] * (1 + sum(name.endswith(".0.op.weight") for name in weights)),
            up_block_types=["x"] * (1 + sum(name.endswith(".0.op.weight") for name in weights)),
        )

    __getattr__ = dict.__getitem__


@pytest.mark.parametrize("family", CONVERTERS)
def test_rows_go_where_diffusers_puts_them(host_maps, family):
    """Each row of a checkpoint carries its own number through diffusers' converter; our slices must read the same."""
    weights = {name: tuple(shape) for name, shape in host_maps[family]["weights"].items()}
    names = names_for(weights)
    count = 0
    checkpoint = {}
    for name, shape in weights.items():
        stored = "model." + name if "convert_ldm" in CONVERTERS[family].__name__ else name.removeprefix(DENOISER)
        if family == "Flux" and stored.endswith(("query_norm.weight", "key_norm.weight")):
            stored = stored.removesuffix("weight") + "scale"
        rows = torch.arange(count, count + shape[0], dtype=torch.float64)
        checkpoint[stored] = rows.reshape(-1, *[1] * (len(shape) - 1))
        count += shape[0]
    expected = {name: tensor.flatten() for name, tensor in zip(weights, checkpoint.values(), strict=True)}
    converted = CONVERTERS[family](dict(checkpoint), config=UNetConfig(checkpoint))
    assert len(converted) > 100
    prefix = "unet." if "convert_ldm" in CONVERTERS[family].__name__ else "transformer."
    for key, tensor in converted.items():
        weight_slice = names.resolve(prefix + key.removesuffix(".weight"))
        assert weight_slice is not None, key
        want = expected[weight_slice.name]
        if weight_slice.rows:
            want = want[weight_slice.rows[0] : sum(weight_slice.rows)]
        if weight_slice.swap:
            want = torch.cat(want.chunk(2)[::-1])
        assert torch.equal(tensor.flatten(), want), key


def unet(**extra):
    return diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        norm_num_groups=8,
        cross_attention_dim=extra.pop("context", 768),
        attention_head_dim=8,
        sample_size=8,
        **extra,
    )


def models():
    cross, plain = "CrossAttnDownBlock2D", "DownBlock2D"
    xl = {
        "context": 2048,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "use_linear_projection": True,
        "projection_class_embeddings_input_dim": 64,
    }
    yield "SD 1.5", unet(down_block_types=(cross, plain), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    yield (
        "SDXL",
        unet(
            down_block_types=(plain, cross),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 10),
            **xl,
        ),
    )
    yield (
        "SSD-1B",
        unet(
            down_block_types=(plain, cross),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 4),
            mid_block_type=None,
            reverse_transformer_layers_per_block=((4, 4, 10), (1, 1, 1)),
            **xl,
        ),
    )
    yield (
        "KOALA",
        unet(
            down_block_types=(plain, cross),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 5),
            layers_per_block=1,
            mid_block_type=None,
            **xl,
        ),
    )
    sd3 = {
        "sample_size": 8,
        "num_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 16,
        "pos_embed_max_size": 4,
    }
    yield "SD3", diffusers.SD3Transformer2DModel(**sd3)
    yield "SD3.5 medium", diffusers.SD3Transformer2DModel(**sd3, qk_norm="rms_norm", dual_attention_layers=(0, 1))
    yield (
        "Flux",
        diffusers.FluxTransformer2DModel(
            in_channels=4,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=24,
            pooled_projection_dim=16,
            guidance_embeds=True,
            axes_dims_rope=(2, 2, 4),
        ),
    )


@pytest.mark.parametrize("family, model", [pytest.param(*pair, id=pair[0]) for pair in models()])
def test_folder_gives_the_same_weights(tmp_path, family, model):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    kind = "unet" if isinstance(model, diffusers.UNet2DConditionModel) else "transformer"
    model.save_pretrained(tmp_path / kind, max_shard_size="100KB")
    assert (tmp_path / kind / "diffusion_pytorch_model.safetensors.index.json").exists()
    base = open_base(tmp_path)
    assert base.architecture == family
    weights = base.weights()
    assert sum(torch.Size(s).numel() for s in weights.values()) == sum(t.numel() for t in model.state_dict().values())
    for key, tensor in model.state_dict().items():
        weight_slice = base.names.resolve(f"{kind}.{key.removesuffix('.weight')}")
        assert weight_slice is not None, key
        assert torch.equal(load_weight_slice(base, weight_slice), tensor), key
    for name, module in model.named_modules():  # what an adapter can change
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            assert base.names.resolve(f"{kind}.{name}"), name
            assert base.names.resolve(f"base_model.model.{name}"), name
            assert base.names.resolve("lora_unet_" + name.replace(".", "_")), name

    # the same model as a checkpoint: same weights, same digests, though stored fused there and in pieces here
    save_file({"model." + name: base.load(name) for name in weights}, tmp_path / "one.safetensors")
    one = open_base(tmp_path / "one.safetensors")
    assert one.weights() == weights and one.architecture == family
    assert {name: one.digest(name) for name in weights} == {name: base.digest(name) for name in weights}
    assert one.names.aliases == base.names.aliases


def test_fused_weight_by_rows(tmp_path):
    model = dict(models())["Flux"]
    model.save_pretrained(tmp_path / "transformer")
    base, name = open_base(tmp_path), "diffusion_model.single_blocks.1.linear1.weight"
    whole = base.load(name)
    assert whole.shape == (16 * 7, 16)
    for start, length in ((0, 16), (16, 16), (10, 30), (0, 112), (47, 65), (100, 12)):
        assert torch.equal(base.load(name, (start, length)), whole[start : start + length])


def test_text_encoders_of_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    small = {
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 10,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    clip_l = transformers.CLIPTextModel(transformers.CLIPTextConfig(hidden_size=768, **small))
    clip_g = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(hidden_size=1280, **small))
    t5 = transformers.T5EncoderModel(
        transformers.T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4, vocab_size=10)
    )
    folders = {"text_encoder": clip_l, "text_encoder_2": clip_g, "text_encoder_3": t5}
    for folder, model in folders.items():
        model.save_pretrained(tmp_path / folder)
    base = open_base(tmp_path)
    assert {name.split(".")[0] for name in base.weights()} == {"clip_l", "clip_g", "t5xxl"}
    for folder, model in folders.items():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and "text_projection" not in name:
                name = name if "T5" in type(model).__name__ or name.startswith("text_model.") else "text_model." + name
                weight_slice = base.names.resolve(f"{folder}.{name}")
                assert weight_slice is not None, name
                assert torch.equal(base.load(weight_slice.name), module.weight)


def test_a_language_models_folder_without_configuration_is_read_like_its_file(tmp_path):
    tensors = {
        "model.layers.0.self_attn.q_proj.weight": torch.ones(4, 4),
        "model.layers.0.mlp.gate_proj.weight": torch.ones(4, 4),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    base = open_base(tmp_path)
    assert base.architecture == "language model"
    weight_slice = WeightSlice("llama.transformer.model.layers.0.self_attn.q_proj.weight")
    assert base.names.resolve("base_model.model.model.layers.0.self_attn.q_proj") == weight_slice


def test_folder_of_an_unknown_kind_keeps_its_names(tmp_path):
    save_file({"trunk.0.mixer.weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    base = open_base(tmp_path)
    assert base.architecture == "unknown"
    weight_slice = WeightSlice("diffusion_model.trunk.0.mixer.weight")
    assert base.names.resolve("base_model.model.trunk.0.mixer") == weight_slice


def test_the_language_model_of_a_pipeline_has_comfyuis_name(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = dict(num_attention_heads=2, num_key_value_heads=1, intermediate_size=16, vocab_size=10, num_hidden_layers=1)
    config = transformers.Qwen3Config(hidden_size=16, head_dim=8, **sizes)
    transformers.Qwen3ForCausalLM(config).save_pretrained(tmp_path / "text_encoder")
    (tmp_path / "transformer").mkdir()
    save_file({"other.weight": torch.ones(2, 2)}, tmp_path / "transformer" / "model.safetensors")
    base = open_base(tmp_path)
    weight_slice = WeightSlice("qwen3_4b.transformer.model.layers.0.self_attn.q_proj.weight")
    for key in ("lora_te_layers_0_self_attn_q_proj", "text_encoder.model.layers.0.self_attn.q_proj"):
        assert base.names.resolve(key) == weight_slice


HUNYUAN = names_for(
    {
        f"diffusion_model.{name}.weight": shape
        for name, shape in {
            "double_blocks.0.img_attn.qkv": (48, 16),
            "double_blocks.0.img_mod.lin": (96, 16),
            "double_blocks.0.img_mlp.0": (64, 16),
            "single_blocks.0.linear1": (112, 16),
            "txt_in.individual_token_refiner.blocks.1.self_attn.qkv": (48, 16),
            "txt_in.individual_token_refiner.blocks.1.mlp.2": (16, 64),
        }.items()
    }
)
WAN = names_for(
    {
        f"diffusion_model.{name}.weight": (16, 16)
        for name in ("blocks.0.self_attn.o", "blocks.0.cross_attn.k", "blocks.0.cross_attn.k_img", "blocks.0.ffn.2")
        + ("time_projection.1", "head.head")
    }
)
FLUX2 = names_for(
    {
        f"diffusion_model.{name}.weight": shape
        for name, shape in {
            "double_stream_modulation_img.lin": (96, 16),
            "double_blocks.0.img_attn.qkv": (48, 16),
            "double_blocks.0.img_mlp.0": (96, 16),
            "single_blocks.0.linear1": (144, 16),
            "single_blocks.0.linear2": (16, 64),
        }.items()
    }
)


@pytest.mark.parametrize(
    "names, key, weight, rows",
    [
        (HUNYUAN, "transformer.double_blocks.0.img_attn_qkv", "double_blocks.0.img_attn.qkv", None),
        (HUNYUAN, "diffusion_model.double_blocks.0.img_mod.linear", "double_blocks.0.img_mod.lin", None),
        (HUNYUAN, "lora_unet_double_blocks_0_img_mlp_fc1", "double_blocks.0.img_mlp.0", None),
        (
            HUNYUAN,
            "transformer.context_embedder.token_refiner.refiner_blocks.1.attn.to_k",
            "txt_in.individual_token_refiner.blocks.1.self_attn.qkv",
            (16, 16),
        ),
        (
            HUNYUAN,
            "transformer.context_embedder.token_refiner.refiner_blocks.1.ff.net.2",
            "txt_in.individual_token_refiner.blocks.1.mlp.2",
            None,
        ),
        (FLUX2, "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj", "single_blocks.0.linear1", None),
        (FLUX2, "transformer.single_transformer_blocks.0.attn.to_out", "single_blocks.0.linear2", None),
        (FLUX2, "transformer.transformer_blocks.0.ff.linear_in", "double_blocks.0.img_mlp.0", None),
        (FLUX2, "transformer.transformer_blocks.0.attn.to_v", "double_blocks.0.img_attn.qkv", (32, 16)),
        (
            FLUX2,
            "transformer.double_stream_modulation_img.linear",
            "double_stream_modulation_img.lin",
            None,
        ),
        (WAN, "transformer.blocks.0.attn1.to_out.0", "blocks.0.self_attn.o", None),
        (WAN, "transformer.blocks.0.attn2.add_k_proj", "blocks.0.cross_attn.k_img", None),
        (WAN, "transformer.blocks.0.ffn.net.2", "blocks.0.ffn.2", None),
        (WAN, "transformer.condition_embedder.time_proj", "time_projection.1", None),
        (WAN, "diffusion_model.blocks.0.self_attn.o", "blocks.0.self_attn.o", None),
    ],
)
def test_video_models_under_other_names(names, key, weight, rows):
    weight_slice = WeightSlice(f"diffusion_model.{weight}.weight", rows)
    assert names.resolve(key) == weight_slice
    assert names.layout_key(weight_slice, "comfy") == (None if rows else f"diffusion_model.{weight}")
    if key.startswith("transformer.") and "_qkv" not in key:
        assert names.layout_key(weight_slice, "diffusers") == key


@pytest.mark.parametrize(
    "native",
    [
        "blocks.0.attn.qkv_x",  # Mochi
        "blocks.0.norm1.linear",  # CogVideoX
        "layers.0.attention.qkv",  # without its refiners no model that is known
    ],
)
def test_no_name_rather_than_one_that_nothing_reads(native):
    names = names_for({f"diffusion_model.{native}.weight": (32, 16)})
    weight_slice = WeightSlice(f"diffusion_model.{native}.weight")
    adapter = from_state_dict(
        {f"diffusion_model.{native}.lora_up.weight": torch.ones(32, 1)}
        | {f"diffusion_model.{native}.lora_down.weight": torch.ones(1, 16)}
    )
    for layout in ("diffusers", "peft"):
        with pytest.raises(AdapterError, match=f"The {layout} layout has no name for"):
            to_state_dict(adapter, layout=layout, names=names)
    for layout in ("kohya", "comfy"):
        assert names.layout_key(weight_slice, layout)
    for key in (native, f"base_model.model.{native}", f"diffusion_model.{native}"):
        assert names.resolve(key) == weight_slice


@pytest.mark.parametrize(
    ("theirs", "ours", "rows"),
    [
        ("joint_transformer_blocks.0.attn.add_q_proj", {"double_layers.0.attn.w1q": (32, 16)}, None),
        (
            "transformer_blocks.0.attn2.to_v",
            {"blocks.0.cross_attn.kv_linear": (32, 16), "blocks.0.cross_attn.q_linear": (16, 16)},
            (16, 16),
        ),
        (
            "context_refiner.0.attn.to_v",
            {
                "context_refiner.0.attention.qkv": (24, 16),
                "layers.0.attention.qkv": (24, 16),
                "noise_refiner.0.attention.out": (16, 16),
            },
            (20, 4),
        ),
        ("text_fusion.refiner_blocks.0.attn.to_q", {"txtfusion.refiner_blocks.0.attn.wq": (16, 16)}, None),
    ],
    ids=["AuraFlow", "PixArt", "Lumina 2", "Krea 2"],
)
def test_names_of_diffusers(theirs, ours, rows):
    more = {"txtfusion.projector": (1, 12)} if "txtfusion" in next(iter(ours)) else {}
    names = names_for({f"diffusion_model.{name}.weight": shape for name, shape in (ours | more).items()})
    weight_slice = WeightSlice(f"diffusion_model.{next(iter(ours))}.weight", rows)
    assert names.resolve(f"transformer.{theirs}") == weight_slice
    assert names.layout_key(weight_slice, "diffusers") == f"transformer.{theirs}"
