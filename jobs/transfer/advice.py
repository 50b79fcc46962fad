"""What a report recommends: copy, transfer or distil, in plain words.

The bounds follow benchmarks/RESULTS.md: between relatives a copy recovers most of an ordinary LoRA's effect and the
projections lose it; between strangers nothing made of weights alone recovers any.
"""

from __future__ import annotations

from ..text import percent
from .move import INSIDE
from .report import DECISION_DROPPED, DECISION_LEFT_OUT, Report

# Median relative weight change: under the first a copy is as good as new, from the second the bases are strangers
# (the target's weights lie further from the source's than zero does).
CLOSE, STRANGERS = 0.1, 1.0
# Median corrected similarity under which bases are strangers whatever the drift says.
CHANCE = 0.1
# Share of the update's energy without a weight in the target from which a copy may lose what the adapter is for.
LOST = 0.1


def strangers(report: Report) -> bool:
    """Whether the two bases have no more in common than chance allows."""
    totals = report.totals
    drift, alike = totals["median_drift"], totals["median_similarity"]
    if drift is not None and drift >= STRANGERS:
        return True
    if alike is not None:
        return alike < CHANCE
    return drift is None and any(m.matched for m in report.modules)


def advise(report: Report, *, inside: float | None) -> tuple[str, str]:
    """(advice, sentences) for a transfer report.

    inside: share of the update's energy inside the source's subspaces, None when not measured.
    """
    advice, sentences = _advise(report, inside)
    return advice, " ".join(filter(None, (sentences, _of_left_out(report) if advice != "distil" else "")))


def _rounded(report: Report) -> str:
    """The storages of two bases that differ in nothing else, "fp16 and Q4_K"; "" for any other two."""
    apart = [m for m in report.modules if m.drift]
    if not apart or not all(m.rounded for m in apart):
        return ""
    return " or ".join(dict.fromkeys(m.rounded for m in apart))


def _share(report: Report, decision: str) -> float:
    """Share of the update's energy in the modules of a decision, those aside that fill blocks."""
    energies = [(m.decision, m.source_norm**2) for m in report.modules if m.source_norm and not m.fills]
    whole = sum(energy for _, energy in energies)
    return sum(energy for made, energy in energies if made == decision) / whole if whole else 0.0


def _of_left_out(report: Report) -> str:
    """What the threshold cost, where it cost something."""
    left = _share(report, DECISION_LEFT_OUT)
    if not left:
        return ""
    return (
        f"The threshold left out {percent(left)} of the update's energy: if the effect is too weak, lower it "
        "or have the modules below it copied."
    )


def _advise(report: Report, inside: float | None) -> tuple[str, str]:
    drift = report.totals["median_drift"]
    if report.modules and all(m.drift == 0 for m in report.modules if m.drift is not None and m.matched) and drift == 0:
        return _same(report)
    if strangers(report):
        return "distil", (
            "These bases are strangers: their weights have no more in common than chance, and no method that looks at "
            "weights alone carries an effect between them. Expect little or nothing from this file; distilling the "
            "adapter onto the target is the way that works."
        )
    if inside is not None and inside >= INSIDE:
        return "transfer", (
            f"{inside:.1%} of the update lies inside its base's leading subspaces: this is a LoRA-X adapter, the kind "
            "that projection carries over. On the example models a plain copy recovered even a little more, so "
            "compare with method copy."
        )
    if (lost := _share(report, DECISION_DROPPED)) >= LOST:
        totals = report.totals
        return "copy, then distil", (
            f"{totals['dropped']} of {totals['modules']} modules, with {percent(lost)} of the update's energy, have no "
            "weight in the target and are left out. By that a copy can lose part of the effect: on the example models "
            "it kept 0.82 to 1.00, and 20 steps of learning from it brought 0.98 to 1.00. Distil with this file as the "
            "start and the effort quick."
        )
    if stored := _rounded(report):
        return "copy", (
            f"The weights differ by no more than storing them otherwise rounds them ({stored}): the same base, or one "
            "too close to it to tell. A plain copy acts on it as on the original; on the example models it kept "
            "1.00 of the effect on every storage from 16 to 4 bits."
        )
    if drift is not None and drift < CLOSE:
        return "copy", "The bases are close relatives: a plain copy is as good as a LoRA gets without training."
    return "copy", (
        "The bases are relatives: a plain copy keeps most of the effect, sometimes a little weaker, and raising the "
        "strength a little repairs that. Projecting an ordinary LoRA loses most of it. If it stays weak, distil."
    )


def _same(report: Report) -> tuple[str, str]:
    """Advice where every weight that takes over is the one it replaces: nothing is lost but what finds no weight."""
    dropped = report.totals["dropped"]
    recast = report.settings.get("strength", 1.0) != 1.0 or any(
        m.rank_in != m.rank_out for m in report.modules if m.decision == "copy"
    )
    form = "with no other change than the rank and strength that were asked for" if recast else "unchanged"
    if not dropped and not report.empty_blocks and not report.filled_blocks:
        return "none", f"The two bases have the same weights here, so the adapter is written {form}."
    lost = [f"{dropped} of {len(report.modules)} modules have no weight there and are left out"] if dropped else []
    lost += ["blocks that only the target has receive nothing"] if report.empty_blocks and not dropped else []
    lost += ["blocks that only the target has take an update a second time"] if report.filled_blocks else []
    advice = "copy, then distil" if _share(report, DECISION_DROPPED) >= LOST else "copy"
    return advice, (
        f"The weights that both bases have are the same, but {lost[0]}; what has its weight is written {form}. If the "
        "effect is too weak, distil with this file as the start."
    )


def relation(report: Report) -> str:
    """One sentence on two bases, for a comparison without an adapter."""
    drift = report.totals["median_drift"]
    if drift == 0 and all(m.drift == 0 for m in report.modules if m.drift is not None):
        if report.unmatched:
            return f"The weights that both bases have are the same; {len(report.unmatched)} have no counterpart."
        return "The two bases have the same weights."
    if stored := _rounded(report):
        return f"The same base stored otherwise ({stored}), or one too close to tell: LoRAs act alike on both."
    if strangers(report):
        return "These bases are strangers: LoRAs do not carry over by weights alone; distil them."
    return "The bases are relatives: LoRAs carry over, mostly by plain copying."
