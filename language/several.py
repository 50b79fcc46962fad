"""Several adapters taught to one student: their effects merged by what they answer, not by their weights.

Each adapter of the source answers prompts of its own, as in Trans-LoRA, and one new adapter learns all the answers.
Tokenizers, widths and kinds may differ; the prompts must tell the tasks apart.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .. import adapters as files
from ..adapters import Adapter
from ..adapters.metadata import history
from ..errors import SettingsError
from ..jobs.memory import memory_told
from ..jobs.progress import Progress, silent
from .answers import Answered
from .collect import Collected
from .job import Taught, Work, teach
from .models import require_libraries
from .report import TextReport
from .run import TextRun
from .settings import TextData, TextDistillation

_SUMMED = ("generated", "duplicates", "unusable", "rejected")


@memory_told("Take a smaller batch (and accumulation as many times larger), or compute in bf16.")
def teach_several(
    teachers: Sequence[tuple[Path | Adapter, TextData]],
    source: Path,
    target: Path,
    settings: TextDistillation | None = None,
    *,
    run: TextRun | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
    precision: str = "auto",
) -> Taught:
    """Teach `target` what several adapters do on `source`, with one adapter.

    Args:
        teachers: each adapter with what it is asked; the share of guard texts and the seed are those of the first.
        run: where a broken run goes on.

    Raises:
        AdapterError, WrongBaseError, BaseModelError: as :func:`.job.teach`.
        SettingsError: as there; an objective other than the answers; a start from a copy.
    """
    require_libraries()
    settings, run, tell = settings or TextDistillation(), run or TextRun(), progress or silent
    if settings.words != "answers" or settings.start_from != "none":
        raise SettingsError(
            "Several adapters are taught together by their answers, from nothing",
            hint="Leave out --objective and --start-from, or teach one adapter.",
        )
    given = [(files.read(one) if isinstance(one, (str, Path)) else one, data) for one, data in teachers]
    collected, started = [], time.perf_counter()
    for adapter, data in given:
        _, teacher, asked, found, _ = Work(
            adapter, Path(source), Path(target), data, settings, run, tell, device, precision
        ).lessons()
        assert teacher is not None
        collected.append((asked, found))
        base = teacher.base
        del teacher  # its memory is free for the next one
        gc.collect()
    seconds, first = time.perf_counter() - started, given[0][1]
    pairs = [example for _, found in collected for example in found.examples]
    pooled = TextData(pairs=pairs, guard_share=first.guard_share, seed=first.seed)
    made = teach(None, None, target, pooled, settings, run=run, progress=progress, device=device, precision=precision)
    names = [Path(one.file).name if one.file else "an adapter" for one, _ in given]
    report = _report(made, names, base.label, collected, seconds)
    earlier = [step for one, _ in given if (step := history(one.metadata))]
    provenance = made.provenance | {
        "method": "trans-lora",
        "source": base.label,
        "source_fingerprint": base.fingerprint,
        "adapters_sha256": [one.digest for one, _ in given],
        "samples": report.accepted,
        **({"adapters_history": earlier} if earlier else {}),
    }
    return Taught(made.adapter, report, report.figures(), provenance)


def _report(
    made: Taught, names: list[str], source: str, collected: list[tuple[Collected, Answered]], seconds: float
) -> TextReport:
    """The report of the student with the counts of all its teachers."""
    report = made.report
    lines = [f"{name}: {asked.words}" for name, (asked, _) in zip(names, collected, strict=True)]
    counts = {name: sum(getattr(asked, name) for asked, _ in collected) for name in _SUMMED}
    return replace(
        report,
        source=source,
        adapter=" + ".join(names),
        prompts="\n\n".join(lines),
        samples=sum(asked.wanted for asked, _ in collected),
        accepted=sum(len(asked.prompts) for asked, _ in collected),
        truncated=sum(found.truncated for _, found in collected),
        empty=sum(found.empty for _, found in collected),
        tokens=report.tokens
        | {
            "generator": sum(asked.tokens for asked, _ in collected),
            "teacher": sum(found.tokens for _, found in collected),
        },
        notes=[*(note for part in collected for one in part for note in one.notes), *report.notes],
        seconds=report.seconds | {"prompts": seconds},
        **counts,
    )
