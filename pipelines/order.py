"""One of many distillations: one LoRA into one file. :mod:`..jobs.orders` carries out all of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import adapters, choices
from ..jobs.distill.distill import Distillation
from ..jobs.results import claim_result, write_result
from .job import Data, Run, layout_of, teach
from .models import open_models


@dataclass(frozen=True)
class Order:
    """One distillation.

    source, target: diffusers folders, or single files with a folder of their kind in source_parts and target_parts.
    data: its prompts and seeds are tuples. width, height, draw_steps, cfg: None for what suits the models.
    start_from: "auto", "none" or "copy".
    dtype, layout: as :func:`..adapters.write` takes them.
    report: suffix of a report beside the output, ".md" or ".json"; None for none.
    """

    lora: Path
    output: Path
    source: Path
    target: Path
    source_parts: Path | None = None
    target_parts: Path | None = None
    settings: Distillation = field(default_factory=Distillation)
    data: Data = field(default_factory=Data)
    width: int | None = None
    height: int | None = None
    draw_steps: int | None = None
    cfg: float | None = None
    negative: str = choices.Pipelines.negative
    start_from: str = choices.Pipelines.start_from
    precision: str = choices.Pipelines.precision
    dtype: str | None = choices.File.dtype
    layout: str = choices.File.layout
    report: str | None = None
    device: str = "cpu"


def carry_out(order: Order) -> bool:
    """Distil and write, with the report; False where an output that is there meanwhile is left alone.

    Checkpoints are in the folder OUTPUT.unfinished, from which the same order goes on.

    Raises:
        GraftError: as :func:`.models.open_models`, :func:`.job.teach` and :func:`..adapters.write`.
    """
    if order.output.exists():
        return False
    claim_result(order.output, order.report)
    given = [(adapters.read(order.lora), 1.0, 1.0)]
    models = open_models(
        given,
        order.source,
        order.target,
        source_parts=order.source_parts,
        target_parts=order.target_parts,
        device=order.device,
        precision=order.precision,
    )
    drawing = models.drawn_as(
        width=order.width, height=order.height, steps=order.draw_steps, cfg=order.cfg, negative=order.negative
    )
    run = Run(order.output.with_name(order.output.stem + ".unfinished"))
    result = teach(
        models,
        given,
        order.settings,
        dataset=replace(order.data, drawing=drawing),
        start_from=order.start_from,
        run=run,
        device=order.device,
    )
    write_result(
        result,
        order.output,
        order.report,
        dtype=order.dtype,
        layout=layout_of(order.layout, [given[0][0]]),
        names=models.target.base.names if models.target else None,
    )
    run.finished()
    return True
