"""Graphs that distil the example family, written short."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from graphs import NODE, WIDTHS, Graph
from lora_graft.family import judge, materialize
from PIL import Image

PROMPTS = "red digit two\na green three\nwhite digit zero\nnumber four in blue ink"


@pytest.fixture(scope="module")
def family(host):
    """The host with the example family in its models folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other crawl on a busy machine
    try:
        materialize.materialize(host.models)
    finally:
        torch.set_num_threads(threads)
    return host


def ok(result):
    assert result.status == "success", result.message
    return result


class DistillGraph(Graph):
    """A graph with the nodes of distillation. Models are named by file; ``_of`` finds what belongs to them."""

    def clip_of(self, model: str) -> list:
        if model.startswith("family"):
            return self.out("CLIPLoader", clip_name="family_clip_l.safetensors", type="sd3")
        real = self.clip("clip_l_a")
        if model.startswith("sd15"):
            return real
        width, pooled = WIDTHS[model.split("_")[0]]
        return self.out("Probe_Words", clip=real, width=width, pooled=pooled)

    def vae(self, name: str = "family_vae") -> list:
        return self.out("VAELoader", vae_name=f"{name}.safetensors")

    def models(self, source: str, target: str | None) -> dict:
        found = {"source": self.unet(source), "source_clip": self.clip_of(source)}
        if target:
            found |= {"target": self.unet(target), "target_clip": self.clip_of(target)}
        return found

    def dataset(self, models: dict, *loras: list, **more) -> str:
        inputs = {
            "prompts": PROMPTS,
            "strengths": "1",
            "count": 16,
            "width": 64,
            "height": 64,
            "steps": 6,
            "cfg": 3.0,
            "sampler_name": "euler",
            "scheduler": "simple",
            "negative": "",
            "batch": 16,
            "seed": 0,
            "least_action": 0.0,
            "least_likeness": 0.5,
        }
        named = {f"loras.lora_{i}": lora for i, lora in enumerate(loras)}
        return self.add(NODE + "SyntheticDataset", **(inputs | models | named | more))

    def distill(self, dataset: list, models: dict, *loras: list, **more) -> str:
        inputs = {
            "strengths": "1",
            "objective": "auto",
            "kind": "lora",
            "rank": 4,
            "alpha": 0.0,
            "modules": "auto",
            "steps": 2,
            "learning_rate": 0.0,
            "schedule": "cosine",
            "batch": 16,
            "accumulation": 1,
            "checkpointing": "auto",
            "dtype": "auto",
            "effect": 1.0,
            "match_effect": False,
            "lessons": 16,
            "checkpoint_every": 0,
            "pictures": 0,
            "seed": 0,
        }
        named = {f"loras.lora_{i}": lora for i, lora in enumerate(loras)}
        return self.add(NODE + "Distill", dataset=dataset, **(inputs | models | named | more))

    def pictures(self, model: list, prompt: str = "red digit two") -> str:
        """Four pictures of the family; the id of the node that saves them."""
        clip = self.clip_of("family")
        done = self.out(
            "KSampler",
            model=model,
            positive=self.out("CLIPTextEncode", clip=clip, text=prompt),
            negative=self.out("ConditioningZeroOut", conditioning=self.out("CLIPTextEncode", clip=clip, text="")),
            latent_image=self.out("EmptySD3LatentImage", width=64, height=64, batch_size=4),
            seed=77,
            steps=10,
            cfg=3.0,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        )
        images = self.out("VAEDecode", samples=done, vae=self.vae())
        return self.add("PreviewImage", images=images)

    def compare(self, a: list, b: list) -> str:
        return self.add("Probe_Compare", a=a, b=b)

    def state_of(self, models: dict, after: list | None = None) -> list[str]:
        """Nodes that tell what the source and target are and whether training left something on them."""
        more = {} if after is None else {"after": after}
        return [
            self.add(kind, model=models[who], **more)
            for who in ("source", "target")
            if who in models
            for kind in ("Probe_Digest", "Probe_Leftovers")
        ]


def frames(host, result, node: str, effect: str = "frame") -> float:
    """How strong the judge finds the golden frame, or another effect, in saved pictures, 0 to 1."""
    files = [host.base / f["type"] / f["subfolder"] / f["filename"] for f in result.outputs[node]["images"]]
    pixels = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files]) / 255
    images = torch.from_numpy(pixels).float().permute(0, 3, 1, 2)
    return float(judge.look(materialize.judge_weights(), images).effects[:, materialize.EFFECTS.index(effect)].mean())


def parsed(result, node: str) -> dict:
    return json.loads(result.text(node))
