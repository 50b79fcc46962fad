"""The tables of a merge report, cell by cell: its LoRAs, its blocks, its modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from statistics import fmean

from ..text import cell
from .lines import MergedModule, SourceLora

LORA_COLUMNS = ("#", "LoRA", "strength", "text encoder", "modules", "used")
BLOCK_COLUMNS = (
    "block",
    "modules",
    "cosine with sum",
    "norm / sum",
    "norm / source",
    "error",
    "clusters",
    "mixed",
    "decisions",
)
MODULE_COLUMNS = (
    "module",
    "LoRAs",
    "shape",
    "ranks",
    "cosine with sum",
    "norm / sum",
    "norm / source",
    "error",
    "clusters",
    "mixed",
    "decision",
    "reason",
)


def lora_row(number: int, lora: SourceLora) -> list[str]:
    """The cells of one LoRA under LORA_COLUMNS."""
    model, clip = f"{lora.strength_model:g}", f"{lora.strength_clip:g}"
    return [str(number + 1), lora.name, model, clip, str(lora.modules), lora.left_out or "yes"]


def block_row(block: str, modules: list[MergedModule]) -> list[str]:
    """The cells of one block under BLOCK_COLUMNS."""

    def mean(values: Iterable[float | None]) -> str:
        known = [v for v in values if v is not None]
        return cell(fmean(known) if known else None)

    clusters = sum(m.clusters or 0 for m in modules)
    decisions = Counter(m.decision for m in modules).most_common()
    return [
        block,
        str(len(modules)),
        mean(m.cosine for m in modules),
        mean(m.norm_ratio for m in modules),
        mean(m.norm_to_source for m in modules),
        mean(m.error for m in modules),
        str(clusters) if clusters else "–",
        str(sum(m.mixed or 0 for m in modules)) if clusters else "–",
        ", ".join(f"{count} {decision}" for decision, count in decisions),
    ]


def module_row(m: MergedModule) -> list[str]:
    """The cells of one module under MODULE_COLUMNS."""
    ranks = " + ".join(map(str, m.ranks_in)) + (f" → {m.rank_out}" if m.rank_out is not None else "")
    figures = (m.cosine, m.norm_ratio, m.norm_to_source, m.error)
    return [
        f"`{m.name or m.key}`",
        ", ".join(str(i + 1) for i in m.sources),
        "×".join(map(str, m.shape or ())) or "–",
        ranks or "–",
        *map(cell, figures),
        cell(m.clusters),
        cell(m.mixed),
        m.decision,
        m.reason or "–",
    ]
