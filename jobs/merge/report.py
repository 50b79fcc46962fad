"""What a merge or a resize did, as sentences, Markdown and JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from ..text import ReportText, cell, grouped, joined, percent, rebuilt, table
from .lines import MergedModule, SourceLora
from .tables import BLOCK_COLUMNS, LORA_COLUMNS, MODULE_COLUMNS, block_row, lora_row, module_row

WEAK, STRONG = 0.6, 1.3  # norm against the exact sum beyond which a note says so


@dataclass
class MergeReport(ReportText):
    """Everything one merge or resize has to say."""

    job: str = "merge"  # or "resize"
    method: str = ""
    display: str = ""
    paper: str = ""
    loras: list[SourceLora] = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    modules: list[MergedModule] = field(default_factory=list)
    extras: list[str] = field(default_factory=list)  # keys that no format explains; kept as they are
    notes: list[str] = field(default_factory=list)
    elapsed: float = 0.0  # seconds

    @property
    def totals(self) -> dict:
        """Counts, and the figures of the whole update taken as one long vector."""
        measured = [(m, m.sum_norm, m.norm) for m in self.modules if m.sum_norm is not None and m.norm is not None]
        whole = math.fsum(sum_norm**2 for _, sum_norm, _ in measured)
        out = math.fsum(norm**2 for *_, norm in measured)
        source = math.fsum(m.source_norm**2 for m, *_ in measured if m.source_norm is not None)
        inner = math.fsum((m.cosine or 0.0) * norm * sum_norm for m, sum_norm, norm in measured)
        lost = math.fsum(((m.error or 0.0) * sum_norm) ** 2 for m, sum_norm, _ in measured)
        ranks = [m.rank_out for m in self.modules if m.rank_out is not None]
        clustered = any(m.clusters for m in self.modules)
        return {
            "modules": len(self.modules),
            "decisions": dict(Counter(m.decision for m in self.modules).most_common()),
            "error": _root(lost, whole),
            "cosine": inner / math.sqrt(out * whole) if out > 0 and whole > 0 else None,
            "norm_ratio": _root(out, whole),
            "norm_to_source": _root(out, source),
            "clusters": sum(m.clusters or 0 for m in self.modules) if clustered else None,
            "mixed_clusters": sum(m.mixed or 0 for m in self.modules) if clustered else None,
            "rank_lowest": min(ranks) if ranks else None,
            "rank_median": median(ranks) if ranks else None,
            "rank_highest": max(ranks) if ranks else None,
        }

    def blocks(self) -> dict[str, list[MergedModule]]:
        """Modules by block, in the order in which the blocks appear."""
        return grouped(self.modules, lambda m: m.block or "other")

    def summary(self) -> str:
        """One paragraph a person can read without knowing the words of the trade."""
        return " ".join(_sentences(self))

    @classmethod
    def from_json(cls, text: str) -> MergeReport:
        """The report that :meth:`to_json` wrote. Fields this version does not know are passed over."""
        data = json.loads(text)
        modules = [rebuilt(MergedModule, m) for m in data.get("modules", [])]
        loras = [rebuilt(SourceLora, lora) for lora in data.get("loras", [])]
        return rebuilt(cls, {**data, "modules": modules, "loras": loras})

    def to_markdown(self) -> str:
        """Sentences first, then the LoRAs, then one row per block, then one row per module."""
        parts = [f"# {_title(self)}", self.summary(), *(f"- {note}" for note in self.notes)]
        parts += ["## LoRAs", table(LORA_COLUMNS, [lora_row(i, lora) for i, lora in enumerate(self.loras)])]
        parts += ["## By block", table(BLOCK_COLUMNS, [block_row(b, ms) for b, ms in self.blocks().items()])]
        if self.extras:
            parts += ["## Keys no format explains (kept as they are)", *(f"- `{key}`" for key in self.extras)]
        if self.settings:
            parts += ["## Settings", *(f"- {n.replace('_', ' ')}: {cell(v)}" for n, v in self.settings.items())]
        parts += ["## Every module", table(MODULE_COLUMNS, [module_row(m) for m in self.modules])]
        return joined(parts)


def ranks_of(totals: dict) -> str:
    """ "rank 16", or "ranks 4 to 32 (median 16)"; empty when no module has one."""
    low, middle, high = (totals[f"rank_{n}"] for n in ("lowest", "median", "highest"))
    if low is None:
        return ""
    return f"rank {low}" if low == high else f"ranks {low} to {high} (median {middle:g})"


# Sentences


def _title(report: MergeReport) -> str:
    used = [lora.name for lora in report.loras if not lora.left_out]
    if report.job == "resize":
        return f"{used[0] if used else 'LoRA'} resized"
    return f"{' + '.join(used[:4])}{' + …' if len(used) > 4 else ''} merged"


def _sentences(report: MergeReport) -> Iterable[str]:
    totals, used = report.totals, [lora for lora in report.loras if not lora.left_out]
    names = ", ".join(f"{lora.name} × {_strengths(lora)}" for lora in used)
    ranks = f" of {ranks_of(totals)}" if ranks_of(totals) else ""
    if len(used) == 1:
        yield f"{names} became a LoRA{ranks} with {report.display or report.method}."
    else:
        yield f"{len(used)} LoRAs ({names}) became one{ranks} with {report.display or report.method}."
    counts = totals["decisions"]
    merged = totals["modules"] - counts.get("kept", 0) - counts.get("summed", 0)
    if report.job == "resize":
        yield f"{merged} modules were cut" + (f", {counts['kept']} left as they are." if counts.get("kept") else ".")
    lone = f", {counts['kept']} kept as the one LoRA that has them gives them" if counts.get("kept") else ""
    plain = f", {counts['summed']} summed exactly (norms, biases, whole differences)" if counts.get("summed") else ""
    if report.job == "merge":
        yield f"{merged} modules were merged{lone}{plain}."
    if totals["cosine"] is not None:
        of = "the exact weighted sum" if len(used) > 1 else "the original"
        yield (
            f"Against {of} the result has cosine {totals['cosine']:.3f}, {totals['norm_ratio']:.2f} of its norm and a "
            f"relative error of {percent(totals['error'])}."
        )
    if len(used) > 1 and totals["norm_to_source"] is not None:
        yield f"Its norm is {totals['norm_to_source']:.2f} of one source's."
    if totals["clusters"] and len(used) > 1:
        mixed = totals["mixed_clusters"] / totals["clusters"]
        yield f"{percent(mixed)} of the {totals['clusters']} clusters mix units of several LoRAs."
    ratio = totals["norm_ratio"]
    if ratio is not None and ratio > 0 and not WEAK < ratio < STRONG:
        stack = "the LoRAs stacked in loaders" if len(used) > 1 else "the original"
        change = "weaker" if ratio < 1 else "stronger"
        yield f"It is much {change} than {stack}: a strength of {1 / ratio:.2g} evens that out."


def _strengths(lora: SourceLora) -> str:
    model, clip = f"{lora.strength_model:g}", f"{lora.strength_clip:g}"
    return model if model == clip else f"{model} (text encoder {clip})"


def _root(part: float, whole: float) -> float | None:
    return math.sqrt(part / whole) if whole > 0 else None
