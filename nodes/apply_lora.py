"""Apply LoRA: an adapter on a MODEL and a CLIP, checked first."""

from __future__ import annotations

from comfy_api.latest import io

from . import host
from .common import CATEGORY, fitting, to_adapter


class ApplyLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        strength = dict(default=1.0, min=-100.0, max=100.0, step=0.01)
        return io.Schema(
            node_id="LoraGraft_ApplyLoRA",
            display_name="Apply LoRA",
            category=CATEGORY,
            description="Puts a LoRA on a model and its text encoder, as ComfyUI's own loader would, and refuses one "
            "that was made for another architecture.",
            search_aliases=["lora", "use lora", "lora model loader"],
            inputs=[
                io.Model.Input("model", tooltip="The base model. It is not changed; a patched copy comes out."),
                io.LoraModel.Input(
                    "lora", lazy=True, tooltip="The LoRA to apply. Not evaluated while every strength is 0."
                ),
                io.Float.Input("strength_model", tooltip="Strength on the model; may be negative.", **strength),
                io.Float.Input("strength_clip", tooltip="Strength on the text encoder; may be negative.", **strength),
                io.Clip.Input("clip", optional=True, tooltip="The text encoder, for LoRAs that change it."),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model with the LoRA on it."),
                io.Clip.Output(
                    "clip_out", display_name="clip", tooltip="The text encoder with the LoRA; empty when clip is."
                ),
            ],
        )

    @classmethod
    def check_lazy_status(cls, strength_model, strength_clip, lora=None, clip=None, **others):
        return ["lora"] if lora is None and _acts(strength_model, strength_clip, clip) else []

    @classmethod
    def execute(cls, model, strength_model, strength_clip, lora=None, clip=None) -> io.NodeOutput:
        if not _acts(strength_model, strength_clip, clip):
            return io.NodeOutput(model, clip)
        state = fitting(to_adapter(lora), host.HostBase(model, clip))
        return io.NodeOutput(*host.apply(model, clip, state, strength_model, strength_clip))


def _acts(strength_model: float, strength_clip: float, clip) -> bool:
    return strength_model != 0 or (strength_clip != 0 and clip is not None)
