"""Tiny models of every family as diffusers folders: random weights, a real tokenizer, no network."""

from __future__ import annotations

import json
from pathlib import Path

import torch

CLIP_VOCABULARY = 1000


def clip_tokenizer(folder: Path):
    """CLIP's tokenizer with letters and a few merges."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    merges = ["r e", "re d</w>", "d i", "di g", "t w", "tw o</w>", "a n", "c a", "ca t</w>"]
    words = ["".join(pair.split()) for pair in merges]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *words, "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    made = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    assert made("red cat").input_ids[1:-1] == [tokens.index("red</w>"), tokens.index("cat</w>")]
    return made


def clip(kind: str, width: int, tokenizer, *, projection: int | None = None):
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY,
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=projection or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return getattr(transformers, kind)(config)


def vae(channels: int = 4, scale: float = 0.18215, shift: float | None = None, seed: int = 90):
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=32,
        scaling_factor=scale,
        shift_factor=shift,
    )


def sd(folder: Path, seed: int = 0, *, prediction: str = "epsilon", width: int = 32, space: int = 90) -> Path:
    """Stable Diffusion 1.5 in small: a two-level UNet with attention, context 768."""
    import diffusers

    tokenizer = clip_tokenizer(folder / "raw")
    torch.manual_seed(1)
    encoder = clip("CLIPTextModel", 768, tokenizer)
    torch.manual_seed(seed)
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(width, width),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=768,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        skip_prk_steps=True,
        prediction_type=prediction,
    )
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae(seed=space),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def sdxl(folder: Path, seed: int = 0) -> Path:
    """SDXL in small: two text encoders, sizes in the time embedding, linear projections."""
    import diffusers

    tokenizer = clip_tokenizer(folder / "raw")
    torch.manual_seed(1)
    first = clip("CLIPTextModel", 768, tokenizer)
    second = clip("CLIPTextModelWithProjection", 1280, tokenizer)
    torch.manual_seed(seed)
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2048,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=1280 + 6 * 8,
        norm_num_groups=8,
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=vae(scale=0.13025),
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def t5(folder: Path, width: int = 32):
    """(tokenizer, encoder) of a T5 of a few words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "</s>", "<unk>", *("▁" + word for word in ("red", "cat", "a", "two", "digit"))]
    words += [chr(c) for c in range(97, 123)] + ["▁"]
    raw = Tokenizer(models.Unigram([(word, -float(i + 1)) for i, word in enumerate(words)], unk_id=2))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    raw.save(str(folder / "tokenizer.json"))
    tokenizer = transformers.T5TokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), extra_ids=0)
    encoder = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=64, d_model=width, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    )
    return tokenizer, encoder


def sd3(folder: Path, seed: int = 0, *, t5_too: bool = True) -> Path:
    """Stable Diffusion 3 in small."""
    import diffusers

    tokenizer = clip_tokenizer(folder / "raw")
    torch.manual_seed(1)
    first = clip("CLIPTextModelWithProjection", 768, tokenizer, projection=16)
    second = clip("CLIPTextModelWithProjection", 1280, tokenizer, projection=16)
    third = t5(folder / "raw_t5", 2048) if t5_too else (None, None)
    torch.manual_seed(seed)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=2048,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=16,
    )
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scale=1.5305, shift=0.0609),
        text_encoder=first,
        tokenizer=tokenizer,
        text_encoder_2=second,
        tokenizer_2=tokenizer,
        text_encoder_3=third[1],
        tokenizer_3=third[0],
    )
    pipe.save_pretrained(folder)
    return folder


def flux(folder: Path, seed: int = 0, *, guidance: bool = True) -> Path:
    """Flux in small: double and single blocks, packed latents."""
    import diffusers

    tokenizer = clip_tokenizer(folder / "raw")
    torch.manual_seed(1)
    first = clip("CLIPTextModel", 768, tokenizer)
    tokenizer_2, second = t5(folder / "raw_t5")
    torch.manual_seed(seed)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=768,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 4, 8),
    )
    pipe = diffusers.FluxPipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=vae(scale=0.3611, shift=0.1159),
        text_encoder=first,
        tokenizer=tokenizer,
        text_encoder_2=second,
        tokenizer_2=tokenizer_2,
    )
    pipe.save_pretrained(folder)
    return folder
