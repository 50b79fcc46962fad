"""Source and target, opened and with the LoRAs on the source: teacher and student of a distillation.

The example models of this project draw through their own networks, without diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .. import choices
from ..adapters import Adapter
from ..bases import Base, open_base
from ..errors import GraftError, SettingsError, WrongBaseError
from ..jobs.distill.denoiser import Denoiser, Drawing, Teacher
from ..jobs.transfer.plan import plan
from .bench import Bench
from .denoiser import DiffusersDenoiser
from .latents import spaces, translation
from .open import open_model

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
Given = Sequence[tuple[Adapter, float, float]]  # adapters with their strengths on the model and on the text encoder


@dataclass
class Models:
    """What a distillation computes with.

    base: the source alone. each: the source with one LoRA, for every LoRA. together: the source with all of them.
    target: None where only data of the source is wanted. translate: latents of the source's space → of the target's.
    drawing: how pictures are drawn where nothing else is asked. precision: of the computation.
    """

    base: Denoiser
    each: list[Denoiser]
    together: Denoiser
    target: Denoiser | None
    translate: Callable[[Tensor], Tensor] | None
    drawing: Drawing
    precision: str

    @property
    def teacher(self) -> Teacher:
        """For learning: the LoRAs one by one."""
        return Teacher(self.base, self.each)

    @property
    def drawer(self) -> Teacher:
        """For drawing: the LoRAs together."""
        return Teacher(self.base, [self.together])

    def drawn_as(self, **asked: int | float | str | None) -> Drawing:
        """How pictures are drawn, as asked, else as suits the models; a height that is not given is the width.

        asked: fields of :class:`..jobs.distill.denoiser.Drawing`, None for those that are not.
        """
        asked = asked | {"height": asked.get("height") or asked.get("width")}
        return replace(self.drawing, **{name: value for name, value in asked.items() if value is not None})

    @property
    def marks(self) -> list:
        """What of the models decides a result."""
        both = [self.base, *([] if self.target is None else [self.target])]
        shares = torch.tensor([0.1, 0.5, 0.9])
        return [[d.base.fingerprint, d.space, d.sigmas(shares).tolist()] for d in both] + [self.precision]


def open_models(
    loras: Given,
    source: str | Path,
    target: str | Path | None,
    *,
    source_parts: str | Path | None = None,
    target_parts: str | Path | None = None,
    device: str = "cpu",
    precision: str = choices.Pipelines.precision,
    one_at_a_time: bool | None = None,
) -> Models:
    """Open what a distillation needs.

    Args:
        loras: those of the source, with their strengths.
        source, target: diffusers folders or single files. source_parts, target_parts: see :func:`.open.open_model`; a
            folder given as the other base serves where both are of one kind.
        precision: of the computation; "auto" is fp32 on a CPU and bf16 on a GPU that has it.
        one_at_a_time: whether models wait in main memory while another computes; None where they would not fit.

    Raises:
        SettingsError: no LoRA, an unknown precision, or a library that is missing.
        WrongBaseError: a LoRA is not for the source.
        BaseModelError: a model cannot be opened.
    """
    if not loras:
        raise SettingsError("No LoRA was given, so there is nothing to teach")
    here = open_base(source)
    for adapter, _, _ in loras:
        _check(adapter, here)
    letters = [None if path is None else example_letter(path) for path in (source, target)]
    if letters[0] and (letters[1] or target is None):
        return _examples(loras, source, letters[0], target, letters[1])
    if any(letters):
        raise SettingsError(
            "An example model and a model of another kind cannot be teacher and student",
            hint="Give two example models, or two of your own.",
        )
    precision = _precision(precision, device)
    bench = Bench(device, one_at_a_time)
    folders = [Path(path) for path in (source, target) if path is not None and Path(path).is_dir()]
    first = open_model(source, source_parts or next(iter(folders), None), DTYPES[precision])
    second = None
    if target is not None:
        same = Path(source).resolve() == Path(target).resolve()
        second = first if same else open_model(target, target_parts or next(iter(folders), None), DTYPES[precision])
    opened = [first] if second is None or second is first else [first, second]
    bench.decide([model for one in opened for model in one.models()])
    names = spaces(first, second or first, bench)
    base = DiffusersDenoiser(first, bench, names[0])

    def on_source(given: Given) -> DiffusersDenoiser:
        label = f"{first.label} with " + " and ".join(name_of(adapter) for adapter, _, _ in given)
        return DiffusersDenoiser(first, bench, names[0], given, label)

    each = [on_source([lora]) for lora in loras]
    sizes = [one.family.size for one in opened]
    return Models(
        base,
        each,
        each[0] if len(each) == 1 else on_source(loras),
        None if second is None else DiffusersDenoiser(second, bench, names[1]),
        None if second is None else translation(first, second, bench),
        Drawing(min(sizes), min(sizes), cfg=first.family.cfg),
        precision,
    )


def example_letter(path: str | Path) -> str | None:
    """Which base of the example family a file is, or None."""
    from ..family.materialize import BASES, stamp
    from ..io.safetensors import TensorFile

    try:
        mark = TensorFile(Path(path).expanduser()).metadata.get("family")
    except GraftError:
        return None
    return next((letter for letter in BASES if mark and mark == stamp(f"base_{letter}.safetensors")), None)


def name_of(adapter: Adapter) -> str:
    """A LoRA's file name without folder and ending."""
    return Path(adapter.file).stem if adapter.file else "LoRA"


def _examples(loras: Given, source, first: str, target, second: str | None) -> Models:
    from ..family import materialize, vae
    from ..family.denoiser import FamilyDenoiser

    def model(path, letter: str, given: Given = ()) -> FamilyDenoiser:
        return FamilyDenoiser(letter, {f"family_{letter}": Path(path)}, [(a, strength) for a, strength, _ in given])

    def translate(latents: Tensor) -> Tensor:
        pictures = vae.decode(materialize.autoencoder(first), latents)
        return vae.encode(materialize.autoencoder(second or first), pictures)

    each = [model(source, first, [lora]) for lora in loras]
    return Models(
        model(source, first),
        each,
        each[0] if len(each) == 1 else model(source, first, loras),
        None if second is None else model(target, second),
        translate,
        Drawing(64, 64, steps=10, cfg=3.0, batch=64),
        "fp32",
    )


def _check(adapter: Adapter, base: Base) -> None:
    """WrongBaseError where the adapter is not for the base."""
    try:
        plan(adapter, base, base)
    except WrongBaseError as error:
        raise error.at(hint="Choose the base it was trained on as the source.") from None


def _precision(asked: str, device: str) -> str:
    if asked not in choices.Pipelines.precisions:
        raise SettingsError(f"unknown precision {asked!r}", hint=f"Choose {', '.join(choices.Pipelines.precisions)}.")
    if asked != "auto":
        return asked
    return "bf16" if str(device).startswith("cuda") and torch.cuda.is_bf16_supported() else "fp32"
