"""Graphs in API form, written short."""

from __future__ import annotations

NODE = "LoraGraft_"
WIDTHS = {"sd15": (768, 0), "vega": (2048, 1280), "sd3": (4096, 2048), "flux": (4096, 768)}


class Graph(dict):
    """A graph in API form that grows node by node; ``add`` returns the node's id, ``out`` one of its outputs."""

    def add(self, kind: str, /, **inputs) -> str:
        name = str(len(self) + 1)
        self[name] = {"class_type": kind, "inputs": inputs}
        return name

    def out(self, kind: str, weight_slice: int = 0, /, **inputs) -> list:
        return [self.add(kind, **inputs), weight_slice]

    def unet(self, name: str) -> list:
        return self.out("UNETLoader", unet_name=f"{name}.safetensors", weight_dtype="default")

    def clip(self, name: str = "clip_l_a") -> list:
        return self.out("CLIPLoader", clip_name=f"{name}.safetensors", type="stable_diffusion")

    def lora(self, name: str) -> list:
        return self.out(NODE + "LoadLoRA", lora_name=f"{name}.safetensors")

    def transfer(self, lora: list, source: list, target: list, **more) -> str:
        inputs = dict(
            method="copy", subspace="fixed", k_share=0.25, k=16, energy=0.9, threshold=0.0, rank=0, strength=1.0
        )
        return self.add(NODE + "Transfer", lora=lora, source=source, target=target, **(inputs | more))

    def similarity(self, source: list, target: list, **more) -> str:
        inputs = dict(subspace="fixed", k_share=0.25, k=16, energy=0.9)
        return self.add(NODE + "SubspaceSimilarity", source=source, target=target, **(inputs | more))

    def save(self, lora: list, prefix: str, **more) -> str:
        inputs = dict(folder="output/loras", dtype="same", layout="same")
        return self.add(NODE + "SaveLoRA", lora=lora, filename_prefix=prefix, **(inputs | more))

    def value(self, of: list) -> str:
        return self.add("Probe_Value", value=of)

    def sample(self, model: list, arch: str, seed: int = 1) -> str:
        """Two steps from random conditioning; the id of the node that describes the latent."""
        width, pooled = WIDTHS[arch]
        if arch in ("sd3", "flux"):
            latent = self.out("EmptySD3LatentImage", width=64, height=64, batch_size=1)
        else:
            latent = self.out("EmptyLatentImage", width=64, height=64, batch_size=1)
        words = self.out("Probe_Conditioning", width=width, pooled=pooled, seed=5)
        done = self.out(
            "KSampler",
            model=model,
            positive=words,
            negative=words,
            latent_image=latent,
            seed=seed,
            steps=2,
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        )
        return self.add("Probe_Latent", latent=done)
