"""Trans-LoRA on text (arXiv 2405.17258), from folders to an adapter: prompts, answers, learning; resumable.

The source with its adapter answers prompts that nobody has to have: a generator makes them from a few seeds. The target
learns these answers. What travels is text, so tokenizers and widths may differ.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .. import adapters as files
from ..adapters import Adapter
from ..adapters.metadata import history
from ..errors import SettingsError
from ..jobs.distill.checkpoint import identity
from ..jobs.memory import memory_told
from ..jobs.progress import Progress, silent
from ..version import __version__
from . import goals
from .answers import Answered, agreement, answered, ask, given
from .collect import Collected
from .decode import Written
from .learn import chosen_rate, learn
from .models import LanguageModel, check_belongs, open_model, require_libraries, same_tokenizer, with_adapter
from .own_texts import own_texts
from .prompts import gathered
from .report import TextReport
from .run import TextRun
from .settings import Example, TextData, TextDistillation
from .student import Student, begin, checkpointed, display, exported
from .texts import Format, Pair

HELD_OUT, MOST_HELD = 10, 100  # one answer in ten is only measured with, at most a hundred
SHOWN, LONGEST_SHOWN = 5, 120  # examples in the report, and characters of each


@dataclass
class Taught:
    """adapter: of the target, in PEFT's form; report; figures: those of the report; provenance: for the metadata."""

    adapter: Adapter
    report: TextReport
    figures: dict[str, float]
    provenance: dict[str, object]


@memory_told(
    "Take a smaller batch (and accumulation as many times larger), switch checkpointing on, or compute in bf16."
)
def teach(
    adapter: Path | Adapter | None,
    source: Path | None,
    target: Path,
    data: TextData,
    settings: TextDistillation | None = None,
    *,
    run: TextRun | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
    precision: str = "auto",
) -> Taught:
    """Teach `target` what an adapter does on `source`.

    Args:
        adapter, source: the teacher; None where `data` has answers already (``pairs``).
        source, target: folders as transformers writes them.
        run: where a broken run goes on.
        precision: of the computation; "auto" is fp32 on a CPU and bf16 on a GPU that has it.

    Raises:
        AdapterError, WrongBaseError: the adapter cannot be read, or is not for the source.
        BaseModelError: a model or a tokenizer cannot be read.
        SettingsError: a library is missing; settings that do not fit; no usable prompts or answers.
    """
    require_libraries()
    settings, run, tell = settings or TextDistillation(), run or TextRun(), progress or silent
    if isinstance(adapter, (str, Path)):
        adapter = files.read(adapter)
    if not data.pairs and (adapter is None or source is None):
        raise SettingsError("There is no teacher: an adapter and its source are needed")
    work = Work(adapter, source and Path(source), Path(target), data, settings, run, tell, device, precision)
    return work.done()


@dataclass
class Work:
    """One call of :func:`teach`."""

    adapter: Adapter | None
    source: Path | None
    target: Path
    data: TextData
    settings: TextDistillation
    run: TextRun
    tell: Progress
    device: str
    precision: str

    def lessons(self) -> tuple[LanguageModel, LanguageModel | None, Collected, Answered, dict[str, float]]:
        """(target, teacher, prompts, what the teacher answers to them, seconds spent)."""
        started = time.perf_counter()
        target = self._open(self.target)
        Format(target, self.settings.chat)  # raises where there is no template for a chat
        teacher = None if self.adapter is None or self.source is None else self._open(self.source)
        if teacher is not None and self.adapter is not None:
            check_belongs(self.adapter, teacher.base)
        if self.settings.words == "difference":
            _require_shared(teacher, target)
        asked, prompts = gathered(self.data, target, teacher, self.settings.chat, self._open, self.run, self.tell)
        generated = time.perf_counter()
        found = self._answers(asked, prompts, teacher)
        return target, teacher, asked, found, dict(prompts=generated - started, answers=time.perf_counter() - generated)

    def done(self) -> Taught:
        goal = self.settings.words
        student_model, teacher, asked, found, seconds = self.lessons()
        form, started = Format(student_model, self.settings.chat), time.perf_counter()
        base = None if teacher is None else teacher.base
        if goal != "difference" and teacher is not None:
            teacher = None  # its memory is free for the student
            gc.collect()
        learnt, held = _split(found.examples, self.settings.training.seed)
        before = self._asked(form, held)
        guards, watched, own_tokens = own_texts(
            student_model, self.data.guarded, len(learnt), self.data.seed, self.run, self.tell
        )
        own_before = self._foretold(student_model, watched)
        student = begin(student_model, self.settings, self.adapter, base)
        result = self._learn(student, form, learnt, held, guards, teacher)
        own_after = self._foretold(student_model, watched)
        after = self._asked(form, held)
        learned = time.perf_counter()
        made = exported(student)
        report = TextReport(
            source="" if base is None or self.data.pairs else base.label,
            target=student_model.label,
            adapter=_name(self.adapter),
            objective=goal,
            reason=_reason(self.settings.objective),
            kind=display(self.settings.kind),
            rank=student.rank,
            where=student.where,
            modules=len(made.modules),
            start="nothing" if self.settings.start_from == "none" else "a copy of the adapter",
            prompts=asked.words,
            samples=asked.wanted,
            generated=asked.generated,
            duplicates=asked.duplicates,
            unusable=asked.unusable,
            rejected=asked.rejected,
            accepted=len(asked.prompts),
            truncated=found.truncated,
            empty=found.empty,
            learnt=len(learnt),
            held_out=len(held),
            guards=len(guards),
            watched=len(watched),
            own_before=own_before,
            own_after=own_after,
            agreement_before=agreement(before, held),
            agreement_after=agreement(after, held),
            tokens={
                "generator": asked.tokens,
                "teacher": found.tokens,
                "own texts": own_tokens,
                "student": result.tokens,
            },
            steps=len(result.losses),
            asked=self.settings.training.steps,
            best=result.best,
            losses=result.losses,
            checks=result.checks,
            reference=result.reference,
            learning_rate=result.rate,
            resumed=result.resumed,
            trouble=result.trouble,
            scores=asked.scores,
            examples=[
                (_short(example.prompt), _short(example.answer), _short(written.text))
                for example, written in list(zip(held, after, strict=True))[:SHOWN]
            ],
            notes=[*asked.notes, *found.notes, *student.notes, *self.run.notes],
            seconds=seconds | {"learning": learned - started},
        )
        return Taught(made, report, report.figures(), self._provenance(report, base, student_model))

    def _open(self, path: Path) -> LanguageModel:
        self.tell(0, 0, f"opening {path.name}")
        return open_model(path, device=self.device, precision=self.precision)

    def _answers(self, asked: Collected, prompts: str, teacher: LanguageModel | None) -> Answered:
        if teacher is not None and self.adapter is not None:
            with_adapter(teacher, self.adapter)
        if self.data.pairs:
            return given(self.data.pairs, self.settings.max_new_tokens)
        assert teacher is not None
        key = [prompts, *self._marks(teacher)]
        return answered(Format(teacher, self.settings.chat), asked.prompts, self.settings, key, self.run, self.tell)

    def _asked(self, form: Format, held: list[Example]) -> list[Written]:
        return ask(form, [example.prompt for example in held], self.settings, tell=self.tell)

    def _foretold(self, lm: LanguageModel, texts: list[Pair]) -> float:
        return goals.mean_loss(goals.answers(lm), texts, self.settings.training.batch)

    def _marks(self, teacher: LanguageModel) -> list[object]:
        peft = None if self.adapter is None or self.adapter.peft is None else self.adapter.peft.config
        return [teacher.base.fingerprint, self.adapter and self.adapter.digest, peft]

    def _learn(self, student: Student, form: Format, learnt, held, guards: list[Pair], teacher: LanguageModel | None):
        settings, lm = self.settings, student.lm
        pairs = [*(form.pair(example.prompt, example.answer) for example in learnt), *guards]
        apart = [form.pair(example.prompt, example.answer) for example in held]
        if teacher is not None and settings.words == "difference":
            loss = goals.difference(lm, teacher, settings.effect)
        else:
            loss = goals.answers(lm)
        texts = [[e.prompt, e.answer] for e in [*learnt, *held]]
        marks = [] if teacher is None else self._marks(teacher)
        start = [] if settings.start_from == "none" or self.adapter is None else [self.adapter.digest]
        key = identity(
            "learn", settings.stored(), texts, guards, lm.base.fingerprint, str(lm.model.dtype), marks, start
        )
        keeper = self.run.keeper(key)
        try:
            with checkpointed(lm.model, settings.training.checkpointing):
                return learn(
                    student.parameters,
                    loss,
                    pairs,
                    apart,
                    settings.training,
                    chosen_rate(lm.config.hidden_size, settings.training),
                    keeper=keeper,
                    tell=self.tell,
                    salvage=lambda step: self.run.salvage(exported(student), step),
                )
        finally:
            if keeper is not None and keeper.trouble:
                self.run.notes.append(keeper.trouble)

    def _provenance(self, report: TextReport, base, target: LanguageModel) -> dict[str, object]:
        found: dict[str, object] = {
            "version": __version__,
            "job": "distill",
            "method": "trans-lora" if report.source else "examples",
            "settings": self.settings.stored(),
            "target": target.label,
            "target_fingerprint": target.base.fingerprint,
            "samples": report.accepted,
            "steps": report.best,
        }
        if base is not None and self.adapter is not None:
            found |= {"source": base.label, "source_fingerprint": base.fingerprint}
            found["adapters_sha256"] = [self.adapter.digest]
            if earlier := history(self.adapter.metadata):
                found["adapters_history"] = [earlier]
        return found


def _split(examples: list[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """(to learn from, held out): a tenth, drawn."""
    mixed = Random(f"held out {seed}").sample(examples, len(examples))
    held = min(MOST_HELD, max(2, len(examples) // HELD_OUT))
    return mixed[:-held], mixed[-held:]


def _require_shared(teacher: LanguageModel | None, target: LanguageModel) -> None:
    if teacher is None:
        raise SettingsError("A difference of logits needs a teacher", hint="Choose --objective answers.")
    if not same_tokenizer(teacher, target):
        raise SettingsError(
            f"{teacher.label} and {target.label} have different tokenizers, so their logits cannot be compared",
            hint="Choose --objective answers.",
        )


def _reason(asked: str) -> str:
    return "As printed in the paper, whatever the tokenizers." if asked == "auto" else "As asked."


def _name(adapter: Adapter | None) -> str:
    return Path(adapter.file).name if adapter is not None and adapter.file else "The adapter"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
