"""Memory and speed of learning on a real-sized UNet, in ComfyUI's own process and Python:

    COMFYUI_PYTHON benchmarks/host.py COMFYUI_FOLDER distill_memory.py [--size sd15|vega|sdxl] [--pixels 64]

Builds a UNet of that size with random fp16 weights, loads it as the host does, hangs a LoRA student on every attention
and feed-forward weight and learns a few steps. Prints as JSON: resident memory once the model is loaded, the peak while
learning and their ratio (on a GPU the allocator's figures), the same without checkpointing if asked, seconds per step.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import time
from pathlib import Path

import comfy.ops
import comfy.sd
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from lora_graft.jobs.distill.distill import Distillation
from lora_graft.jobs.distill.distill import build as students_of
from lora_graft.jobs.distill.noisy_latents import HELD_OUT, NoisyLatents
from lora_graft.jobs.distill.schedule import Training
from lora_graft.jobs.distill.target_modules import target_modules
from lora_graft.jobs.distill.train import train
from lora_graft.nodes.host.denoiser import HostDenoiser

UNET = dict(
    image_size=32,
    in_channels=4,
    out_channels=4,
    model_channels=320,
    use_spatial_transformer=True,
    legacy=False,
    use_temporal_attention=False,
    use_temporal_resblock=False,
)
SIZES = {
    "sd15": dict(
        UNET,
        num_res_blocks=[2, 2, 2, 2],
        channel_mult=[1, 2, 4, 4],
        num_heads=8,
        context_dim=768,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_middle=1,
        transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        use_linear_in_transformer=False,
    ),
    "vega": dict(
        UNET,
        num_res_blocks=[2, 2, 2],
        channel_mult=[1, 2, 4],
        num_head_channels=64,
        context_dim=2048,
        transformer_depth=[0, 0, 1, 1, 2, 2],
        transformer_depth_middle=-1,
        transformer_depth_output=[0, 0, 0, 1, 1, 1, 2, 2, 2],
        use_linear_in_transformer=True,
        num_classes="sequential",
        adm_in_channels=2816,
    ),
    "sdxl": dict(
        UNET,
        num_res_blocks=[2, 2, 2],
        channel_mult=[1, 2, 4],
        num_head_channels=64,
        context_dim=2048,
        transformer_depth=[0, 0, 2, 2, 10, 10],
        transformer_depth_middle=10,
        transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
        use_linear_in_transformer=True,
        num_classes="sequential",
        adm_in_channels=2816,
    ),
}


def memory(name: str) -> float:
    """VmRSS or VmHWM of this process in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) / 1024


class Reader(HostDenoiser):
    """A denoiser whose prompts are random conditioning of the right widths, so that no text encoder is needed."""

    def encode(self, prompts):
        config, found = self.config, []
        for prompt in prompts:
            dice = torch.Generator().manual_seed(len(prompt))
            extra = {"pooled_output": torch.randn(1, 1280, generator=dice)} if "adm_in_channels" in config else {}
            found.append([[torch.randn(1, 77, config["context_dim"], generator=dice), extra]])
        return found


def build(size: str):
    """The MODEL, made and loaded as the host makes and loads one."""
    with torch.device("meta"):
        shapes = {
            name: t.shape
            for name, t in UNetModel(
                **SIZES[size], operations=comfy.ops.manual_cast, device="meta", dtype=torch.float16
            )
            .state_dict()
            .items()
        }
    dice, state = torch.Generator().manual_seed(0), {}
    for name, shape in shapes.items():
        scale = 0.5 / max(1, torch.Size(shape[1:]).numel()) ** 0.5 if len(shape) > 1 else 0.0
        state[name] = torch.full(shape, float(name.endswith("weight")), dtype=torch.float16)  # norms 1, biases 0
        if scale:
            state[name].normal_(0, scale, generator=dice)
    with torch.inference_mode():
        return comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": torch.float16})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="sdxl")
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-checkpointing", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = build(options.size)
    cuda = model.load_device.type == "cuda"
    where = model.load_device
    with torch.inference_mode(False):
        denoiser = Reader(model)
        denoiser.config = SIZES[options.size]
        side = options.pixels // 8
        with denoiser.loaded((options.batch, 4, side, side)):
            pass
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            loaded = torch.cuda.memory_allocated() / 2**20
        else:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
            loaded = memory("VmRSS")
        settings = Distillation(
            rank=options.rank,
            where="attention + feed-forward",
            training=Training(
                steps=options.steps, batch=options.batch, accumulation=1, checkpointing=not options.no_checkpointing
            ),
        )
        names, _ = target_modules(denoiser, settings.where, [], [])
        students = students_of(denoiser, names, settings, {}, where)
        count = options.batch + HELD_OUT
        dice = torch.Generator().manual_seed(1)
        latents = torch.randn(4, 4, side, side, generator=dice)
        pick = torch.arange(count) % 4
        training_set = NoisyLatents(
            latents,
            pick,
            torch.arange(count),
            denoiser.sigmas(torch.linspace(0.1, 0.9, count)),
            ["", "a"],
            pick % 2,
            latents[pick].clone(),
        )
        started = []
        result = train(
            denoiser, students, training_set, settings.training, progress=lambda *_: started.append(time.time())
        )
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else memory("VmHWM")
    print(
        json.dumps(
            {
                "size": options.size,
                "weights": len(names),
                "numbers": sum(p.numel() for p in model.model.parameters()),
                "dtype": str(model.model.get_dtype()),
                "loaded MB": round(loaded),
                "peak MB": round(peak),
                "ratio": round(peak / loaded, 3),
                "checkpointing": not options.no_checkpointing,
                "seconds per step": round(
                    min((b - a for a, b in zip(started, started[1:], strict=False)), default=0), 2
                ),
                "losses": result.losses,
                "device": torch.cuda.get_device_name() if cuda else "CPU",
            }
        )
    )


if __name__ == "__main__":
    main()
