"""LEGO's units: the single rows of A with their columns of B, pooled over several LoRAs and put into a common form.

Source: LoRA-LEGO (arXiv 2409.16167), section 3: the minimal semantic unit is m = [a, b]. That form is not unique:
(a, b) and (c·a, b/c) or (-a, -b) act alike, and so do the units of (B R, R⁻¹ A) as a whole. Three forms:

- ``paper``: units as the files have them.
- ``balanced``: ‖a‖ = ‖b‖, and a unit equals its negative: free of c and of signs.
- ``canonical``: the singular pairs of each LoRA's ΔW: free of any R. Similarity of two units is that of the rank-one
  matrices they stand for, <b₁a₁ᵀ, b₂a₂ᵀ> = (a₁·a₂)(b₁·b₂), which knows neither signs nor c.

Units are sorted by content, so that neither the order of LoRAs nor that of ranks changes a single byte of the result.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import choices
from . import checks, lowrank
from .lock import locked
from .lowrank import LowRank
from .stacked import NEGLIGIBLE, Stack, root, spectrum, stack


class Units(NamedTuple):
    """M units as combinations of the N stacked raw ones, by falling size.

    stacked: the raw units and their Gram matrices; left: (N, M), column j of B·left is unit j's b; right: (M, N), row j
    of right·A is its a; gb, ga: (M, M) inner products of the b and of the a; owner: (M,) index of its LoRA in the list
    given; position: (M,) its number among the units of all LoRAs in the order given. B·left·right·A is the sum of the
    updates.
    """

    stacked: Stack
    left: Tensor
    right: Tensor
    gb: Tensor
    ga: Tensor
    owner: Tensor
    position: Tensor


def scale_factors(update: LowRank, strength: float) -> LowRank:
    """strength · ΔW, split evenly: √|strength| on either factor, the sign on `up`."""
    if strength == 1:
        return update
    half = abs(strength) ** 0.5
    return LowRank(update.up * (half if strength >= 0 else -half), update.down * half)


def units_of(updates: list[LowRank], form: str = "canonical") -> Units:
    """Pool the units of several LoRAs in one of the three forms; units that do nothing are left out (not by ``paper``).

    Args:
        updates: of one shape (m, n), any ranks.
        form: one of ``choices.Merge.unit_forms``.

    Raises:
        SettingsError: an unknown form.
    """
    checks.one_of("form of units", form, choices=choices.Merge.unit_forms)
    sources = [_by_content(update) for update in updates]
    loras = sorted(range(len(updates)), key=lambda i: sources[i][1].down[0].cpu().numpy().tobytes())
    pooled = stack([sources[i][1] for i in loras])
    found = {"paper": _paper, "balanced": _balanced, "canonical": _canonical}[form](pooled)
    if found is None:
        return units_of([_independent(update) for update in updates], form)
    left, right = found
    owner = torch.tensor([i for i in loras for _ in range(updates[i].rank)])
    offsets = [sum(update.rank for update in updates[:i]) for i in range(len(updates))]
    position = torch.tensor(
        [offsets[i] + (j if form == "canonical" else raw) for i in loras for j, raw in enumerate(sources[i][0])]
    )
    gb, ga = left.T @ pooled.left @ left, right @ pooled.right @ right.T
    b, a = gb.diagonal(), ga.diagonal()
    size = a + b if form == "paper" else (a * b).clamp_min(0).sqrt()
    order = torch.argsort(size, descending=True, stable=True)
    if form != "paper":
        order = order[size[order] > NEGLIGIBLE * size.max()]
    pairs = (order[:, None], order)
    return Units(pooled, left[:, order], right[order], gb[pairs], ga[pairs], owner[order], position[order])


def auto_rank(updates: list[LowRank], energy: float = 0.95) -> tuple[int, str]:
    """The smallest rank that keeps the fraction `energy` of the sum's energy ‖Σ ΔW‖², and a sentence that says so.

    Raises:
        SettingsError: a fraction outside (0, 1].
    """
    checks.share("energy", energy)
    values = spectrum(stack(updates)).square()
    whole = float(values.sum())  # ‖Σ ΔW‖²
    count = sum(update.rank for update in updates)
    if not whole > 1e-12 * sum(lowrank.norm(update) ** 2 for update in updates):
        return 1, "the updates cancel: nothing to keep"
    kept = values.cumsum(0) / whole
    k = min(int((kept < energy * (1 - 1e-12)).sum()) + 1, len(values))
    return k, f"rank {k} of {count} units keeps {float(kept[k - 1]):.1%} of the sum's energy"


def _by_content(update: LowRank) -> tuple[list[int], LowRank]:
    """Order of a LoRA's units by the bytes of a, then of b; and the update in that order."""
    a, b = update.down.contiguous(), update.up.T
    short = [x[:, :64].contiguous().cpu().numpy() for x in (a, b)]
    keys = [short[0][i].tobytes() + short[1][i].tobytes() for i in range(update.rank)]
    if len(set(keys)) < len(keys):
        whole = torch.cat([a, b], 1).cpu().numpy()
        keys = [whole[i].tobytes() for i in range(update.rank)]
    order = sorted(range(update.rank), key=keys.__getitem__)
    where = torch.tensor(order, device=a.device)
    return order, LowRank(update.up.index_select(1, where), a.index_select(0, where))


def _independent(update: LowRank) -> LowRank:
    """The update itself, or the same with fewer, independent rows of A where they depend on one another.

    Rows that are all zero, as of an update that does nothing, are left alone.
    """
    rows = update.down.double()
    if root(rows @ rows.T) is not None:
        return update
    small, _ = lowrank.truncate(update)
    return small if lowrank.norm(small) > 0 else LowRank(small.up * 0, small.down * 0)


def _paper(pooled: Stack) -> tuple[Tensor, Tensor]:
    identity = torch.eye(len(pooled.left), dtype=torch.float64, device=pooled.device)
    return identity, identity


def _balanced(pooled: Stack) -> tuple[Tensor, Tensor]:
    a, b = pooled.right.diagonal().sqrt(), pooled.left.diagonal().sqrt()
    ratio = torch.where((a > 0) & (b > 0), (b / a.clamp_min(1e-300)).sqrt(), 1.0)
    return torch.diag(1 / ratio), torch.diag(ratio)


@locked
def _canonical(pooled: Stack) -> tuple[Tensor, Tensor] | None:
    """Per LoRA the SVD of B·A: with A = L Q it is that of B·L, from the eigenvectors of Lᵀ BᵀB L.

    LoRAs of one rank are solved together. None when the rows of some A depend on one another.
    """
    left, right = torch.zeros_like(pooled.left), torch.zeros_like(pooled.left)
    ranks = torch.tensor([update.rank for update in pooled.updates])
    ends = ranks.cumsum(0)
    for rank in sorted(set(ranks.tolist())):
        units = (ends[ranks == rank] - rank)[:, None] + torch.arange(rank)
        block = units[:, :, None], units[:, None, :]
        rows = pooled.right[block]
        acts = rows.diagonal(dim1=1, dim2=2).sum(1) > 0  # not so where all rows are zero: any L does there
        found = root(torch.where(acts[:, None, None], rows, torch.eye(rank).to(rows)))
        if found is None:
            return None
        lower, inverse = found
        values, vectors = torch.linalg.eigh(lower.mT @ pooled.left[block] @ lower)
        values, vectors = values.flip(1).clamp_min(0), vectors.flip(2)
        half = values.sqrt().sqrt()
        half = torch.maximum(half, NEGLIGIBLE * half[:, :1]).clamp_min(1e-150)
        left[block] = lower @ vectors / half[:, None, :]
        right[block] = half[:, :, None] * vectors.mT @ inverse
    return left, right
