"""Blocks of a deeper target that no block of the source feeds take the update of the most similar one.

LoRA-X (arXiv 2501.16559) pairs each module of the target with the most similar module of the source; taking the block
as a whole, and only where nothing else feeds it, is ours. What it does on a base with one block twice is in
benchmarks/RESULTS.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...bases.model import Base
from ...kernels.matching import Item
from ...names import describe
from ...names.describe import OUTSIDE
from .plan import Plan, Similarity, Step, items

PROBES = 4  # weights that are compared for a pair of blocks


@dataclass(frozen=True)
class Filling:
    """A block of the target, the block of the source whose update it takes, and their mean Φ."""

    block: str
    taken_from: str
    phi: float


def fill(plan: Plan, source: Base, target: Base, similarity: Similarity) -> tuple[list[Step], list[Filling]]:
    """More steps for a plan: the updates of the most similar block for each block that nothing feeds.

    A donor stands in the same list of blocks, and has weights of equal role and shape that the adapter changes.

    Args:
        similarity: of two weights, in [0, 1].
    """
    by_block: dict[str, dict[str, list[Step]]] = {}
    for step in plan.steps:
        if step.source is not None:
            block, role = describe(step.source.name)
            by_block.setdefault(block, {}).setdefault(role, []).append(step)
    ours = {item.name: item for item in items(source)}
    steps, fillings = [], []
    for block, theirs in _unfed_blocks(plan, target).items():
        donors = [
            (pairs, other)
            for other, roles in by_block.items()
            if _kind(other) == _kind(block) and (pairs := _pairs(roles, ours, theirs))
        ]
        if not donors:
            continue
        most = max(len(pairs) for pairs, _ in donors)
        phi, pairs, donor = max(
            (
                (_alike([(_item(each, ours), item) for each, item in pairs], similarity), pairs, other)
                for pairs, other in donors
                if len(pairs) == most
            ),
            key=lambda one: one[0],
        )
        steps += [more for each, item in pairs for step in each if (more := _filling(step, item, target))]
        fillings.append(Filling(block, donor, phi))
    return steps, fillings


def _unfed_blocks(plan: Plan, target: Base) -> dict[str, dict[str, Item]]:
    """Blocks of the target of which nothing is fed, with their weights that nothing feeds, by role."""
    fed = {step.target.name for step in plan.steps if step.target is not None}
    blocks: dict[str, dict[str, Item]] = {}
    for item in items(target):
        if item.block != OUTSIDE:
            blocks.setdefault(item.block, {})[item.role] = item
    whole = {b: roles for b, roles in blocks.items() if not any(item.name in fed for item in roles.values())}
    unfed = {b: {r: i for r, i in roles.items() if i.name in plan.unfed} for b, roles in whole.items()}
    return {block: roles for block, roles in unfed.items() if roles}


def _kind(block: str) -> str:
    """A block's path without its numbers: the list that it stands in."""
    return re.sub(r"\d+", "#", block)


def _pairs(
    roles: dict[str, list[Step]], ours: dict[str, Item], theirs: dict[str, Item]
) -> list[tuple[list[Step], Item]]:
    """The steps of a block of the source for weights of equal role and shape, with those weights."""
    found = [(roles[role], item) for role, item in theirs.items() if role in roles]
    return [(steps, item) for steps, item in found if _item(steps, ours).shape == item.shape]


def _item(steps: list[Step], ours: dict[str, Item]) -> Item:
    (name,) = {step.source.name for step in steps if step.source is not None}
    return ours[name]


def _alike(pairs: Sequence[tuple[Item, Item]], similarity: Similarity) -> float:
    """Mean similarity of some weights, evenly spread over the block."""
    pairs = [pair for pair in pairs if len(pair[0].shape) > 1] or list(pairs)
    count = min(PROBES, len(pairs))
    return sum(similarity(*pairs[i * len(pairs) // count]) for i in range(count)) / count


def _filling(step: Step, item: Item, target: Base) -> Step | None:
    """The step again, on a weight of the block to fill; None where that has no key."""
    assert step.source is not None
    there = step.source._replace(name=item.name)
    key = target.names.rekey(step.module.key, step.source, there) or target.names.key_for(there, "comfy")
    return None if key is None else Step(step.module, step.source, there, key, fills=True)
