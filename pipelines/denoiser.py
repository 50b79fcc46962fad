"""A diffusers model as a Denoiser: predictions, pictures, and students hooked onto its layers.

The adapters of a teacher are added to the weights while it computes and taken off again, so that the source is in
memory once, whatever its LoRAs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ..adapters import Adapter
from ..jobs.distill.denoiser import Drawing, Trainee
from ..jobs.progress import Progress
from ..kernels.distill.branch import changed as with_change
from ..kernels.distill.students import Change
from .bench import Bench
from .family import Conditioning
from .noise import LIMIT
from .open import Opened
from .weights import changed, row_index


class DiffusersDenoiser:
    """A model, with or without adapters; see jobs/distill/denoiser.py.

    Args:
        opened: the model; several denoisers may share it.
        space: the name of its latent space.
        adapters: each with its strengths on the network and on the text encoders.
    """

    def __init__(
        self,
        opened: Opened,
        bench: Bench,
        space: str,
        adapters: Sequence[tuple[Adapter, float, float]] = (),
        label: str = "",
    ):
        self.opened, self.bench, self.space, self.adapters = opened, bench, space, list(adapters)
        self.base, self.channels, self.label = opened.base, opened.channels, label or opened.label
        self._known: dict[str, Conditioning] = {}
        self._depth = 0

    @property
    def network(self) -> nn.Module:
        return self.opened.network

    @property
    def _places(self):
        return self.opened.stored[self.opened.family.network]

    def encode(self, prompts: Sequence[str]) -> list[Conditioning]:
        fresh = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if fresh:
            encoders = self.opened.encoders()
            self.bench.bring(*encoders.values())
            with ExitStack() as stack, torch.no_grad():
                given = [(adapter, clip) for adapter, _, clip in self.adapters]
                for name, encoder in encoders.items():
                    stack.enter_context(changed(encoder, self.opened.stored[name], given, self.base))
                for prompt in fresh:
                    found = self.opened.family.encode(self.opened.pipe, prompt, self.bench.device)
                    self._known[prompt] = {part: tensor.cpu() for part, tensor in found.items()}
        return [self._known[prompt] for prompt in prompts]

    def sigmas(self, shares: Tensor) -> Tensor:
        return self.opened.noise.sigmas(shares).clamp(1e-4, LIMIT)

    def inward(self, latents: Tensor) -> Tensor:
        return (latents - self.opened.shift) * self.opened.scale

    @contextmanager
    def loaded(self, shape: Sequence[int]) -> Iterator[None]:
        self.bench.bring(self.network)
        given = [(adapter, model) for adapter, model, _ in self.adapters] if self._depth == 0 else []
        self._depth += 1
        try:
            with changed(self.network, self._places, given, self.base):
                yield
        finally:
            self._depth -= 1

    def predict(self, clean: Tensor, noise: Tensor, sigma: Tensor, conditions: Sequence[Conditioning]) -> Tensor:
        device = self.bench.device
        sigma = sigma.to(device)
        noisy = self.opened.noise.mixed(clean.to(device), noise.to(device), sigma)
        return self._clean(noisy, sigma, conditions)

    def _clean(self, noisy: Tensor, sigma: Tensor, conditions: Sequence[Conditioning]) -> Tensor:
        """x̂₀ of noisy latents in the noise's own form."""
        opened, device = self.opened, self.bench.device
        given = {
            part: torch.cat([condition[part] for condition in conditions]).to(device, opened.dtype)
            for part in conditions[0]
        }
        seen, time = opened.noise.inputs(noisy, sigma), opened.noise.time(sigma)
        output = opened.family.answer(opened.pipe, seen.to(opened.dtype), time, given)
        return opened.noise.clean(noisy, output.float(), sigma)

    def learnable(self) -> dict[str, tuple[int, ...]]:
        weights, layers = self.base.weights(), _layers(self.network)
        return {
            name: weights[name]
            for name, parts in self._places.items()
            if name in weights and all(part.key.removesuffix(".weight") in layers for part in parts)
            if name.endswith(".weight")
        }

    @contextmanager
    def training(self, students: Mapping[str, Trainee], *, checkpointing: bool) -> Iterator[None]:
        layers, tensors = _layers(self.network), self.network.state_dict()
        with ExitStack() as stack:
            if checkpointing:
                self.network.enable_gradient_checkpointing()
                stack.callback(self.network.disable_gradient_checkpointing)
            for name, student in students.items():
                for key in dict.fromkeys(part.key for part in self._places[name]):
                    layer = layers[key.removesuffix(".weight")]
                    rows = row_index(self._places[name], key, tensors)
                    rows = None if rows is None else rows.to(layer.weight.device)
                    hook = layer.register_forward_hook(partial(_hook, student=student, rows=rows))
                    stack.callback(hook.remove)
            yield

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], how: Drawing, progress: Progress) -> Tensor:
        side = self.opened.pixels
        shape = (self.channels, how.height // side, how.width // side)
        positive, negative = self.encode(list(prompts)), self.encode([how.negative])[0]
        noise = torch.cat([torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        levels = self.opened.noise.drawn(how.steps, shape[1] * shape[2] // 4)
        found = []
        with self.loaded((how.batch, *shape)), torch.no_grad():
            for start in range(0, len(prompts), how.batch):
                part = slice(start, start + how.batch)
                latents = self.opened.noise.start(noise[part].to(self.bench.device), levels[0])
                for number, (now, following) in enumerate(zip(levels, levels[1:], strict=False)):
                    progress(start, len(prompts), f"{self.label} draws, step {number + 1} of {how.steps}")
                    latents = self.opened.noise.step(
                        latents, self._guided(latents, now, positive[part], negative, how.cfg), now, following
                    )
                found.append(latents.float().cpu())
        progress(len(prompts), len(prompts), f"{self.label} draws")
        return torch.cat(found) / self.opened.scale + self.opened.shift

    def _guided(self, latents: Tensor, sigma: Tensor, positive: Sequence, negative: Conditioning, cfg: float) -> Tensor:
        """x̂₀ with guidance."""
        sigmas = sigma.to(latents.device).expand(len(latents))
        towards = self._clean(latents, sigmas, positive)
        if cfg == 1:
            return towards
        away = self._clean(latents, sigmas, [negative] * len(latents))
        return away + cfg * (towards - away)


def _layers(network: nn.Module) -> dict[str, nn.Module]:
    """Layers that a student can be hooked onto, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.padding_mode == "zeros")
    }


def _hook(layer, inputs, output, *, student: Trainee, rows: Tensor | None):
    """A forward hook: the layer's output with the student's change in it; rows: of the change, those of the layer."""
    kind = {"layer_kind": "linear"}
    if isinstance(layer, nn.Conv2d):
        kind = {
            "layer_kind": "conv2d",
            "stride": layer.stride,
            "padding": layer.padding,
            "dilation": layer.dilation,
            "groups": layer.groups,
        }
    change = student.change()
    if rows is not None:
        change = Change(change.up[rows], change.down, None if change.gain is None else change.gain[rows])
    return with_change(output, inputs[0], change, layer.bias, weight_shape=tuple(layer.weight.shape), **kind)
