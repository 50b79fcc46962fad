"""What the distilling nodes share: the teacher's inputs, models as denoisers, pictures of latents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from comfy_api.latest import io

from ..choices import Drawing, Effort
from . import host, merging
from .common import fitting

DATASET = io.Custom("LORA_GRAFT_DATASET")
SHOWN = 16  # pictures at most in a preview


def teacher_inputs(*, optional: bool = False) -> list[io.Input]:
    """The base that has the LoRAs, and the LoRAs; `optional` where pictures may stand for both."""
    without = " Not needed with pictures of your own." if optional else ""
    return [
        io.Model.Input(
            "source",
            optional=optional,
            tooltip=f"The base model the LoRAs were trained on: the teacher. It is not changed.{without}",
        ),
        io.Clip.Input("source_clip", optional=optional, tooltip=f"The teacher's text encoder.{without}"),
        *merging.lora_inputs("The LoRAs on the teacher. One LoRA is moved; of several the effects are merged."),
    ]


def drawing_inputs(*, folded: bool = False) -> list[io.Input]:
    """How pictures are drawn, in a sampler node's words; `folded` hides steps and guidance as well."""
    import comfy.samplers

    more = {"advanced": folded or None}
    return [
        io.Int.Input(
            "width",
            default=Drawing.width,
            min=16,
            max=8192,
            step=8,
            tooltip="Width of the pictures in pixels. Take a size that both bases draw well.",
        ),
        io.Int.Input(
            "height", default=Drawing.height, min=16, max=8192, step=8, tooltip="Height of the pictures in pixels."
        ),
        io.Int.Input(
            "steps", default=Drawing.steps, min=1, max=1000, tooltip="Sampling steps for each picture.", **more
        ),
        io.Float.Input(
            "cfg", default=Drawing.cfg, min=0.0, max=100.0, step=0.1, tooltip="Guidance, as in a sampler node.", **more
        ),
        io.Combo.Input(
            "sampler_name",
            options=comfy.samplers.KSampler.SAMPLERS,
            default=Drawing.sampler,
            advanced=True,
            tooltip="Sampler, as in a sampler node.",
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.KSampler.SCHEDULERS,
            default=Drawing.scheduler,
            advanced=True,
            tooltip="Spacing of the noise levels, as in a sampler node.",
        ),
        io.String.Input(
            "negative", default=Drawing.negative, advanced=True, tooltip="Negative prompt of all pictures."
        ),
        io.Int.Input("batch", default=Drawing.batch, min=1, max=64, advanced=True, tooltip="Pictures drawn at a time."),
    ]


def effort_input(what: str) -> io.Input:
    """Optional and last, so that the values in older workflows keep their places. what: that it sets."""
    return io.Combo.Input(
        "effort",
        options=list(Effort.efforts),
        default=Effort.effort,
        optional=True,
        tooltip="How much the distillation may cost. quick: for a start from a copied LoRA; normal: for most; "
        f"thorough: some three times as much. Sets {what}; what is not 0 there wins.",
    )


@contextmanager
def learning() -> Iterator[None]:
    """The host runs nodes in inference mode, in which nothing can be learnt."""
    with torch.inference_mode(False):
        yield


def given(loras, strengths) -> list[tuple]:
    """(adapter, strength on the model, on the text encoder) of all connected LoRAs.

    Raises:
        SettingsError: none is connected.
    """
    from ..errors import SettingsError

    found = merging.gather(loras, strengths, None)
    if not found:
        raise SettingsError(
            "No LoRA is connected, so there is nothing to teach", hint="Connect Load LoRA to the input lora_0."
        )
    return found


def with_loras(model, clip, vae, loras: list[tuple], conditionings: dict | None = None):
    """The source with LoRAs on it, as the host's loader puts them there. conditionings: see HostDenoiser."""
    from .host.denoiser import HostDenoiser

    base = host.HostBase(model, clip)
    label = f"{base.label} with " + " and ".join(name_of(adapter) for adapter, _, _ in loras)
    for adapter, strength, strength_clip in loras:
        model, clip = host.apply(model, clip, fitting(adapter, base), strength, strength_clip)
    return HostDenoiser(model, clip, vae, label=label, conditionings=conditionings)


def comparable(source_vae, target_vae) -> tuple:
    """Both VAEs, to tell latent spaces of one form apart; (None, None) where one is missing and the form must do."""
    return (source_vae, target_vae) if source_vae is not None and target_vae is not None else (None, None)


def name_of(adapter) -> str:
    """A LoRA's file name without folder and ending."""
    from pathlib import Path

    return Path(adapter.file).stem if adapter.file else "LoRA"


def decoded(vae, latents: torch.Tensor) -> torch.Tensor:
    """Pictures (n, height, width, 3) of latents."""
    with torch.no_grad():
        images = vae.decode(latents)
    return images.reshape(-1, *images.shape[-3:]).float().cpu()


def previewer(denoiser, progress: host.Progress):
    """A function that shows x̂₀ in the node, if the host has previews switched on."""
    import latent_preview

    drawer = latent_preview.get_previewer(torch.device("cpu"), denoiser.patcher.get_model_object("latent_format"))
    if drawer is None:
        return None

    def show(answer: torch.Tensor) -> None:
        progress.show(drawer.decode_latent_to_preview_image("JPEG", answer.cpu())[1])

    return show


def nothing_to_show() -> torch.Tensor:
    """A small white IMAGE where there is no VAE to decode with."""
    return torch.ones(1, 64, 64, 3)
