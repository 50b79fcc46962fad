"""Synthetic data drawn by teacher and target, and the filter that keeps what the LoRAs act on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from ... import choices
from ...errors import SettingsError
from ...kernels.distill.discriminator import likeness
from ...kernels.distill.filter import action
from ...kernels.finite import all_finite
from ..memory import memory_told
from ..progress import Progress, silent
from .dataset import Dataset
from .denoiser import Denoiser, Drawing, Teacher
from .discriminator import Discriminator, expectation, require_finite
from .pictures import account_of_pictures

TARGET_SEEDS = 1_000_000  # the target draws from other seeds than the teacher


@dataclass(frozen=True)
class Generation:
    """What to draw and what to keep.

    count: samples in all; half from the source with its LoRAs, half from the target where there is one.
    least_action: samples on which the LoRAs act less are rejected, as a share of the distance between two
        unrelated seeds.
    least_likeness: with references or a discriminator, samples less likely to be of their kind are rejected.

    Raises:
        SettingsError: a value out of range.
    """

    count: int = choices.Budget.samples["thorough"]
    seed: int = choices.Dataset.seed
    drawing: Drawing = field(default_factory=Drawing)
    least_action: float = choices.Dataset.least_action
    least_likeness: float = choices.Dataset.least_likeness

    def __post_init__(self) -> None:
        if self.count < 2:
            raise SettingsError(f"at least 2 samples are needed, got {self.count}")
        if not 0 <= self.least_likeness <= 1:
            raise SettingsError(f"the likeness must lie between 0 and 1, got {self.least_likeness}")
        if not self.least_action >= 0:
            raise SettingsError(f"the action must not be negative, got {self.least_action}")


Embed = Callable[[Tensor], Tensor]


@memory_told("Draw fewer pictures at a time (batch), or smaller ones.")
def generate(
    teacher: Teacher,
    target: Denoiser | None,
    prompts: Sequence[str],
    settings: Generation,
    *,
    references: Tensor | None = None,
    embed: Embed | None = None,
    discriminator: tuple[Discriminator, Embed] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Draw a dataset.

    Args:
        teacher: the source, and the source with all LoRAs on it as its one adapted model.
        target: draws the other half; None, or a model of another latent space, leaves that half to the teacher.
        prompts: used in turn; the dataset's info keeps all of them as ``lines``.
        references: embeddings (n, d) of pictures of the real thing.
        embed: latents (n, …) of the teacher → embeddings (n, d); needed with references.
        discriminator: one that was trained before, and what makes embeddings for it of the teacher's latents. With
            references as well a sample must please both.

    Raises:
        SettingsError: no prompts, references without `embed`, pictures or embeddings that come out as NaN or Inf, or
            embeddings that are not the discriminator's.
    """
    if references is not None:
        if embed is None:
            raise SettingsError("references need something that embeds the samples as well")
        require_finite(references, "references")
    lines = [line.strip() for line in prompts if line.strip()]
    if not lines:
        raise SettingsError(
            "There are no prompts to draw from", hint="Write some, one a line, or connect Synthetic Prompts."
        )
    tell = progress or silent
    second = target if target is not None and target.space == teacher.base.space else None
    most = settings.count - settings.count // 2 if second is not None else settings.count
    asked = [lines[i % len(lines)] for i in range(most)]
    seeds = [settings.seed + i for i in range(most)]
    total = most * 2 + (settings.count - most if second is not None else 0)

    def part(denoiser: Denoiser, first: int, count: int, offset: int = 0) -> Tensor:
        latents = denoiser.draw(
            asked[:count],
            [seed + offset for seed in seeds[:count]],
            settings.drawing,
            lambda done, _, label: tell(first + done, total, label),
        )
        if not all_finite(latents):
            raise SettingsError(f"{denoiser.label} draws NaN or Inf", hint="Load it in bf16 or fp32.")
        return latents

    taught = part(teacher.adapted[0], 0, most)
    plain = part(teacher.base, most, most)
    own = None if second is None else part(second, 2 * most, settings.count - most, TARGET_SEEDS)
    tell(total, total, "filtering")
    acts = action(taught, plain)
    kept, like = acts >= settings.least_action, None
    if references is not None and embed is not None:
        pairs = [embed(plain), embed(taught)]
        for embeddings in pairs:
            require_finite(embeddings, "samples")
        order = {line: i for i, line in enumerate(dict.fromkeys(asked))}
        like = likeness(references, *pairs, groups=torch.tensor([order[line] for line in asked]))
    if discriminator is not None:
        judge, look = discriminator
        own_view = judge.likeness(look(taught))
        like = own_view if like is None else torch.minimum(like, own_view)
    if like is not None:
        kept &= like >= settings.least_likeness
    info = {
        **asdict(settings),
        "source": teacher.base.label,
        "space": teacher.base.space,
        "target": second.label if second is not None else "",
        "evaluations": settings.drawing.passes * total,
        "distinct_prompts": len(set(asked)),
        "lines": lines,
    }
    if references is not None:
        info["references"] = len(references)
    if discriminator is not None:
        info["discriminator"] = discriminator[0].name
    return Dataset(asked, taught.cpu(), plain.cpu(), None if own is None else own.cpu(), acts, kept, like, info)


def account(dataset: Dataset) -> str:
    """What was drawn and kept, in sentences and a table."""
    info, count, kept, acts = dataset.info, len(dataset.prompts), int(dataset.kept.sum()), dataset.acts
    if acts is None:
        return account_of_pictures(dataset)
    drawn = f"{count} samples of {info['source']} with its LoRA, {count} without from the same seeds"
    if dataset.target is not None:
        drawn += f", {len(dataset.target)} of {info['target']}"
    lines = [f"{drawn}; {info['distinct_prompts']} different prompts, {info['evaluations']} network evaluations."]
    lines.append(
        f"{kept} of {count} samples were kept. The LoRA acts on them at {acts.min():.3f} to {acts.max():.3f} (median "
        f"{acts.median():.3f}); 1 is the distance between two unrelated seeds, and the threshold was "
        f"{info['least_action']:g}."
    )
    weak = int((acts < info["least_action"]).sum())
    if weak:
        lines.append(
            f"{weak} were rejected because the LoRA hardly changes them: guard prompts, or others without its trigger "
            "words."
        )
    if dataset.likeness is not None:
        unlike = int((dataset.likeness < info["least_likeness"]).sum())
        lines.append(f"{unlike} {_verdict(info)} (threshold {info['least_likeness']:g}).")
        lines += [line for line in (expectation(info.get("references", 0)),) if line]
    rows = [
        f"| {i + 1} | {prompt.replace('|', '/')[:60]} | {acts[i]:.3f} | "
        + (f"{dataset.likeness[i]:.2f} | " if dataset.likeness is not None else "")
        + f"{'yes' if dataset.kept[i] else 'no'} |"
        for i, prompt in enumerate(dataset.prompts)
    ]
    head = "| sample | prompt | action | " + ("likeness | " if dataset.likeness is not None else "") + "kept |"
    return "\n\n".join(lines) + f"\n\n{head}\n" + "|---" * (head.count("|") - 1) + "|\n" + "\n".join(rows) + "\n"


def _verdict(info: dict) -> str:
    """What is said of samples that are not likely enough."""
    judge = info.get("discriminator")
    if not judge:
        return "look less like the references than like the source alone"
    return f"were rejected by {judge}" + (", or look unlike the references" if "references" in info else "")
