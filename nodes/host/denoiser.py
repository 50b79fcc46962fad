"""ComfyUI's MODEL and CLIP as a Denoiser: predictions, pictures, and students hooked onto its layers.

The MODEL that comes in is never changed: students live in forward hooks that are taken off again, and LoRAs on the
teacher are the host's own patches on clones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial

import torch
from torch import Tensor

from ...errors import SettingsError
from ...kernels.distill import levels
from ...kernels.distill.branch import changed
from .base import HostBase
from .learning import checkpointed, ordinary_tensors, sparing
from .work import check_cancelled

LIMIT = 999.0  # largest sigma: a flow's time of .999
DTYPES = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class HostDenoiser:
    """A MODEL with its CLIP; see jobs/distill/denoiser.py.

    Args:
        model: the host's MODEL, with or without LoRAs on it.
        clip: its CLIP; None where nothing is encoded.
        vae: its VAE, which tells latent spaces of one form apart; None trusts the form.
        dtype: of the computation, a name in DTYPES; auto is the host's choice.
        conditionings: of prompts encoded already; the models of one run share it, so that each is encoded once.
    """

    def __init__(
        self, model, clip=None, vae=None, *, dtype: str = "auto", label: str = "", conditionings: dict | None = None
    ):
        self.patcher, self.clip, self.vae = model, clip, vae
        if DTYPES[dtype] is not None:
            self.patcher = model.clone()
            self.patcher.set_model_compute_dtype(DTYPES[dtype])
        self.base = HostBase(model)
        self.label = label or self.base.label
        self.conditionings = {} if conditionings is None else conditionings
        self._ready: dict[tuple, dict] = {}

    @cached_property
    def space(self) -> str:
        """The latent format by name and numbers, and a mark of the VAE's weights where there is one."""
        form = self.patcher.get_model_object("latent_format")
        marks = [type(form).__name__, f"{form.latent_channels} channels", f"scale {form.scale_factor}"]
        shift = getattr(form, "shift_factor", None)
        marks += [f"shift {shift}"] if shift else []
        return ", ".join(marks + ([f"VAE {mark_of(self.vae)}"] if self.vae is not None else []))

    @property
    def channels(self) -> int:
        return self.patcher.get_model_object("latent_format").latent_channels

    @property
    def real(self):
        """The network as the host wraps it."""
        return self.patcher.model

    @property
    def sampling(self):
        return self.patcher.get_model_object("model_sampling")

    def encode(self, prompts: Sequence[str]) -> list[list]:
        if self.clip is None:
            raise SettingsError(
                f"{self.label} has no text encoder here", hint="Connect the CLIP that belongs to the model."
            )
        encoder = self.clip.patcher
        whose = (id(encoder.model), encoder.patches_uuid if encoder.patches else None, self.clip.layer_idx)
        for prompt in prompts:
            if (*whose, prompt) not in self.conditionings:
                check_cancelled()
                self.conditionings[(*whose, prompt)] = self.clip.encode_from_tokens_scheduled(
                    self.clip.tokenize(prompt)
                )
        return [self.conditionings[(*whose, prompt)] for prompt in prompts]

    def sigmas(self, shares: Tensor) -> Tensor:
        from comfy.model_sampling import CONST

        sampling = self.sampling
        own = torch.tensor([float(sampling.percent_to_sigma(1 - share)) for share in shares.double().tolist()])
        own = own.clamp(max(float(sampling.sigma_min), 1e-4), float(sampling.sigma_max))
        flow = isinstance(sampling, CONST)
        return (levels.sigma_of_flow(own.clamp(max=LIMIT / (1 + LIMIT))) if flow else own).clamp(max=LIMIT)

    def inward(self, latents: Tensor) -> Tensor:
        return self.real.process_latent_in(latents)

    @contextmanager
    def loaded(self, shape: Sequence[int]) -> Iterator[None]:
        import comfy.model_management as mm

        mm.load_models_gpu([self.patcher], memory_required=self.real.memory_required(list(shape)))
        self.patcher.pre_run()
        try:
            yield
        finally:
            self.patcher.cleanup()
            self._ready.clear()

    def predict(self, clean: Tensor, noise: Tensor, sigma: Tensor, conditions: Sequence[list]) -> Tensor:
        from comfy.model_sampling import CONST

        check_cancelled()
        device, sampling = self.patcher.load_device, self.sampling
        clean, noise, sigma = clean.to(device), noise.to(device), sigma.to(device)
        own = levels.flow_of_sigma(sigma) if isinstance(sampling, CONST) else sigma  # as the host counts for this model
        noisy = sampling.noise_scaling(own, noise, clean)
        ready = [self._conds(condition, clean[:1]) for condition in conditions]
        parts, order = [], []
        for group in alike(ready):
            joined = {
                name: value.concat([ready[i][name] for i in group[1:]]) for name, value in ready[group[0]].items()
            }
            options = dict(self.patcher.model_options.get("transformer_options", {}))
            options |= {"cond_or_uncond": [0], "sigmas": own[group]}
            parts.append(self.real.apply_model(noisy[group], own[group], transformer_options=options, **joined))
            order += group
        return torch.cat(parts)[torch.tensor(order).argsort().to(device)].float()

    def _conds(self, condition: list, like: Tensor) -> dict:
        """The host's model inputs for one prompt, one sample each, made once per loading."""
        import comfy.sampler_helpers
        import comfy.samplers

        key = (id(condition), tuple(like.shape))
        if key not in self._ready:
            with torch.no_grad():
                conds = comfy.sampler_helpers.convert_cond(plain(condition[:1]))
                conds = comfy.samplers.encode_model_conds(
                    self.real.extra_conds,
                    conds,
                    torch.zeros_like(like),
                    like.device,
                    "positive",
                    latent_image=torch.zeros_like(like),
                )
                made = {
                    name: value.process_cond(batch_size=1, area=None, device=like.device)
                    for name, value in conds[0]["model_conds"].items()
                }
            self._ready[key] = made
        return self._ready[key]

    def learnable(self) -> dict[str, tuple[int, ...]]:
        weights = self.base.weights()
        return {name: weights[name] for name, _ in self._layers() if name in weights}

    def _layers(self) -> Iterator[tuple[str, torch.nn.Module]]:
        for name, module in self.real.diffusion_model.named_modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and module.weight is not None:
                yield f"diffusion_model.{name}.weight", module

    @contextmanager
    def training(self, students: Mapping, *, checkpointing: bool) -> Iterator[None]:
        import comfy.model_management as mm

        layers, before = dict(self._layers()), mm.in_training
        with ExitStack() as stack:
            stack.enter_context(ordinary_tensors(self.real))
            stack.enter_context(sparing(self.real.diffusion_model))
            if checkpointing:
                stack.enter_context(checkpointed(self.real.diffusion_model))
            for name, student in students.items():
                shape = self.base.weights()[name]
                hook = layers[name].register_forward_hook(partial(_hook, student=student, shape=shape))
                stack.callback(hook.remove)
            mm.in_training = True
            stack.callback(setattr, mm, "in_training", before)
            yield

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], how, progress) -> Tensor:
        import comfy.sample

        empty = torch.zeros(1, 4, how.height // 8, how.width // 8)
        empty = comfy.sample.fix_empty_latent_channels(self.patcher, empty, 8)
        positive, negative = self.encode(list(prompts)), self.encode([how.negative])[0]
        found: list[Tensor | None] = [None] * len(prompts)
        done = 0
        for group in _batches(positive, how.batch):
            progress(done, len(prompts), f"{self.label} draws")
            noise = torch.cat([comfy.sample.prepare_noise(empty, seeds[i]) for i in group])
            latents = comfy.sample.sample(
                self.patcher,
                noise,
                how.steps,
                how.cfg,
                how.sampler,
                how.scheduler,
                _joined([positive[i] for i in group]),
                negative,
                empty.repeat(len(group), *[1] * (empty.ndim - 1)),
                disable_pbar=True,
                seed=seeds[group[0]],
            )
            for i, latent in zip(group, latents, strict=True):
                found[i] = latent.float().cpu()
            done += len(group)
        return torch.stack(found)


def training_dtype(model) -> str:
    """How a MODEL should compute while it learns: as it does, except that fp16 gives way to bf16 or fp32, in which
    gradients do not vanish.
    """
    import comfy.model_management as mm

    if model.model.get_dtype_inference() != torch.float16:
        return "auto"
    return "bf16" if mm.should_use_bf16(model.load_device) else "fp32"


def _hook(module, inputs, output, *, student, shape):
    """A forward hook: the layer's output with the student's change in it."""
    layer = {"layer_kind": "linear"}
    if isinstance(module, torch.nn.Conv2d):
        layer = {
            "layer_kind": "conv2d",
            "stride": module.stride,
            "padding": module.padding,
            "dilation": module.dilation,
            "groups": module.groups,
        }
    bias = module.bias.to(output.device) if module.bias is not None else None
    return changed(output, inputs[0].to(output.dtype), student.change(), bias, weight_shape=shape, **layer)


def alike(conditions: Sequence[Mapping]) -> list[list[int]]:
    """Indices of model inputs that the host can put into one batch, in order."""
    groups: list[list[int]] = []
    for i, inputs in enumerate(conditions):
        for group in groups:
            first = conditions[group[0]]
            if first.keys() == inputs.keys() and all(first[name].can_concat(inputs[name]) for name in first):
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def mark_of(vae) -> str:
    """A short mark of a VAE's weights: equal for equal weights."""
    import hashlib

    state = hashlib.sha256()
    for name, weight in sorted(vae.first_stage_model.state_dict().items()):
        sample = weight.detach().float().flatten()[:: max(1, weight.numel() // 16)][:16]
        state.update(f"{name}{tuple(weight.shape)}{sample.tolist()}".encode())
    return state.hexdigest()[:8]


def plain(value):
    """The same conditioning with tensors that a backward pass may keep."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    return value


def _batches(conditions: Sequence[list], most: int) -> Iterator[list[int]]:
    """Indices of prompts whose tensors have one shape, up to `most` together."""
    groups: dict[object, list[int]] = {}
    for i, condition in enumerate(conditions):
        shape = _shape(condition)
        groups.setdefault(shape if shape is not None else i, []).append(i)
    for group in groups.values():
        for start in range(0, len(group), most):
            yield group[start : start + most]


def _shape(condition: list) -> tuple | None:
    """What must agree for several prompts to be drawn as one batch; None where they cannot be."""
    if len(condition) != 1 or any(isinstance(v, dict) for v in condition[0][1].values()):
        return None
    text, more = condition[0]
    return (tuple(text.shape), *((k, tuple(v.shape) if isinstance(v, Tensor) else repr(v)) for k, v in more.items()))


def _joined(conditions: list[list]) -> list:
    """Conditionings of one shape as one whose tensors have a row for each sample."""
    if len(conditions) == 1:
        return conditions[0]
    text = torch.cat([c[0][0] for c in conditions])
    first = conditions[0][0][1]
    more = {
        key: torch.cat([c[0][1][key] for c in conditions]) if isinstance(value, Tensor) else value
        for key, value in first.items()
    }
    return [[text, more]]
