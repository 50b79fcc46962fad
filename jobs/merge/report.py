"""What a merge or a resize did, module by module, as sentences, tables and JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean, median

from ...untrusted import code, in_markdown
from ..text import Written, cell, grouped, joined, percent, rebuilt, table

WEAK, STRONG = 0.6, 1.3  # norm against the exact sum beyond which a note says so


@dataclass
class Lora:
    """One LoRA that went in."""

    name: str
    strength_model: float = 1.0
    strength_clip: float = 1.0
    modules: int = 0
    left_out: str = ""  # why it was not used


@dataclass
class MergedModule:
    """One module of the result. Figures are None where they mean nothing or were not measured.

    norms: ‖S‖, ‖M‖ and the root mean square of the sources' ‖ΔW_i‖ (strengths folded in), with M the result and
    S = Σ ΔW_i the exact weighted sum.
    """

    key: str
    name: str = ""  # name of the weight in the base, where it is known
    block: str = ""
    role: str = ""
    shape: list[int] | None = None
    sources: list[int] = field(default_factory=list)  # numbers of the LoRAs that change it
    ranks_in: list[int] = field(default_factory=list)
    rank_out: int | None = None
    error: float | None = None  # ‖M − S‖ / ‖S‖
    cosine: float | None = None  # between M and S
    sum_norm: float | None = None
    norm: float | None = None
    source_norm: float | None = None
    clusters: int | None = None
    mixed: int | None = None  # clusters with units of several LoRAs
    pure: list[int] | None = None  # clusters of one LoRA's units alone, by LoRA
    baked: float | None = None  # relative error of making factors of a module that acts through its base weight
    decision: str = ""  # a method's name, "kept", "summed" or "cut"
    reason: str = ""

    @property
    def norm_ratio(self) -> float | None:
        """‖M‖ / ‖S‖."""
        return _ratio(self.norm, self.sum_norm)

    @property
    def norm_to_source(self) -> float | None:
        """‖M‖ against one source's norm (root mean square over the sources)."""
        return _ratio(self.norm, self.source_norm)


@dataclass
class MergeReport(Written):
    """Everything one merge or resize has to say."""

    job: str = "merge"  # or "resize"
    method: str = ""
    display: str = ""
    paper: str = ""
    loras: list[Lora] = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    modules: list[MergedModule] = field(default_factory=list)
    extras: list[str] = field(default_factory=list)  # keys that no format explains; kept as they are
    notes: list[str] = field(default_factory=list)
    elapsed: float = 0.0  # seconds

    @property
    def totals(self) -> dict:
        """Counts, and the figures of the whole update taken as one long vector."""
        measured = [m for m in self.modules if m.sum_norm is not None and m.norm is not None]
        whole = math.fsum(m.sum_norm**2 for m in measured)
        out = math.fsum(m.norm**2 for m in measured)
        source = math.fsum(m.source_norm**2 for m in measured if m.source_norm is not None)
        inner = math.fsum((m.cosine or 0.0) * m.norm * m.sum_norm for m in measured)
        lost = math.fsum(((m.error or 0.0) * m.sum_norm) ** 2 for m in measured)
        ranks = [m.rank_out for m in self.modules if m.rank_out is not None]
        clusters = [m for m in self.modules if m.clusters]
        return {
            "modules": len(self.modules),
            "decisions": dict(Counter(m.decision for m in self.modules).most_common()),
            "error": _root(lost, whole),
            "cosine": inner / math.sqrt(out * whole) if out > 0 and whole > 0 else None,
            "norm_ratio": _root(out, whole),
            "norm_to_source": _root(out, source),
            "clusters": sum(m.clusters for m in clusters) if clusters else None,
            "mixed_clusters": sum(m.mixed for m in clusters) if clusters else None,
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
        loras = [rebuilt(Lora, lora) for lora in data.get("loras", [])]
        return rebuilt(cls, {**data, "modules": modules, "loras": loras})

    def to_markdown(self) -> str:
        """Sentences first, then the LoRAs, then one row per block, then one row per module."""
        parts = [
            f"# {in_markdown(_title(self))}",
            in_markdown(self.summary()),
            *(f"- {in_markdown(note)}" for note in self.notes),
        ]
        parts += ["## LoRAs", table(LORA_COLUMNS, [_lora_row(i, lora) for i, lora in enumerate(self.loras)])]
        parts += ["## By block", table(BLOCK_COLUMNS, [block_row(b, ms) for b, ms in self.blocks().items()])]
        if self.extras:
            parts += ["## Keys no format explains (kept as they are)", *(f"- {code(key)}" for key in self.extras)]
        if self.settings:
            parts += [
                "## Settings",
                *(f"- {n.replace('_', ' ')}: {in_markdown(cell(v))}" for n, v in self.settings.items()),
            ]
        parts += ["## Every module", table(MODULE_COLUMNS, [_module_row(m) for m in self.modules])]
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
        share = totals["mixed_clusters"] / totals["clusters"]
        yield f"{percent(share)} of the {totals['clusters']} clusters mix units of several LoRAs."
    ratio = totals["norm_ratio"]
    if ratio is not None and ratio > 0 and not WEAK < ratio < STRONG:
        stack = "the LoRAs stacked in loaders" if len(used) > 1 else "the original"
        change = "weaker" if ratio < 1 else "stronger"
        yield f"It is much {change} than {stack}: a strength of {1 / ratio:.2g} evens that out."


def _strengths(lora: Lora) -> str:
    model, clip = f"{lora.strength_model:g}", f"{lora.strength_clip:g}"
    return model if model == clip else f"{model} (text encoder {clip})"


# Tables

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


def _lora_row(number: int, lora: Lora) -> list[str]:
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


def _module_row(m: MergedModule) -> list[str]:
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


# Small helpers


def _ratio(value: float | None, against: float | None) -> float | None:
    return value / against if value is not None and against else None


def _root(part: float, whole: float) -> float | None:
    return math.sqrt(part / whole) if whole > 0 else None
