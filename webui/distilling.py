"""Distilling from the page: models of the diffusers library, or the example family, as teacher and student."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..io.atomic import whole
from .host import Host
from .jobs import Stopped
from .paths import new_file
from .work import Result, Values, base_paths, device, reported, stems, weighted, write

if TYPE_CHECKING:
    from ..jobs.progress import Progress


def available() -> bool:
    """Whether diffusers can be imported; without it the page has no such tab."""
    return find_spec("diffusers") is not None


def distill(values: Values, host: Host, progress: Progress) -> Result:
    """Of a job that is stopped the best so far is written, under a name that says so."""
    from ..pipelines.job import Data, Run, layout_of, teach
    from ..pipelines.models import open_models

    source, target, *parts = base_paths(values, host, "source", "target", "source_parts", "target_parts")
    given, where = weighted(values, host), device(values, host)
    suggestion = f"{stems(values)}-{Path(values['target']).stem}-taught"
    output = new_file(host.lora_folder, values["output"], suggestion)
    models = open_models(
        given,
        source,
        target,
        source_parts=parts[0],
        target_parts=parts[1],
        device=where,
        precision=values["precision"],
    )
    data = Data(
        values["prompts"],
        values["seeds"],
        values["count"],
        values["seed"],
        models.drawn_as(width=values["width"] or None, height=values["height"] or None, negative=values["negative"]),
        effort=values["effort"],
    )
    layout = layout_of(values["layout"], [adapter for adapter, *_ in given])
    assert models.target is not None
    with tempfile.TemporaryDirectory(prefix="lora-graft-") as scratch:
        kept = Run(Path(scratch))
        try:
            done = teach(
                models,
                given,
                _settings(values),
                dataset=data,
                start_from=values["start_from"],
                run=kept,
                progress=progress,
                device=where,
            )
        except Stopped:
            if kept.best is None:
                raise
            best = new_file(host.lora_folder, "", f"{output.stem}-unfinished")
            with whole(best, overwrite=False) as file:
                file.write(kept.best.read_bytes())
            host.refreshed()
            raise Stopped(f"The best until step {kept.step} is in {best.stem}.") from None
    write(done.adapter, output, {**values, "layout": layout}, models.target.base.names, done.provenance)
    return reported(done.report, "loss_curve", "Loss by step", output)


def _settings(values: Values):
    from ..jobs.distill.distill import Distillation
    from ..jobs.distill.effort import planned

    names = ("effort", "steps", "learning_rate", "schedule", "batch", "accumulation", "seed")
    plan = planned(**{name: values[name] for name in names})
    chosen = ("objective", "kind", "rank", "effect", "match_effect", "guards")
    return Distillation(
        **{name: values[name] for name in chosen},
        where=values["modules"],
        noisy_latents=plan.noisy_latents,
        training=plan.training,
        effort=plan.effort,
    )
