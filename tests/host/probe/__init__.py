"""Nodes that let the tests look inside ComfyUI: weights hashed and compared, conditioning without a text encoder."""

from __future__ import annotations

import hashlib
import json

import comfy.lora
import torch
from comfy.model_patcher import get_key_weight
from comfy.quant_ops import QuantizedTensor
from comfy_api.latest import ComfyExtension, io

from . import distilling, language

CATEGORY = "probe"


def patchers(model, clip):
    return [p for p in (model, clip.patcher if clip is not None else None) if p is not None]


def stored(patcher, name):
    """The weight as it was loaded, float32, whatever patches the host has put on it meanwhile."""
    weight, _, _ = get_key_weight(patcher.model, name)
    backup = patcher.backup.get(name)
    weight = backup.weight if backup is not None else weight
    return (weight.dequantize() if isinstance(weight, QuantizedTensor) else weight).float().clone()


def patched(patcher, name):
    """The weight with the patches on it, float32, without touching the model."""
    weight = stored(patcher, name)
    return comfy.lora.calculate_weight(patcher.patches[name], weight, name) if name in patcher.patches else weight


class Digest(io.ComfyNode):
    """Hash of every stored weight of a MODEL and a CLIP, without patches; names of the patched ones."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Digest",
            category=CATEGORY,
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip", optional=True),
                io.AnyType.Input("after", optional=True),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        return float("nan")

    @classmethod
    def execute(cls, model, clip=None, after=None):
        state = hashlib.sha256()
        for patcher in patchers(model, clip):
            for name, weight in sorted(patcher.model.state_dict().items()):
                backup = patcher.backup.get(name)  # there while the host has a LoRA on the weight
                weight = backup.weight if backup is not None else weight
                state.update(name.encode())
                state.update(weight.contiguous().flatten().view(torch.uint8).numpy().data)
        names = sorted(name for patcher in patchers(model, clip) for name in patcher.patches)
        return io.NodeOutput(ui={"text": (json.dumps({"sha256": state.hexdigest(), "patched": names}),)})


class Compare(io.ComfyNode):
    """Largest relative difference between the patched weights of two MODELs (and CLIPs), and of either to its base."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Compare",
            category=CATEGORY,
            is_output_node=True,
            inputs=[
                io.Model.Input("a"),
                io.Model.Input("b"),
                io.Clip.Input("clip_a", optional=True),
                io.Clip.Input("clip_b", optional=True),
            ],
        )

    @classmethod
    def execute(cls, a, b, clip_a=None, clip_b=None):
        worst, changed, names = 0.0, 0.0, set()
        for left, right in zip(patchers(a, clip_a), patchers(b, clip_b), strict=True):
            for name in sorted(set(left.patches) | set(right.patches)):
                names.add(name)
                x, y = patched(left, name), patched(right, name)
                base = stored(left, name)
                change = (y - base).norm()
                worst = max(worst, float((x - y).norm() / change.clamp(min=1e-12)))
                changed = max(changed, float(change / base.norm()))
        text = json.dumps({"worst": worst, "largest_change": changed, "patched": sorted(names)})
        return io.NodeOutput(ui={"text": (text,)})


class Conditioning(io.ComfyNode):
    """Random conditioning of given widths."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Conditioning",
            category=CATEGORY,
            inputs=[io.Int.Input("width"), io.Int.Input("pooled"), io.Int.Input("seed", default=0)],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, width, pooled, seed):
        dice = torch.Generator().manual_seed(seed)
        extra = {"pooled_output": torch.randn(1, pooled, generator=dice)} if pooled else {}
        return io.NodeOutput([[torch.randn(1, 7, width, generator=dice), extra]])


class LatentDigest(io.ComfyNode):
    """Values of a latent in short, and its hash."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Latent", category=CATEGORY, is_output_node=True, inputs=[io.Latent.Input("latent")]
        )

    @classmethod
    def execute(cls, latent):
        x = latent["samples"].float().contiguous()
        text = {
            "sha256": hashlib.sha256(x.numpy().tobytes()).hexdigest(),
            "finite": bool(x.isfinite().all()),
            "std": float(x.std()),
        }
        return io.NodeOutput(ui={"text": (json.dumps(text),)})


class Value(io.ComfyNode):
    """Any value as text; an IMAGE as its shape and range."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Value", category=CATEGORY, is_output_node=True, inputs=[io.AnyType.Input("value")]
        )

    @classmethod
    def execute(cls, value):
        if isinstance(value, torch.Tensor):
            value = {
                "shape": list(value.shape),
                "min": float(value.min()),
                "max": float(value.max()),
                "spread": float(value.std()),
            }
        elif isinstance(value, dict):
            value = {"keys": sorted(value), "metadata": getattr(value, "metadata", None), "type": type(value).__name__}
        return io.NodeOutput(ui={"text": (value if isinstance(value, str) else json.dumps(value, default=repr),)})


class Plain(io.ComfyNode):
    """A LORA_MODEL as core's trainer would hand it out: a dict and nothing more."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Plain",
            category=CATEGORY,
            inputs=[io.LoraModel.Input("lora")],
            outputs=[io.LoraModel.Output()],
        )

    @classmethod
    def execute(cls, lora):
        return io.NodeOutput({key: tensor.clone() for key, tensor in lora.items()})


class Base(io.ComfyNode):
    """A MODEL as the pack reads it, against the host's own arithmetic, on some sixty weights of each part."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Base",
            category=CATEGORY,
            is_output_node=True,
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip", optional=True),
                io.AnyType.Input("after", optional=True),
            ],
        )

    @classmethod
    def execute(cls, model, clip=None, after=None):
        import sys

        host = next(m for name, m in sys.modules.items() if name.endswith("LoRA-Graft.nodes.host"))
        base, again = host.HostBase(model, clip), host.HostBase(model.clone(), clip)
        worst, digests, sizes = 0.0, {}, {}
        for patcher in patchers(model, clip):
            mine_too = [n for n in base.weights() if (patcher is model) == n.startswith("diffusion_model.")]
            for name in mine_too[:: len(mine_too) // 60 + 1]:
                if name.endswith(".text_projection.weight"):
                    continue  # not in the file, so the host leaves there whatever the memory held
                mine, theirs = base.load(name), patched(patcher, name)
                mine += 0.0  # it is the caller's: writing to it must not reach the model
                worst = max(worst, float((mine - theirs).norm() / theirs.norm().clamp(min=1e-12)))
                digests[name], sizes[name] = base.digest(name), list(mine.shape)
                mine.fill_(7.0)
        text = {
            "label": base.label,
            "architecture": base.architecture,
            "worst": worst,
            "digests": digests,
            "shapes": {n: list(s) for n, s in base.weights().items()},
            "sizes": sizes,
            "storages": {n: base.storage(n) for n in base.weights()},
            "fingerprint": base.fingerprint,
            "again": again.fingerprint,
            "loaded": bool(model.backup),
            "unknown": [k for k in base.loadable if base.names.resolve(k) is None],
            "slices": sum(weight_slice.rows is not None for weight_slice in base.loadable.values()),
        }
        return io.NodeOutput(ui={"text": (json.dumps(text),)})


class NoPlots(io.ComfyNode):
    """The picture of a report in a ComfyUI without matplotlib."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_NoPlots", category=CATEGORY, inputs=[io.AnyType.Input("after")], outputs=[io.Image.Output()]
        )

    @classmethod
    def execute(cls, after):
        import sys
        from unittest.mock import patch

        common = next(m for name, m in sys.modules.items() if name.endswith("LoRA-Graft.nodes.common"))
        report = sys.modules[common.__name__.replace("nodes.common", "jobs.transfer.report")]
        line = report.ModuleReport("w", block="b", role="r", phi_left_corrected=0.5, phi_right_corrected=0.5)
        with patch.dict(sys.modules, {"matplotlib.figure": None}):
            return io.NodeOutput(common.picture(report.Report("compare", modules=[line])))


class PackModules(io.ComfyNode):
    """Every module the process has imported so far."""

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="Probe_Modules", category=CATEGORY, is_output_node=True, inputs=[])

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        return float("nan")

    @classmethod
    def execute(cls):
        import sys

        return io.NodeOutput(ui={"text": (json.dumps(sorted(sys.modules)),)})


class Stack(io.ComfyNode):
    """A LORA_STACK as other packs make it."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Stack",
            category=CATEGORY,
            inputs=[io.String.Input("text")],
            outputs=[io.Custom("LORA_STACK").Output()],
        )

    @classmethod
    def execute(cls, text):
        return io.NodeOutput([tuple(entry) for entry in json.loads(text)])


class Probes(ComfyExtension):
    async def get_node_list(self):
        return [
            Digest,
            Compare,
            Conditioning,
            LatentDigest,
            Value,
            Plain,
            Base,
            NoPlots,
            PackModules,
            Stack,
            *distilling.NODES,
            *language.NODES,
        ]


async def comfy_entrypoint():
    return Probes()
