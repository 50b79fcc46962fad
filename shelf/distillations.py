"""``distillations`` of a recipe: LoRAs taught to other bases from synthetic pictures."""

from __future__ import annotations

from typing import Any

from .. import choices
from ..errors import GraftError
from ..jobs.distill.distill import Distillation
from ..jobs.distill.effort import planned
from ..jobs.distill.prompt_file import read_lines
from ..jobs.distill.schedule import Training
from ..language.models import is_language_model
from ..pipelines.job import Data
from ..pipelines.order import Order
from .document import Table
from .reader import LAYOUTS, Reader

FOLDER = "distilled"  # where transfers have their method
_TRAINING = {
    "steps": (int,),
    "learning_rate": (float,),
    "schedule": (str,),
    "batch": (int,),
    "accumulation": (int,),
    "seed": (int,),
}
_STUDENT = {
    "objective": (str,),
    "kind": (str,),
    "rank": (int,),
    "alpha": (float,),
    "effect": (float,),
    "match_effect": (bool,),
    "noisy_latents": (int,),
    "guards": (int,),
}
_DATA = {"count": int, "least_action": float, "guard_share": float}
_DRAWING = {"width": int, "height": int, "draw_steps": int, "cfg": float, "negative": str}


def read_distillation(reader: Reader, table: Table) -> list[Order]:
    """The orders of one entry: one for each LoRA and target."""
    pairing = reader.pairing(table)
    if pairing is None:
        return []
    above, loras, source, targets = pairing
    training = reader.settings(table, _TRAINING, Training)
    student = reader.settings(table, _STUDENT, Distillation)
    effort = reader.menu(table, "effort", choices.Effort.efforts) or choices.Effort.effort
    modules = reader.menu(table, "modules", choices.Distill.module_sets)
    how: dict[str, Any] = {
        "start_from": reader.menu(table, "start_from", choices.Pipelines.starts),
        "precision": reader.menu(table, "precision", choices.Pipelines.precisions),
        "dtype": reader.menu(table, "dtype", choices.File.dtypes),
        "layout": reader.menu(table, "layout", LAYOUTS),
        **{field: table.value(field, kind) for field, kind in _DRAWING.items()},
    }
    for field in ("source_parts", "target_parts"):
        parts = table.get(field, str)
        how[field] = reader.path(parts.value) if parts else None
    how = {field: value for field, value in how.items() if value is not None}
    report = reader.report(table)
    data = {field: value for field, kind in _DATA.items() if (value := table.value(field, kind)) is not None}
    data |= _prompts(reader, table)
    table.end()
    there = [base for target in targets if (base := reader.base(target))]
    for base in [*([source] if source else []), *there]:
        if is_language_model(base[1]):
            reader.mistakes.add(
                table.entry, f"{base[0]} is a language model, and recipes distil diffusion models.", "Use `distill`."
            )
    if source is None or training is None or student is None or len(there) < len(targets):
        reader.find(loras, reader.output)  # what is wrong there is told all the same
        return []
    if modules:
        student["where"] = modules
    plan = planned(effort, noisy_latents=student.pop("noisy_latents", None), **training)
    settings = Distillation(**student, noisy_latents=plan.noisy_latents, training=plan.training, effort=plan.effort)
    data |= {"seed": plan.training.seed, "effort": effort}
    how |= {"settings": settings, "data": Data(**data), "report": report, "device": reader.device}
    orders = []
    for target in there:
        files = reader.find(loras, above / target[0] / FOLDER)
        for file, output in files.items():
            order = Order(file, output, source[1], target[1], **how)
            reader.claim(table.entry, output, "distillation", reader.relative(file), order)
            orders.append(order)
    return orders


def _prompts(reader: Reader, table: Table) -> dict[str, tuple[str, ...]]:
    """Prompts and seed prompts: a file with one a line, or a list of them in the recipe itself."""
    found: dict[str, tuple[str, ...]] = {}
    for name in ("prompts", "seeds"):
        entry = table.get(name, str, list)
        if entry is None:
            continue
        if isinstance(entry.value, list):
            found[name] = tuple(one.value for one in table.each(name, str) if one.value.strip())
            continue
        try:
            found[name] = tuple(read_lines(reader.path(entry.value)))
        except (GraftError, OSError) as error:
            reader.at(entry, error)
    return found
