"""Nodes that look at distillation from inside: text encoders of any width, students against their files, leftovers."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import sys

import comfy.model_management
import comfy.sd
import torch
from comfy_api.latest import io

CATEGORY = "probe"


def pack(module):
    """A module of the pack as this process loaded it."""
    host = next(name for name in sys.modules if name.endswith("LoRA-Graft.nodes.host"))
    return importlib.import_module(f"{host.removesuffix('.nodes.host')}.{module}")


class Words(comfy.sd.CLIP):
    """A text encoder that knows no words: random tokens of the asked width from each prompt's hash, 7 for each 77."""

    def __init__(self):
        super().__init__(no_init=True)

    def clone(self, *args, **kwargs):
        return self.around(super().clone(*args, **kwargs), self.width, self.pooled)

    @classmethod
    def around(cls, clip, width, pooled):
        made = cls()
        made.__dict__ |= copy.copy(clip.__dict__)
        made.width, made.pooled = width, pooled
        return made

    def tokenize(self, text, **more):
        return text

    def encode_from_tokens_scheduled(self, tokens, **more):
        seed = int.from_bytes(hashlib.sha256(tokens.encode()).digest()[:4], "little")
        dice = torch.Generator().manual_seed(seed)
        extra = {"pooled_output": torch.randn(1, self.pooled, generator=dice)} if self.pooled else {}
        length = 7 * (1 + len(tokens.split()) // 77)
        return [[torch.randn(1, length, self.width, generator=dice), extra]]


class MakeWords(io.ComfyNode):
    """A CLIP whose conditioning has these widths; its weights are those of a real one."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Words",
            category=CATEGORY,
            inputs=[io.Clip.Input("clip"), io.Int.Input("width"), io.Int.Input("pooled")],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, clip, width, pooled):
        return io.NodeOutput(Words.around(clip, width, pooled))


class Student(io.ComfyNode):
    """Students of every kind in training against the files they write, loaded by the host; and checkpointing."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Student",
            category=CATEGORY,
            is_output_node=True,
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip"),
                io.String.Input("dtype", default="auto"),
                io.String.Input("kinds", default=""),
            ],
        )

    @classmethod
    def execute(cls, model, clip, dtype, kinds):
        students_of = pack("kernels.distill.students").STUDENTS
        with torch.inference_mode(False):
            seen = {kind: cls.look(model, clip, dtype, students_of[kind]) for kind in (kinds.split() or students_of)}
        return io.NodeOutput(ui={"text": (json.dumps(seen),)})

    @classmethod
    def look(cls, model, clip, dtype, kind):
        common, host = pack("nodes.common"), pack("nodes.host")
        HostDenoiser = pack("nodes.host.denoiser").HostDenoiser
        denoiser = HostDenoiser(model, clip, dtype=dtype)
        shapes = denoiser.learnable()
        wanted = [n for n in shapes if ".block" in n or "blocks." in n]
        names = wanted[:: max(1, len(wanted) // 14)]
        dice = torch.Generator().manual_seed(1)
        students = {name: kind.create(shapes[name], 4, 2.0, dice, weight=denoiser.base.load(name)) for name in names}
        params = [p for student in students.values() for p in student.params.values()]
        with torch.no_grad():
            for p in params:
                p += (0.1 if p.ndim > 1 else 0.3 * p.abs().mean() + 0.3) * torch.randn(p.shape, generator=dice)
        clean, noise = (torch.randn(3, denoiser.channels, 8, 8, generator=dice) for _ in range(2))
        words = denoiser.encode(["a box", "", "word " * 100])
        given = clean, noise, denoiser.sigmas(torch.tensor([0.2, 0.5, 0.9])), words
        with denoiser.loaded((3, denoiser.channels, 8, 8)):
            with torch.no_grad():
                plain = denoiser.predict(*given)
            answers = []
            for checkpointing in (False, True):
                with denoiser.training(students, checkpointing=checkpointing):
                    answer = denoiser.predict(*given)
                    answer.square().mean().backward()
                    answers.append((answer.detach(), [p.grad for p in params]))
                for p in params:
                    p.grad = None
            left = leftovers(model.model.diffusion_model)
            with torch.no_grad():
                again = denoiser.predict(*given)
        export = pack("jobs.distill.distill").export
        state = common.fitting(export(students, denoiser, []), host.HostBase(model))
        patched = HostDenoiser(host.apply(model, None, state, 1.0, 1.0)[0], clip, dtype=dtype)
        with patched.loaded((3, denoiser.channels, 8, 8)), torch.no_grad():
            loaded = patched.predict(*given)
        (answer, grads), (twice, more) = answers
        effect = (loaded - plain).norm()
        sizes = [float(g.norm()) if g is not None else -1.0 for g in grads]
        return {
            "off": float((answer - loaded).norm() / effect),
            "effect": float(effect / plain.norm()),
            "again": float((again - plain).abs().max()),
            "left": left,
            "students": len(names),
            "convolutions": sum(len(shapes[n]) > 2 for n in names),
            "patched": len(patched.patcher.patches),
            "finite": all(s == s and s != float("inf") for s in sizes),
            "untouched": sum(s <= 0 for s in sizes),
            "params": len(params),
            "twice": float((twice - answer).norm() / effect),
            "grads": max(float((a - b).norm() / b.norm().clamp(min=1e-20)) for a, b in zip(more, grads, strict=True)),
            "alone": alone(denoiser, given),
            "dtype": str(denoiser.patcher.model.get_dtype_inference()),
        }


def alone(denoiser, given) -> float:
    """Largest difference between samples predicted as a batch and one by one, whatever their prompts' lengths."""
    clean, noise, sigma, words = given
    with denoiser.loaded(tuple(clean.shape)), torch.no_grad():
        both = denoiser.predict(*given)
        single = [
            denoiser.predict(clean[i : i + 1], noise[i : i + 1], sigma[i : i + 1], words[i : i + 1]) for i in range(3)
        ]
    return float((torch.cat(single) - both).norm() / both.norm())


def leftovers(network) -> dict:
    """What training may leave behind on a network: counts of each, all 0 when it is as it was."""
    modules, params = list(network.modules()), list(network.parameters())
    return {
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules),
        "overrides": sum("forward" in m.__dict__ for m in modules),
        "requires_grad": sum(p.requires_grad for p in params),
        "grads": sum(p.grad is not None for p in params),
        "in_training": int(comfy.model_management.in_training),
    }


class Leftovers(io.ComfyNode):
    """What training left behind on a MODEL."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Leftovers",
            category=CATEGORY,
            is_output_node=True,
            not_idempotent=True,
            inputs=[io.Model.Input("model"), io.AnyType.Input("after", optional=True)],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        return float("nan")

    @classmethod
    def execute(cls, model, after=None):
        return io.NodeOutput(ui={"text": (json.dumps(leftovers(model.model.diffusion_model)),)})


class Eye(io.ComfyNode):
    """A CLIP_VISION that sees the mean colours of a picture's border and middle."""

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="Probe_Eye", category=CATEGORY, inputs=[], outputs=[io.ClipVision.Output()])

    @classmethod
    def execute(cls):
        class Seeing:
            def encode_image(self, image, **more):
                edge = torch.cat([image[:, :4].flatten(1, 2), image[:, -4:].flatten(1, 2)], 1).mean(1)
                return {"image_embeds": torch.cat([edge, image[:, 24:40, 24:40].mean((1, 2))], 1)}

        return io.NodeOutput(Seeing())


class Vision(io.ComfyNode):
    """A real CLIP_VISION of the host, as its loader makes it, with one narrow layer and weights of this seed."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Vision",
            category=CATEGORY,
            inputs=[io.Int.Input("seed"), io.Int.Input("size")],
            outputs=[io.ClipVision.Output()],
        )

    @classmethod
    def execute(cls, seed, size):
        from comfy.clip_vision import ClipVisionModel

        config = {
            "model_type": "clip_vision_model",
            "hidden_act": "quick_gelu",
            "hidden_size": 64,
            "image_size": 64,
            "intermediate_size": 128,
            "layer_norm_eps": 1e-5,
            "num_attention_heads": 2,
            "num_channels": 3,
            "num_hidden_layers": 2,
            "patch_size": 16,
            "projection_dim": size,
        }
        made, dice = ClipVisionModel(config), torch.Generator().manual_seed(seed)
        state = {
            name: torch.randn(weight.shape, generator=dice) / max(weight[0].numel(), 1) ** 0.5
            if weight.ndim > 1
            else torch.full(weight.shape, float(name.endswith("weight")))
            for name, weight in made.get_sd().items()
            if weight.is_floating_point()
        }
        missing, _ = made.load_sd(state)
        assert all("position_ids" in name for name in missing), missing
        return io.NodeOutput(made)


class Spoilt(io.ComfyNode):
    """A MODEL whose network raises, or answers NaN, from its n-th call on."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Spoilt",
            category=CATEGORY,
            inputs=[io.Model.Input("model"), io.Int.Input("calls"), io.String.Input("how")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, calls, how):
        model, count = model.clone(), [0]

        def wrapper(executor, *args, **kwargs):
            count[0] += 1
            if count[0] > calls and how == "raise":
                raise RuntimeError("spoilt on purpose")
            answer = executor(*args, **kwargs)
            return answer * float("nan") if count[0] > calls else answer

        import comfy.patcher_extension as extension

        extension.add_wrapper(
            extension.WrappersMP.APPLY_MODEL, wrapper, model.model_options.setdefault("transformer_options", {})
        )
        return io.NodeOutput(model)


NODES = [MakeWords, Student, Leftovers, Eye, Vision, Spoilt]
