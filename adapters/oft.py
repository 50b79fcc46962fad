"""OFT (arXiv 2306.07280): ΔW = (R − I) W with R block-diagonal and orthogonal."""

from __future__ import annotations

from collections.abc import Container, Mapping

import torch
from torch import Tensor

from .module import AdapterModule

BLOCKS, RESCALE = ".oft_blocks", ".rescale"


class Oft(AdapterModule):
    """``oft_blocks`` (blocks, size, size): R = (I + Q)(I − Q)⁻¹ of Q = X − Xᵀ, acting on the output channels.

    ``alpha`` is not a scale here but COFT's bound on ‖Q‖ (0 or missing: no bound), taken as it stands by ComfyUI;
    LyCORIS' training module multiplies it by the number of output channels first. A ``rescale`` tensor is kept in
    the file but left out of ΔW, as ComfyUI 0.33 does; LyCORIS multiplies the rows of R·W by it.
    """

    kind = "oft"
    needs_base = True
    suffixes = (BLOCKS, RESCALE)

    @classmethod
    def split(cls, key: str, keys: Container[str]) -> tuple[str, str] | None:
        hit = super().split(key, keys)
        return hit if hit and hit[0] + BLOCKS in keys else None

    @classmethod
    def claims(cls, tensors: Mapping[str, Tensor]) -> bool:
        return BLOCKS in tensors and tensors[BLOCKS].ndim != 4

    def check(self) -> None:
        (blocks,) = self.need(BLOCKS)
        if blocks.ndim not in (3, 4) or blocks.shape[-1] != blocks.shape[-2]:
            self.fail(f"oft_blocks must be a stack of square matrices, but is {tuple(blocks.shape)}", suffix=BLOCKS)

    @property
    def rank(self) -> int:
        """Size of a block."""
        return self.tensors[BLOCKS].shape[-1]

    @property
    def rows(self) -> int:
        """Output channels the blocks cover."""
        return self.tensors[BLOCKS].shape[-3] * self.tensors[BLOCKS].shape[-1]

    def fits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) > 1 and shape[0] == self.rows

    def rotations(self) -> Tensor:
        """The orthogonal blocks (..., size, size), by Cayley's map."""
        blocks = self.tensors[BLOCKS].float()
        skew = blocks - blocks.transpose(-1, -2)
        bound, size = self.alpha or 0.0, torch.linalg.vector_norm(skew) + 1e-8
        if 0 < bound < size:
            skew = skew * (bound / size)
        eye = torch.eye(blocks.shape[-1], dtype=skew.dtype, device=skew.device)
        return (eye + skew) @ torch.linalg.inv(eye - skew)

    def delta(self, weight: Tensor | None = None) -> Tensor:
        base = self.base(weight)
        self.shaped(base, base)
        turn = self.rotations()
        turn = turn - torch.eye(turn.shape[-1], dtype=turn.dtype, device=turn.device)
        stacked = base.reshape(turn.shape[0], turn.shape[-1], -1)
        return torch.einsum("k n m, k n j -> k m j", turn, stacked).reshape(base.shape)
