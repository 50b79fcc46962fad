"""Blocks of the target that a transferred adapter leaves without any change."""

from __future__ import annotations

from collections.abc import Sequence

from ...bases.model import Base
from ...names import describe
from ...names.describe import OUTSIDE
from .plan import Step, items
from .report import DECISION_DROPPED, ModuleReport


def empty_blocks(steps: Sequence[Step], lines: Sequence[ModuleReport], unfed: set[str], target: Base) -> list[str]:
    """Blocks with weights of the roles that the adapter changes, none of which it changes in the target.

    Either no weight of the source feeds them, or what does has no form that fits. Blocks whose counterpart the adapter
    leaves alone in the source too, and those that were pruned to zero, are no such blocks.

    Args:
        lines: what became of each step.
        unfed: weights of the target that no weight of the source feeds.
    """
    changed = [describe(step.source.name) for step in steps if step.source is not None]
    roles, lists = {role for _, role in changed}, {_list(block) for block, _ in changed}
    outcomes = [(s.target.name, line) for s, line in zip(steps, lines, strict=True) if s.target is not None]
    filled = {name for name, line in outcomes if line.decision != DECISION_DROPPED}
    missed = unfed | {name for name, line in outcomes if line.decision == DECISION_DROPPED and line.matched is not None}
    blocks: dict[str, list[str]] = {}
    for item in items(target):
        if item.block != OUTSIDE and item.role in roles and _list(item.block) in lists:
            blocks.setdefault(item.block, []).append(item.name)
    return [block for block, names in blocks.items() if missed.intersection(names) and not filled.intersection(names)]


def _list(block: str) -> str:
    """The list of blocks that a block stands in: "input_blocks", "joint_blocks"; an encoder's name."""
    return block.split(".", 1)[0]
