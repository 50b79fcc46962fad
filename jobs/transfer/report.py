"""What a job found and did, module by module, as an object that turns into sentences, tables and JSON.

The jobs fill it in and take the decisions; nothing is decided here.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean, median

from ...untrusted import code, in_markdown
from ..text import ReportText, cell, grouped, in_ranges, joined, mean_of, percent, rebuilt, table, words

ADVICE = ("copy", "copy, then distil", "transfer", "distil", "none")
DECISION_DROPPED = "dropped"  # no place in the target
DECISION_LEFT_OUT = "left out"  # under the threshold


@dataclass
class ModuleReport:
    """One module of the adapter (or one base weight, when two bases are compared).

    Every figure is None where it was not measured. Similarities lie in [0, 1]; the corrected ones are
    (Φ − k/d) / (1 − k/d), 0 at chance level, and may be slightly negative.
    """

    name: str  # canonical weight name in the source base
    rows: tuple[int, int] | None = None  # (start, length) of a slice of a fused weight
    key: str = ""  # module key in the adapter file
    block: str = ""
    role: str = ""
    kind: str = ""  # "lora", "loha", …; "" for a plain base weight
    matched: str | None = None  # canonical weight name in the target base
    shape: list[int] | None = None
    k: int | None = None  # size of the subspaces compared
    phi_left: float | None = None
    phi_right: float | None = None
    phi_left_corrected: float | None = None
    phi_right_corrected: float | None = None
    drift: float | None = None  # ‖W_t − W_s‖ / ‖W_s‖: 0 the same weight, about 1.4 between strangers
    rounded: str = ""  # the two storages, where the weights differ by no more than these round
    source_norm: float | None = None  # ‖ΔW_s‖_F
    kept_energy: float | None = None  # ‖ΔW_t‖² / ‖ΔW_s‖²
    norm_ratio: float | None = None  # ‖ΔW_t‖ / ‖ΔW_s‖
    cosine_with_copy: float | None = None
    rank_in: int | None = None
    rank_out: int | None = None
    truncation_error: float | None = None  # relative Frobenius error of the truncation; 0 when exact
    decision: str = ""  # "copy", "lora-x", "prolora", "rotate", "kept", "dropped", "left out", "compared", …
    reason: str = ""  # one sentence
    fills: bool = False  # the update once more, on a block of the target that nothing else feeds

    @property
    def similarity(self) -> float | None:
        """Mean of the corrected Φ_l and Φ_r; None when neither was measured."""
        return mean_of([self.phi_left_corrected, self.phi_right_corrected])

    @property
    def label(self) -> str:
        """The name with its rows: ``…qkv.weight[0:64]``."""
        return self.name if self.rows is None else f"{self.name}[{self.rows[0]}:{self.rows[0] + self.rows[1]}]"


@dataclass
class Report(ReportText):
    """Everything one transfer or comparison has to say."""

    job: str  # "transfer" or "compare"
    source: str = ""
    target: str = ""
    adapter: str = ""
    method_asked: str = ""
    method: str = ""  # the method that was used
    settings: dict = field(default_factory=dict)
    modules: list[ModuleReport] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)  # adapter modules (or weights) without a counterpart
    extras: list[str] = field(default_factory=list)  # keys of the file that no format explains; kept as they are
    advice: str = "none"  # one of ADVICE
    advice_reason: str = ""
    notes: list[str] = field(default_factory=list)
    elapsed: float = 0.0  # seconds
    copy_baseline: dict = field(default_factory=dict)  # the same figures for plain copying
    empty_blocks: list[str] = field(default_factory=list)  # blocks of the target that receive nothing
    filled_blocks: dict[str, str] = field(
        default_factory=dict
    )  # block that nothing feeds → block whose update it takes
    block_map: str = ""  # what paired blocks of different depth: a published map's name, or "search"

    @property
    def totals(self) -> dict:
        """Counts, similarities and energies over all modules, those aside that fill blocks.

        ``kept_energy`` is Σ‖ΔW_t‖² / Σ‖ΔW_s‖² over the modules whose norm is known, dropped ones and those left out
        counted as 0; ``norm_ratio`` its square root. Figures nobody measured are None.
        """
        modules = [m for m in self.modules if not m.fills]
        similar = [m.similarity for m in modules if m.similarity is not None]
        kept = kept_energy(modules)
        drifts = [m.drift for m in modules if m.drift is not None]
        errors = [m.truncation_error for m in modules if m.truncation_error is not None]
        return {
            "modules": len(modules),
            "matched": sum(m.matched is not None for m in modules),
            "dropped": sum(m.decision == DECISION_DROPPED for m in modules),
            "left_out": sum(m.decision == DECISION_LEFT_OUT for m in modules),
            "unmatched": len(self.unmatched),
            "mean_similarity": fmean(similar) if similar else None,
            "median_similarity": median(similar) if similar else None,
            "lowest_similarity": min(similar) if similar else None,
            "median_drift": median(drifts) if drifts else None,
            "kept_energy": kept,
            "norm_ratio": None if kept is None else math.sqrt(kept),
            "worst_truncation_error": max(errors) if errors else None,
            "decisions": dict(Counter(m.decision for m in modules if m.decision).most_common()),
        }

    def blocks(self) -> dict[str, list[ModuleReport]]:
        """Modules by block, in the order in which the blocks appear."""
        return grouped(self.modules, lambda m: m.block or "other")

    def roles(self) -> dict[str, list[ModuleReport]]:
        """Modules by role, in the order in which the roles appear."""
        return grouped(self.modules, lambda m: m.role or "other")

    def summary(self) -> str:
        """One paragraph a person can read without knowing the words of the trade."""
        return " ".join(_sentences(self))

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that :meth:`to_json` wrote. Fields this version does not know are passed over."""
        data = json.loads(text)
        modules = [rebuilt(ModuleReport, m) for m in data.get("modules", [])]
        for module in modules:
            module.rows = None if module.rows is None else (module.rows[0], module.rows[1])
        return rebuilt(cls, {**data, "modules": modules})

    def to_markdown(self) -> str:
        """Sentences first, then one row per block, then one row per module."""
        parts = [f"# {in_markdown(_title(self))}", in_markdown(self.summary())]
        parts += [f"- {in_markdown(note)}" for note in self.notes]
        parts += ["## By block", table(BLOCK_COLUMNS, [_block_row(b, ms) for b, ms in self.blocks().items()])]
        if self.unmatched:
            parts += ["## Without a counterpart in the target", *(f"- {code(name)}" for name in self.unmatched)]
        if self.extras:
            parts += ["## Keys no format explains (kept as they are)", *(f"- {code(key)}" for key in self.extras)]
        if self.copy_baseline:
            parts += [
                "## Plain copy, for comparison",
                *(f"- {words(n)}: {in_markdown(cell(v))}" for n, v in self.copy_baseline.items()),
            ]
        if self.settings:
            parts += ["## Settings", *(f"- {words(n)}: {in_markdown(cell(v))}" for n, v in self.settings.items())]
        parts += ["## Every module", table(MODULE_COLUMNS, [_module_row(m) for m in self.modules])]
        return joined(parts)


def kept_energy(modules: Iterable[ModuleReport]) -> float | None:
    """Σ‖ΔW_t‖² / Σ‖ΔW_s‖² over modules; the plain mean of the shares when no norm is known; None without any."""
    shares = [(0.0 if m.decision == DECISION_DROPPED else m.kept_energy, m.source_norm) for m in modules]
    weighed = [(share, norm**2) for share, norm in shares if share is not None and norm is not None]
    total = math.fsum(weight for _, weight in weighed)
    if total > 0:
        return math.fsum(share * weight for share, weight in weighed) / total
    return mean_of([share for share, _ in shares])


# Sentences


def _title(report: Report) -> str:
    if report.job == "transfer":
        return f"{report.adapter or 'Adapter'}: from {report.source or 'source'} to {report.target or 'target'}"
    return f"{report.source or 'Source'} and {report.target or 'target'} compared"


def _sentences(report: Report) -> Iterable[str]:
    totals = report.totals
    count = totals["modules"]
    if report.advice == "distil":
        yield report.advice_reason
    if report.job == "transfer":
        moved = count - totals["dropped"] - totals["left_out"]
        method = f" with {report.method}" if report.method else ""
        chosen = " (chosen automatically)" if report.method_asked == "auto" and report.method else ""
        yield f"{moved} of {count} modules were carried from {report.source} to {report.target}{method}{chosen}."
    else:
        yield f"{count} weights of {report.source} were compared with {report.target}."
    if totals["left_out"]:
        yield _left_out(report)
    if totals["mean_similarity"] is not None:
        mean, middle, low = (max(totals[f"{n}_similarity"], 0.0) for n in ("mean", "median", "lowest"))
        yield (
            f"The two bases share {percent(mean)} of their leading directions beyond chance "
            f"(median {percent(middle)}, lowest {percent(low)})."
        )
    if totals["median_drift"] is not None:
        where = "The weights" if totals["mean_similarity"] is None else "Along these the weights"
        yield f"{where} differ by {percent(totals['median_drift'])} (median)."
    if report.job == "transfer" and totals["kept_energy"] is not None:
        kept, norm = totals["kept_energy"], totals["norm_ratio"]
        yield f"The update keeps {percent(kept)} of its energy, {norm:.2f} of its norm."
    if report.filled_blocks:
        pairs = ", ".join(f"{block} that of {donor}" for block, donor in report.filled_blocks.items())
        yield f"Blocks of {report.target} that nothing feeds take the update of the most similar block: {pairs}."
    if report.empty_blocks:
        one = len(report.empty_blocks) == 1
        yield (
            f"{len(report.empty_blocks)} block{'' if one else 's'} of {report.target} receive{'s' if one else ''} "
            f"nothing, because nothing of the adapter fits there: {', '.join(in_ranges(report.empty_blocks))}."
        )
    if (totals["worst_truncation_error"] or 0) > 1e-6:
        yield f"Cutting the rank cost at most {percent(totals['worst_truncation_error'])} of a module's norm."
    if report.unmatched:
        yield f"{len(report.unmatched)} had no counterpart in the target."
    if report.advice_reason and report.advice != "distil":
        yield report.advice_reason


def _left_out(report: Report) -> str:
    modules = [m for m in report.modules if m.decision == DECISION_LEFT_OUT]
    blocks = report.blocks().items()
    whole = [name for name, inside in blocks if all(m.decision == DECISION_LEFT_OUT for m in inside)]
    where = f", all of {', '.join(in_ranges(whole))} among them" if whole else ""
    one = len(modules) == 1
    return (
        f"{len(modules)} module{' is' if one else 's are'} left out, because the two bases agree there less than the "
        f"threshold of {report.settings.get('threshold', 0):g} asks{where}."
    )


# Tables

BLOCK_COLUMNS = ("block", "modules", "similarity", "Φ left", "Φ right", "kept energy", "strength", "decisions")
MODULE_COLUMNS = (
    "module",
    "feeds",
    "shape",
    "k",
    "Φ left",
    "Φ right",
    "corrected left",
    "corrected right",
    "drift",
    "kept energy",
    "norm ratio",
    "cosine with copy",
    "rank",
    "rank cut error",
    "decision",
    "reason",
)


def _block_row(block: str, modules: list[ModuleReport]) -> list[str]:
    kept = kept_energy(modules)
    decisions = Counter(m.decision for m in modules if m.decision).most_common()
    return [
        block,
        str(len(modules)),
        cell(mean_of([m.similarity for m in modules])),
        cell(mean_of([m.phi_left for m in modules])),
        cell(mean_of([m.phi_right for m in modules])),
        cell(kept),
        cell(None if kept is None else math.sqrt(kept)),
        ", ".join(f"{count} {decision}" for decision, count in decisions),
    ]


def _module_row(m: ModuleReport) -> list[str]:
    feeds = "–" if m.matched is None else "same name" if m.matched == m.name else f"`{m.matched}`"
    ranks = cell(m.rank_in) if m.rank_in == m.rank_out else f"{cell(m.rank_in)} → {cell(m.rank_out)}"
    shape = "×".join(map(str, m.shape)) if m.shape else "–"
    figures = [m.phi_left, m.phi_right, m.phi_left_corrected, m.phi_right_corrected]
    figures += [m.drift, m.kept_energy, m.norm_ratio, m.cosine_with_copy]
    return [
        f"`{m.label}`",
        feeds,
        shape,
        cell(m.k),
        *map(cell, figures),
        ranks,
        cell(m.truncation_error),
        m.decision or "–",
        m.reason or "–",
    ]
