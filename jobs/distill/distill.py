"""Teach a base what LoRAs do on another, or what the user's own pictures show: make the training set, learn, and write
the adapter."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from ... import choices
from ...adapters import Adapter, from_state_dict
from ...adapters.metadata import history
from ...errors import SettingsError
from ...kernels.distill.students import STUDENTS, Student
from ...kernels.lowrank import LowRank
from ...names import WeightSlice
from ...names.keys import is_text_encoder
from ...version import __version__
from ..memory import memory_told
from ..progress import Progress, silent
from .dataset import Dataset
from .denoiser import Denoiser, Teacher, Trainee
from .effect import Scaled, matched_effect, require_target, shown
from .noisy_latents import make_noisy_latents, set_target_predictions
from .pictures import tag_frequency
from .report import DistillReport
from .schedule import Training
from .side_effects import SideEffects, side_effects, watch, watched_prompts
from .target_modules import target_modules, warm_starts
from .train import Keeper, train

KEPT_WORDS = (
    "ss_tag_frequency",
    "ss_dataset_dirs",
    "ss_base_model_version",
    "modelspec.trigger_phrase",
    "modelspec.architecture",
    "modelspec.title",
)
_STORED_NAMES = {"noisy_latents": "lessons"}  # a setting's name in files that differs from its name here
_NO_MATTER = ("guards", "effort")  # settings without a part in the result


@dataclass(frozen=True)
class Distillation:
    """What to teach, and into what.

    objective: one of ``choices.Distill.objectives``; see noisy_latents.py.
    kind: of the student, a name in ``kernels.distill.students.STUDENTS``.
    alpha: None for alpha = rank.
    where: which weights, see target_modules.py.
    effect: λ, the factor on what the LoRAs do. match_effect: scale the result until it moves the target's pictures as
        far as the LoRAs moved the source's, see effect.py.
    noisy_latents: how many to learn from; None for as many as the steps can use, at most 1024.
    guards: on how many guard prompts the side effects are measured, see side_effects.py; 0 for none, and for none of
        the pictures that tell how much of the effect arrived, see effect.py.
    effort: in words, for the report; see effort.py, which chooses the settings.

    Raises:
        SettingsError: unknown objective or kind, or a value out of range.
    """

    objective: str = choices.Distill.objective
    kind: str = choices.Distill.kind
    rank: int = choices.Distill.rank
    alpha: float | None = choices.Distill.alpha
    where: str = choices.Distill.modules
    effect: float = choices.Distill.effect
    match_effect: bool = choices.Distill.match_effect
    noisy_latents: int | None = choices.Distill.noisy_latents
    training: Training = field(default_factory=Training)
    guards: int = choices.Distill.guards
    effort: str = ""

    def __post_init__(self) -> None:
        if self.objective not in choices.Distill.objectives:
            raise SettingsError(
                f"unknown objective {self.objective!r}", hint=f"Choose {', '.join(choices.Distill.objectives)}."
            )
        if self.kind not in STUDENTS:
            raise SettingsError(f"unknown kind of adapter {self.kind!r}", hint=f"Choose {', '.join(STUDENTS)}.")
        if self.rank < 1:
            raise SettingsError(f"the rank must be at least 1, got {self.rank}")
        if self.match_effect and self.kind == "dora":
            raise SettingsError(
                "DoRA cannot be scaled in its own form, so its effect cannot be matched",
                hint="Switch match_effect off, or learn another kind.",
            )
        if self.noisy_latents is not None and self.noisy_latents < 1:
            raise SettingsError(f"at least one noisy latent is needed, got {self.noisy_latents}")
        if self.guards < 0:
            raise SettingsError(f"the number of guard prompts must not be negative, got {self.guards}")

    def stored(self) -> dict[str, object]:
        """As files name these settings, without those that do not change the result."""
        settings = {name: value for name, value in asdict(self).items() if name not in _NO_MATTER}
        return {_STORED_NAMES.get(name, name): value for name, value in settings.items()}


@dataclass
class Distilled:
    """adapter: for the target; report; provenance: for the file's metadata; side_effects: where they were measured."""

    adapter: Adapter
    report: DistillReport
    provenance: dict[str, object]
    side_effects: SideEffects | None = None


@memory_told(
    "Take a smaller batch (and accumulation as many times larger), switch checkpointing on, or compute in bf16."
)
def distill(
    dataset: Dataset,
    teacher: Teacher | None,
    target: Denoiser,
    adapters: Sequence[Adapter],
    settings: Distillation,
    *,
    warm_start: Adapter | None = None,
    translate: Callable[[Tensor], Tensor] | None = None,
    keeper: Keeper | None = None,
    progress: Progress | None = None,
    show: Callable[[Tensor], None] | None = None,
    salvage: Callable[[Adapter, int], None] | None = None,
    device: torch.device | str = "cpu",
) -> Distilled:
    """Distil adapters of the teacher into one of the target, or train one on pictures without a teacher.

    Args:
        dataset: what to learn on.
        teacher: None for a dataset of the user's own pictures, which the objective ``samples`` learns from.
        adapters: those on the teacher, for names, tags and provenance.
        warm_start: an adapter of the target to begin with.
        translate: latents of the teacher's space → of the target's; needed for ``samples`` between two spaces.
        keeper, show: see train.
        salvage: given the best so far and its step when anything ends the learning early, before that goes on.
        device: where the students' parameters live.

    Raises:
        SettingsError: settings that do not fit the models; no sample was kept; a model answers NaN.
        AdapterError: `warm_start` does not fit the target.
    """
    started, tell = time.perf_counter(), progress or silent
    objective, reason = _objective(settings.objective, dataset, teacher, target)
    if teacher is not None and dataset.has_teacher and objective == "samples" and teacher.base.space != target.space:
        dataset = translated(dataset, translate)
    if dataset.taught.shape[1] != target.channels:
        raise SettingsError(
            f"The dataset's latents have {dataset.taught.shape[1]} channels, those of {target.label} {target.channels}",
            hint="Make a dataset with these models.",
        )
    if settings.match_effect:
        require_target(dataset)
    bases = [] if teacher is None else [denoiser.base for denoiser in teacher.adapted]
    names, where = target_modules(target, settings.where, adapters, bases)
    updates = warm_starts(warm_start, target, names)
    training = settings.training
    count = settings.noisy_latents or min(1024, training.steps * training.batch * training.accumulation)
    limits = [] if teacher is None or objective == "samples" else [teacher.base]
    training_set = make_noisy_latents(dataset, target, objective, count, training.seed, limits)
    if teacher is not None and objective != "samples":
        set_target_predictions(training_set, teacher, target, objective, settings.effect, training.batch, tell)
    seen = None
    if settings.guards and teacher is not None and dataset.has_teacher:
        seen = watch(teacher, dataset, watched_prompts(dataset, adapters, settings.guards), tell)
    students = build(target, names, settings, updates, device)
    controlled = training_set.control is not None
    controls = build(target, names, replace(settings, kind="lora"), {}, device) if controlled else None
    prepared = time.perf_counter()
    words = {} if teacher is not None else tag_frequency(dataset.prompts)
    learnt = _Salvaged(salvage, tell, lambda: export(students, target, adapters, words))
    with learnt:
        result = train(
            target, students, training_set, training, controls=controls, keeper=keeper, progress=learnt.tell, show=show
        )
        adapter, effects, spent = export(students, target, adapters, words), [], {}
        final: Mapping[str, Trainee] = students
        if settings.match_effect:
            strength, tried, wanted, spent["matching"] = matched_effect(students, target, dataset, tell)
            modules = {key: module.scaled(strength) for key, module in adapter.modules.items()}
            adapter = adapter.with_modules(modules)
            final = {name: Scaled(student, strength) for name, student in students.items()}
            effects = [
                f"Scaled by {strength:.2f}: the LoRAs move the source's pictures by {wanted:.2f} of the "
                "distance between two seeds, the new adapter the target's by "
                f"{tried[-1][1]:.2f} at {tried[-1][0]:.2f}."
            ]
        pictures = shown(target, final, dataset, tell) if settings.guards and training_set.has_effect else None
        if pictures is not None:
            spent["pictures"] = pictures.evaluations
        aside = None if seen is None else side_effects(seen, target, final, tell)
        if aside is not None:
            spent["guard prompts"] = aside.evaluations
    report = DistillReport(
        source="" if teacher is None else teacher.base.label,
        target=target.label,
        adapters=[_name(a) for a in adapters],
        objective=objective,
        reason=reason,
        kind=STUDENTS[settings.kind].display,
        rank=settings.rank,
        where=where,
        modules=len(students),
        steps=len(result.losses),
        asked=training.steps,
        best=result.step,
        losses=result.losses,
        checks=result.checks,
        measured=training_set.has_effect,
        effect=training_set.effect(),
        learning_rate=result.learning_rate,
        resumed=result.resumed,
        trouble=result.trouble,
        start=_warm_start_words(warm_start, students),
        evaluations={
            **training_set.evaluations,
            "student": result.evaluations,
            **spent,
            "data": int(dataset.info.get("evaluations", 0)),
        },
        samples=len(dataset.kept_indices()),
        notes=_notes(adapters, warm=warm_start is not None) + effects,
        seconds={"preparing": prepared - started, "learning": time.perf_counter() - prepared},
        guards=[] if aside is None else aside.rows(),
        effort=settings.effort,
        pictures=[] if pictures is None else pictures.rows,
        spread=1.0 if pictures is None else pictures.spread,
    )
    provenance = {
        "version": __version__,
        "job": "distill",
        "method": objective,
        "settings": {**settings.stored(), "objective": objective},
        **_source_of(teacher),
        "target": target.label,
        "target_fingerprint": target.base.fingerprint,
        "adapters_sha256": [a.digest for a in adapters],
        "dataset_sha256": dataset.digest,
        "steps": result.step,
    }
    if any(histories := [history(a.metadata) for a in adapters]):
        provenance["adapters_history"] = histories
    return Distilled(adapter, report, provenance, aside)


def _source_of(teacher: Teacher | None) -> dict[str, object]:
    """The source in the provenance."""
    if teacher is None:
        return {}
    return {"source": teacher.base.label, "source_fingerprint": teacher.base.base.fingerprint}


def _objective(asked: str, dataset: Dataset, teacher: Teacher | None, target: Denoiser) -> tuple[str, str]:
    """(objective, why).

    Raises:
        SettingsError: the objective, or the dataset, needs a teacher and there is none.
    """
    if teacher is not None:
        return choose(asked, teacher.base, target)
    if dataset.has_teacher:
        raise SettingsError(
            "This dataset was drawn with a teacher, which is missing", hint="Connect the source and its LoRAs."
        )
    if asked not in ("auto", "samples"):
        raise SettingsError(
            f"The objective '{asked}' learns from a teacher's answers, and a dataset of pictures has no teacher",
            hint="Choose 'samples' or 'auto', or connect a source with LoRAs.",
        )
    return "samples", "As asked." if asked == "samples" else "Pictures without a teacher can only be learnt as samples."


def choose(asked: str, source: Denoiser, target: Denoiser) -> tuple[str, str]:
    """(objective, why).

    Raises:
        SettingsError: the asked one needs a common latent space and there is none.
    """
    shared = source.space == target.space
    if asked == "auto" and shared:
        return "difference", "Both bases share one latent space, so the student learns the effect itself."
    if asked == "auto":
        return "samples", (
            f"The bases have different latent spaces ({source.space}; {target.space}), so the student learns from the "
            "teacher's pictures."
        )
    if asked != "samples" and not shared:
        raise SettingsError(
            f"The objective '{asked}' compares answers in one latent space, but {source.label} has {source.space} and "
            f"{target.label} has {target.space}",
            hint="Choose 'samples' or 'auto'.",
        )
    return asked, "As asked."


def translated(dataset: Dataset, translate: Callable[[Tensor], Tensor] | None) -> Dataset:
    """The dataset in the target's latent space.

    Raises:
        SettingsError: there is nothing to translate with.
    """
    if translate is None:
        raise SettingsError(
            "The teacher's pictures must be decoded and encoded again, and a VAE is missing",
            hint="Connect the source's VAE and the target's VAE.",
        )
    taught = translate(dataset.taught)
    plain = None if dataset.plain is None else translate(dataset.plain)
    return replace(dataset, taught=taught, plain=plain, target=None)


def build(
    target: Denoiser, names: Sequence[str], settings: Distillation, warm_start: Mapping[str, LowRank], device
) -> dict[str, Student]:
    """A student for each weight, from the seed."""
    kind, shapes = STUDENTS[settings.kind], target.learnable()
    dice = torch.Generator().manual_seed(settings.training.seed)
    return {
        name: kind.create(
            shapes[name],
            settings.rank,
            settings.alpha,
            dice,
            warm_start=warm_start.get(name),
            device=device,
            weight=target.base.load(name).cpu() if kind.needs_base else None,
        )
        for name in names
    }


def export(
    students: dict[str, Student], target: Denoiser, adapters: Sequence[Adapter], words: Mapping[str, str] | None = None
) -> Adapter:
    """The students as an adapter, in the first teacher's layout where that can say it (kohya), else ComfyUI's; without
    a teacher in kohya's, which every program loads.

    words: metadata of an adapter that has no teacher to take them from.
    """
    layout = "kohya" if not adapters or adapters[0].layout == "kohya" else "comfy"
    tensors, names = {}, target.base.names
    for name, student in students.items():
        weight_slice = WeightSlice(name)
        key = (
            names.layout_key(weight_slice, layout)
            or names.layout_key(weight_slice, "comfy")
            or name.removesuffix(".weight")
        )
        tensors |= {key + suffix: tensor for suffix, tensor in student.tensors().items()}
    metadata = {
        word: text for adapter in reversed(adapters) for word, text in adapter.metadata.items() if word in KEPT_WORDS
    }
    return from_state_dict(tensors, metadata=metadata | dict(words or {}))


def _name(adapter: Adapter) -> str:
    return str(adapter.file).replace("\\", "/").rsplit("/", 1)[-1] if adapter.file else "an adapter"


def _warm_start_words(adapter: Adapter | None, students: dict[str, Student]) -> str:
    if adapter is None:
        return "nothing"
    worst = max(student.warm_start_error for student in students.values())
    return _name(adapter) + (f" (cut to the student's form with an error of up to {worst:.1%})" if worst > 1e-3 else "")


class _Salvaged:
    """Hands out the best so far when learning ends early."""

    def __init__(self, salvage, tell: Progress, made: Callable[[], Adapter]):
        self.salvage, self.inner, self.made, self.step = salvage, tell, made, 0

    def tell(self, done: int, total: int, label: str) -> None:
        self.step = done
        self.inner(done, total, label)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, problem, trace) -> None:
        if problem is not None and self.salvage is not None and self.step:
            self.salvage(self.made(), self.step)


def _notes(adapters: Sequence[Adapter], *, warm: bool) -> list[str]:
    notes = []
    if len(adapters) > 1 and not warm:
        notes.append(
            "Several LoRAs were taught from nothing. Where they fit the target's weights, starting from their "
            "merge (LEGO Merge into start_from) gives much cleaner pictures in the same time."
        )
    if any(is_text_encoder(key) for adapter in adapters for key in adapter.modules):
        notes.append("The adapter also changes the text encoder; what that does is taught to the new base's denoiser.")
    return notes
