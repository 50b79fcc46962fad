"""Resize: one LoRA at a smaller rank, chosen per module from its singular values σ_1 ≥ σ_2 ≥ … .

The rules are those users know from kohya's resize script: ``ratio`` is its ``sv_ratio``, ``cumulative`` its
``sv_cumulative`` and ``frobenius`` its ``sv_fro``. Pruning by LEGO is the method ``lego`` on a list of one update.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...errors import SettingsError
from ..lowrank import LowRank
from ..stacked import spectrum, stack, truncate
from .registry import Merged, check


def by_rank(values: Tensor, amount: float) -> int:
    """At most `amount` singular values."""
    return int(amount)


def by_ratio(values: Tensor, amount: float) -> int:
    """Those above σ_1 / amount."""
    return int((values > values[0] / amount).sum())


def by_cumulative(values: Tensor, amount: float) -> int:
    """The fewest whose sum is at least `amount` of Σ σ."""
    return _reach(values, amount)


def by_energy(values: Tensor, amount: float) -> int:
    """The fewest whose squares are at least `amount` of Σ σ² = ‖ΔW‖²."""
    return _reach(values.square(), amount)


def by_frobenius(values: Tensor, amount: float) -> int:
    """The fewest whose Frobenius norm is at least `amount` of ‖ΔW‖."""
    return _reach(values.square(), amount**2)


# Name of a rule → (rule, smallest amount, largest amount).
RULES: dict[str, tuple[Callable[[Tensor, float], int], float, float]] = {
    "rank": (by_rank, 1, float("inf")),
    "ratio": (by_ratio, 1, float("inf")),
    "cumulative": (by_cumulative, 0, 1),
    "energy": (by_energy, 0, 1),
    "frobenius": (by_frobenius, 0, 1),
}


def choose_rank(values: Tensor, rule: str, amount: float) -> int:
    """The rank that a rule gives for singular values (r,), falling; at least 1, at most their number.

    Raises:
        SettingsError: unknown rule, or an amount out of its range.
    """
    if rule not in RULES:
        raise SettingsError(f"unknown rule {rule!r}", hint=f"Choose one of {', '.join(RULES)}.")
    function, low, high = RULES[rule]
    if not (low <= amount <= high and amount > 0 and amount < float("inf")):
        raise SettingsError(f"the amount of rule {rule} must lie between {low:g} and {high:g}, got {amount:g}")
    if not float(values[0]) > 0:
        return 1
    return min(max(function(values, amount), 1), len(values))


def resize(update: LowRank, rule: str, amount: float) -> Merged:
    """The best update at the rank that the rule chooses, and its relative Frobenius error.

    Args:
        update: (m, r) @ (r, n).
        rule, amount: a name in RULES and its number.

    Raises:
        SettingsError: see :func:`choose_rank`; NaN or Inf in the update.
    """
    check([update])
    stacked = stack([update])
    rank = choose_rank(spectrum(stacked), rule, amount)
    return Merged(*truncate(stacked, rank))


def _reach(values: Tensor, fraction: float) -> int:
    """How many values it takes until they hold the fraction of their sum; a hair of rounding forgiven."""
    sums = values.double().cumsum(0)
    return int(torch.searchsorted(sums, fraction * float(sums[-1]) * (1 - 1e-12))) + 1
