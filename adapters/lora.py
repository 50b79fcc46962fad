"""LoRA (arXiv 2106.09685) and LoCon: ΔW = s · up · [mid] · down, in every spelling trainers use.

.lora_up.weight / .lora_down.weight [/ .lora_mid.weight] / .alpha     kohya, ComfyUI, LyCORIS
.lora_B.weight / .lora_A.weight, also .lora_B / .lora_A and
.lora_B.<adapter name>.weight / .lora_A.<adapter name>.weight         PEFT, diffusers
.lora.up.weight / .lora.down.weight, _lora.up.weight / ...            older diffusers attention processors
.lora_linear_layer.up.weight / .lora_linear_layer.down.weight         older diffusers text encoders
.lora_embedding_B / .lora_embedding_A                                 PEFT embeddings (transposed)
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from ..kernels.lowrank import LowRank
from .module import ALPHA, AdapterModule

RESHAPE = ".reshape_weight"
MID = ".lora_mid.weight"
KOHYA = (".lora_up.weight", ".lora_down.weight")
PEFT = (".lora_B.weight", ".lora_A.weight")

_NAME = r"(?:\.(?!weight$|bias$)[^.]+)?"
_SPELLINGS = (  # (up, down): regular expressions for the end of a key
    (rf"\.lora_up{_NAME}\.weight", rf"\.lora_down{_NAME}\.weight"),
    (r"\.lora_linear_layer\.up\.weight", r"\.lora_linear_layer\.down\.weight"),
    (r"[._]lora\.up\.weight", r"[._]lora\.down\.weight"),
    (rf"\.lora_B{_NAME}(?:\.weight)?", rf"\.lora_A{_NAME}(?:\.weight)?"),
    (rf"\.lora_embedding_B{_NAME}", rf"\.lora_embedding_A{_NAME}"),
)
_UP = re.compile("(" + "|".join(up for up, _ in _SPELLINGS) + ")$")
_DOWN = re.compile("(" + "|".join(down for _, down in _SPELLINGS) + ")$")
_REST = (MID, RESHAPE, ".lora_B.bias")


class Lora(AdapterModule):
    """ΔW = alpha/rank · up · down; a convolution's ``up`` is (m, r, 1, 1) and ``down`` (r, n, kh, kw).

    With ``lora_mid`` (r₁, r₂, kh, kw) the kernel sits in the middle: down'[i, j, k, l] = Σ_p mid[i, p, k, l] down[p, j]
    (Tucker-2, as LyCORIS and ComfyUI do); folded into ``down`` it is exactly of rank r₁.
    ``reshape_weight`` names the shape a smaller base weight is first padded to with zeros.
    """

    kind = "lora"
    suffixes = _REST

    @classmethod
    def split(cls, key: str, keys: Container[str]) -> tuple[str, str] | None:
        hit = _UP.search(key) or _DOWN.search(key)
        if hit and hit.start():
            return key[: hit.start()], key[hit.start() :]
        return super().split(key, keys)

    @classmethod
    def claims(cls, tensors: Mapping[str, Tensor]) -> bool:
        return any(_UP.fullmatch(s) or _DOWN.fullmatch(s) for s in tensors)

    @property
    def spelling(self) -> tuple[str, str]:
        """Suffixes of ``up`` and ``down`` in this file."""
        ups = [s for s in self.tensors if _UP.fullmatch(s)]
        downs = [s for s in self.tensors if _DOWN.fullmatch(s)]
        if len(ups) > 1 or len(downs) > 1:
            self.fail(
                f"Several factor pairs for one weight: {', '.join(ups + downs)}",
                hint="Write each adapter to its own file.",
            )
        return (ups or [other(downs[0])])[0], (downs or [other(ups[0])])[0]

    def check(self) -> None:
        up, down = self.need(*self.spelling)
        if up.ndim < 2 or down.ndim < 2:
            self.fail(
                f"Factors must be matrices or kernels, but are {tuple(up.shape)} and {tuple(down.shape)}",
                hint="The file may have been saved from one shard of a distributed run.",
            )
        up, down = self.factors()
        inner = (up.shape[1], down.shape[0])
        if MID in self.tensors:
            (mid,) = self.need(MID)
            if mid.ndim < 3 or (mid.shape[0], mid.shape[1]) != inner:
                self.fail(
                    f"lora_mid is {tuple(mid.shape)}, which does not join ranks {inner[0]} and {inner[1]}", suffix=MID
                )
            if prod(down.shape[2:]) != 1:
                self.fail(f"lora_down must be a 1x1 kernel beside lora_mid, but is {tuple(down.shape)}")
        elif inner[0] != inner[1]:
            self.fail(
                f"Rank mismatch: up is {tuple(up.shape)}, down is {tuple(down.shape)}",
                hint="The two halves come from different adapters.",
            )
        if prod(up.shape[2:]) != 1:
            self.fail(f"lora_up must be a 1x1 kernel, but is {tuple(up.shape)}")

    def factors(self) -> tuple[Tensor, Tensor]:
        """``up`` (m, r, ...) and ``down`` (r, n, ...) as stored, embeddings transposed into place."""
        up, down = (self.tensors[s] for s in self.spelling)
        if self.spelling[0].startswith(".lora_embedding"):
            return down.T, up.T
        return up, down

    @property
    def rank(self) -> int:
        return self.factors()[1].shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        if RESHAPE in self.tensors:
            return tuple(int(n) for n in self.tensors[RESHAPE])
        up, down = self.factors()
        kernel = self.tensors[MID].shape[2:] if MID in self.tensors else down.shape[2:]
        return (up.shape[0], down.shape[1], *kernel)

    def low_rank(self, weight: Tensor | None = None) -> LowRank:
        up, down = (t.float() for t in self.factors())
        if MID in self.tensors:
            down = torch.einsum("i p ..., p j -> i j ...", self.tensors[MID].float(), down.flatten(1))
        return LowRank(up.flatten(1) * self.scale(), down.flatten(1))

    def in_kohya(self) -> Lora:
        """The same factors under kohya's and ComfyUI's suffixes, with an ``alpha``."""
        up, down = self.factors()
        alpha = self.tensors.get(ALPHA, torch.tensor(float(self.scale() * self.rank)))
        kept = {s: self.tensors[s] for s in (MID, RESHAPE, ".diff_b", ".b_norm") if s in self.tensors}
        bias = self.bias()
        if bias is not None and ".lora_B.bias" in self.tensors:
            kept[".diff_b"] = bias.to(self.tensors[".lora_B.bias"].dtype)
        tensors = {KOHYA[0]: up.contiguous(), KOHYA[1]: down.contiguous(), ALPHA: alpha, **kept}
        return Lora(self.key, tensors, file=self.file)

    def scaled(self, strength: float) -> Lora:
        """Scales ``alpha`` where there is one, else ``up``."""
        return replace(self, tensors=self.times(strength, ALPHA if ALPHA in self.tensors else self.spelling[0]))


def other(suffix: str) -> str:
    """The partner of an ``up`` or ``down`` suffix in the same spelling."""
    pairs = (("lora_up", "lora_down"), (".up.", ".down."), ("lora_B", "lora_A"), ("embedding_B", "embedding_A"))
    for up, down in pairs:
        if up in suffix:
            return suffix.replace(up, down)
        if down in suffix:
            return suffix.replace(down, up)
    raise ValueError(suffix)
