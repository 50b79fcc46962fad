"""Synthetic Prompts: prompts like those a LoRA is for, one a line."""

from __future__ import annotations

from comfy_api.latest import io

from ..choices import Prompts
from . import host
from .common import CATEGORY, to_adapter

SEEDS = """a portrait of a woman in a garden
an old man reading at a window
a street in a city at night
a house by a lake in the mountains
a cat asleep on a wooden table"""


class SyntheticPrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoraGraft_SyntheticPrompts",
            display_name="Synthetic Prompts",
            category=CATEGORY,
            description="Makes prompts like those a LoRA is for: from the tags and trigger words its file tells, from "
            "a few prompts of yours, and from a template, or by a language model that goes on from these. For "
            "synthetic data to distill from, or for test pictures.",
            search_aliases=["llm", "wildcards", "prompt generator", "random prompts", "training tags", "distill"],
            inputs=[
                io.String.Input(
                    "seed_prompts",
                    multiline=True,
                    default=SEEDS,
                    tooltip="A few prompts like those you will use the LoRA with, one a line. A text generator's "
                    "output can be connected. Empty: training tags only.",
                ),
                io.Int.Input("count", default=Prompts.count, min=1, max=4096, tooltip="How many prompts."),
                io.String.Input(
                    "template",
                    multiline=True,
                    default=Prompts.template,
                    advanced=True,
                    tooltip="How a prompt is put together, one template a line: words, alternatives in curly brackets, "
                    "and places for trigger words, training tags and seed prompts. The help page has the grammar.",
                ),
                io.Int.Input(
                    "seed",
                    default=Prompts.seed,
                    min=0,
                    max=2**32 - 1,
                    advanced=True,
                    control_after_generate="fixed",
                    tooltip="Seed of the choices. The same seed, the same prompts.",
                ),
                io.LoraModel.Input(
                    "lora",
                    optional=True,
                    tooltip="The LoRA the prompts are for. Training tags, their counts and trigger words are read from "
                    "its file.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="A text encoder that can write (Qwen, Gemma), from Load CLIP. It goes on from the seed "
                    "prompts, as in Trans-LoRA; what it cannot give comes from the template.",
                ),
                io.Float.Input(
                    "guard_share",
                    default=-1.0,
                    min=-1.0,
                    max=0.9,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="Share of the prompts that are ordinary ones without the trigger words, so that what is "
                    "distilled from them leaves the rest of the target alone. -1: a quarter where the LoRA's file "
                    "tells trigger words, else none.",
                ),
            ],
            outputs=[
                io.String.Output("prompts", display_name="prompts", tooltip="The prompts, one a line."),
                io.String.Output("report", display_name="report", tooltip="Where the prompts came from, in sentences."),
            ],
        )

    @classmethod
    def execute(cls, seed_prompts, count, template, seed, lora=None, clip=None, guard_share=-1.0) -> io.NodeOutput:
        from ..jobs.distill.prompts import PromptSettings, synthesize

        made = synthesize(
            PromptSettings(
                seed_prompts.splitlines(),
                None if lora is None else to_adapter(lora),
                template,
                count,
                seed,
                None if guard_share < 0 else guard_share,
            ),
            None if clip is None else host.ClipWriter(clip),
            progress=host.Progress(spoken=True),
        )
        return io.NodeOutput(made.text, made.note, ui={"text": (f"{made.note}\n\n{made.text}",)})
