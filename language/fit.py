"""From a source model's folder and real data to a discriminator, as Trans-LoRA trains it where the LoRA is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import adapters, choices
from ..adapters import Adapter
from ..jobs.memory import memory_told
from ..jobs.progress import Progress, silent
from .collect import collect
from .discriminator import STEPS, Discriminator, fit
from .generator import Generator
from .models import check_belongs, open_model
from .settings import Example, TextData


@memory_told("Compute on the CPU, or take shorter examples.")
def fit_discriminator(
    model: Path,
    real: Sequence[Example],
    generated: Sequence[str] = (),
    *,
    lora: Path | Adapter | None = None,
    count: int = choices.Text.count,
    temperature: float = choices.Text.temperature,
    steps: int = STEPS,
    seed: int = choices.Distill.seed,
    chat: bool = False,
    progress: Progress = silent,
    device: str = "cpu",
    precision: str = "auto",
) -> Discriminator:
    """Train a discriminator on `model`, the source of an adapter.

    Args:
        real: examples of the task, best twenty or more.
        generated: prompts to tell them from; where none are given the model writes `count`, shown real ones.
        lora: the adapter that it belongs to, for the folder's record.

    Raises:
        AdapterError, BaseModelError, SettingsError: something cannot be read, is of another model, or is too little.
    """
    lm = open_model(Path(model), device=device, precision=precision)
    whose = {}
    if lora is not None:
        adapter = adapters.read(lora) if isinstance(lora, (str, Path)) else lora
        check_belongs(adapter, lm.base)
        whose = {"lora": Path(adapter.file).name if adapter.file else "", "lora_digest": adapter.digest}
    if not generated:
        data = TextData(real, samples=count, seed=seed, temperature=temperature)
        writer = Generator(lm, real, temperature=temperature, seed=seed, chat=chat)
        generated = collect(writer.batch, None, data, words="", tell=progress).prompts
    prompts = [example.prompt for example in real]
    return fit(lm, prompts, generated, steps=steps, seed=seed, chat=chat, progress=progress, **whose)
