"""BOFT (arXiv 2311.06243): an orthogonal matrix from log-many butterfly factors, ΔW = (R_m … R_1 − I) W."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .oft import BLOCKS, RESCALE, Oft


class Boft(Oft):
    """``oft_blocks`` (stages, blocks, size, size); stage i mixes channels 2^i · size/2 apart.

    ``rescale`` (m, 1, ...) multiplies the rows of the result, as in ComfyUI and LyCORIS.
    """

    kind = "boft"

    @classmethod
    def claims(cls, tensors: Mapping[str, Tensor]) -> bool:
        return BLOCKS in tensors and tensors[BLOCKS].ndim == 4

    def delta(self, weight: Tensor | None = None) -> Tensor:
        base = self.base(weight)
        self.shaped(base, base)
        turns = self.rotations()
        size, out = turns.shape[-1], base.flatten(1)
        for stage, turn in enumerate(turns):
            far = 2**stage * (size // 2)
            # Channels as (groups, 2, far): the pair index becomes the fastest, so each block meets its partners.
            shuffled = out.reshape(-1, 2, far, out.shape[1]).transpose(1, 2).reshape(-1, size, out.shape[1])
            mixed = torch.einsum("b i j, b j n -> b i n", turn, shuffled)
            out = mixed.reshape(-1, far, 2, out.shape[1]).transpose(1, 2).reshape(out.shape)
        if RESCALE in self.tensors:
            out = out * self.tensors[RESCALE].float().reshape(-1, 1)
        return out.reshape(base.shape) - base
