"""What kinds of models diffusers draws with here, and how each is asked: its parts, its prompts, its network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

GUIDANCE = 3.5  # what Flux dev is told while it learns, as hosts do
Conditioning = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """One kind of model.

    pipeline, network, network_class: diffusers' names. encoders, tokenizers: part → transformers' class.
    optional: parts that a model may be without. size: of pictures, in pixels. cfg: the usual guidance.
    encode: (pipeline, prompt, device) → tensors of one sample. answer: (pipeline, noisy latents (n, …), times (n,) of
    0 to 1000, tensors of n samples) → what the network says, shaped as the latents.
    """

    name: str
    pipeline: str
    network: str
    network_class: str
    encoders: Mapping[str, str]
    tokenizers: Mapping[str, str]
    encode: Callable[[Any, str, torch.device], Conditioning]
    answer: Callable[[Any, Tensor, Tensor, Conditioning], Tensor]
    size: int
    cfg: float = 7.0
    optional: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


def _encode_sd(pipe, prompt: str, device) -> Conditioning:
    return {"text": pipe.encode_prompt(prompt, device, 1, False)[0]}


def _answer_sd(pipe, noisy: Tensor, time: Tensor, given: Conditioning) -> Tensor:
    return pipe.unet(noisy, time, encoder_hidden_states=given["text"], return_dict=False)[0]


def _encode_xl(pipe, prompt: str, device) -> Conditioning:
    text, _, pooled, _ = pipe.encode_prompt(
        prompt, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return {"text": text, "pooled": pooled}


def _answer_xl(pipe, noisy: Tensor, time: Tensor, given: Conditioning) -> Tensor:
    height, width = (side * pipe.vae_scale_factor for side in noisy.shape[-2:])
    sizes = torch.tensor([[height, width, 0, 0, height, width]], device=noisy.device, dtype=noisy.dtype)
    more = {"text_embeds": given["pooled"], "time_ids": sizes.repeat(len(noisy), 1)}
    return pipe.unet(noisy, time, encoder_hidden_states=given["text"], added_cond_kwargs=more, return_dict=False)[0]


def _encode_sd3(pipe, prompt: str, device) -> Conditioning:
    text, _, pooled, _ = pipe.encode_prompt(prompt, None, None, device, 1, False)
    return {"text": text, "pooled": pooled}


def _answer_sd3(pipe, noisy: Tensor, time: Tensor, given: Conditioning) -> Tensor:
    return pipe.transformer(
        hidden_states=noisy,
        timestep=time,
        encoder_hidden_states=given["text"],
        pooled_projections=given["pooled"],
        return_dict=False,
    )[0]


def _encode_flux(pipe, prompt: str, device) -> Conditioning:
    text, pooled, _ = pipe.encode_prompt(prompt, None, device, 1)
    return {"text": text, "pooled": pooled}


def _answer_flux(pipe, noisy: Tensor, time: Tensor, given: Conditioning) -> Tensor:
    count, channels, height, width = noisy.shape
    packed = pipe._pack_latents(noisy, count, channels, height, width)
    positions = pipe._prepare_latent_image_ids(count, height // 2, width // 2, noisy.device, noisy.dtype)
    guidance = None
    if pipe.transformer.config.guidance_embeds:
        guidance = torch.full((count,), GUIDANCE, device=noisy.device, dtype=torch.float32)
    output = pipe.transformer(
        hidden_states=packed,
        timestep=time / 1000,
        guidance=guidance,
        pooled_projections=given["pooled"],
        encoder_hidden_states=given["text"],
        txt_ids=torch.zeros(given["text"].shape[1], 3, device=noisy.device, dtype=noisy.dtype),
        img_ids=positions,
        return_dict=False,
    )[0]
    output = output.view(count, height // 2, width // 2, channels, 2, 2)
    return output.permute(0, 3, 1, 4, 2, 5).reshape(count, channels, height, width)


FAMILIES = {
    "sd": Family(
        name="Stable Diffusion 1 or 2",
        pipeline="StableDiffusionPipeline",
        network="unet",
        network_class="UNet2DConditionModel",
        encoders={"text_encoder": "CLIPTextModel"},
        tokenizers={"tokenizer": "CLIPTokenizer"},
        encode=_encode_sd,
        answer=_answer_sd,
        size=512,
        more={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    ),
    "sdxl": Family(
        name="SDXL",
        pipeline="StableDiffusionXLPipeline",
        network="unet",
        network_class="UNet2DConditionModel",
        encoders={"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"},
        tokenizers={"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer"},
        encode=_encode_xl,
        answer=_answer_xl,
        size=1024,
        more={"add_watermarker": False},
    ),
    "sd3": Family(
        name="Stable Diffusion 3",
        pipeline="StableDiffusion3Pipeline",
        network="transformer",
        network_class="SD3Transformer2DModel",
        encoders={
            "text_encoder": "CLIPTextModelWithProjection",
            "text_encoder_2": "CLIPTextModelWithProjection",
            "text_encoder_3": "T5EncoderModel",
        },
        tokenizers={"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer", "tokenizer_3": "T5TokenizerFast"},
        encode=_encode_sd3,
        answer=_answer_sd3,
        size=1024,
        optional=("text_encoder_3", "tokenizer_3"),
    ),
    "flux": Family(
        name="Flux",
        pipeline="FluxPipeline",
        network="transformer",
        network_class="FluxTransformer2DModel",
        encoders={"text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel"},
        tokenizers={"tokenizer": "CLIPTokenizer", "tokenizer_2": "T5TokenizerFast"},
        encode=_encode_flux,
        answer=_answer_flux,
        size=1024,
        cfg=1.0,
    ),
}
