"""A recipe carried out, section by section, by any engine; a second call does what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..batch.manifest import NAME, Manifest, Past, past
from ..errors import SettingsError
from ..jobs.merge import order as merging
from ..jobs.orders import HasOutput, carry_out_all
from ..jobs.processes import Engine, LocalEngine
from ..jobs.transfer import many as transferring
from ..pipelines import order as distilling
from ..untrusted import one_line
from .recipe import Recipe

CLASHES = 5  # named at most


@dataclass
class Summary:
    """done, present: outputs made now and before; failed: output → why."""

    done: list[Path] = field(default_factory=list)
    present: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)


def missing(recipe: Recipe) -> list[Path]:
    """The outputs that are not there.

    Raises:
        SettingsError: some that are there were made from something else, as the recipe stood before.
    """
    return _missing(recipe, past(recipe.output / NAME))


def carry_out(
    recipe: Recipe, engine: Engine, *, progress: transferring.PhaseProgress, say: Callable[[str], None]
) -> Summary:
    """Make every output that is not there; what fails is noted, and the rest goes on.

    Args:
        progress: called with the phase within a stage.
        say: called with a line before each stage.

    Raises:
        GraftError: the output folder is in use by another call.
        SettingsError: as :func:`missing`.
    """
    with Manifest(recipe.output / NAME) as manifest:
        waiting = set(_missing(recipe, manifest.past))
        manifest.write("batch", recipe=recipe.file.name, jobs=len(recipe.ids), missing=len(waiting))
        summary = Summary()

        def ended(output: Path, status: str, error: str) -> None:
            name = recipe.name(output)
            entry = {"job": recipe.ids[output], "values": {"output": name}}
            if status == "failed":
                summary.failed[output] = error
                manifest.write("failed", **entry, error=error)
            elif output in waiting:  # "present" is one whose first worker died when it had written it
                summary.done.append(output)
                manifest.write("done", **entry, files=[name])
            else:
                summary.present.append(output)

        for stage in recipe.stages:
            say(f"{stage.title}: {_counted(len(stage.files), sum(o in waiting for o in stage.files.values()))}")
            transferring.transfer_many(
                stage.files,
                stage.job,
                engine=engine,
                progress=progress,
                each=lambda outcome: ended(outcome.output, outcome.status, outcome.error),
            )

        def all_of(orders: Sequence[HasOutput], title: str, task: Callable[..., bool], engine: Engine) -> None:
            if orders:
                say(f"{title}: {_counted(len(orders), sum(order.output in waiting for order in orders))}")
            carry_out_all(
                orders,
                task,
                engine=engine,
                progress=lambda done, total, label: progress(title, done, total, label),
                each=lambda outcome: ended(outcome.order.output, outcome.status, outcome.error),
            )

        all_of(recipe.distillations, "Distilling", distilling.carry_out, _one_at_a_time(engine))
        all_of(recipe.merges, "Merging", merging.carry_out, engine)
        return summary


def _missing(recipe: Recipe, known: Past) -> list[Path]:
    absent = [output for output in recipe.ids if not output.exists()]
    left = recipe.ids.keys() - set(absent)
    others = sorted(o for o in left if known.made.get(recipe.name(o), recipe.ids[o]) != recipe.ids[o])
    if others:
        more = f" and {len(others) - CLASHES} more" if len(others) > CLASHES else ""
        raise SettingsError(
            f"{len(others)} outputs are there that the recipe, as it stood before, made from other files or settings: "
            + ", ".join(one_line(recipe.name(o)) for o in others[:CLASHES])
            + more,
            file=recipe.output,
            hint="Nothing is overwritten: give another output folder, or move these files away.",
        )
    return absent


def _one_at_a_time(engine: Engine) -> Engine:
    """The engine; of this machine with one process, unless so many were asked for: each holds two whole models."""
    return LocalEngine(1) if isinstance(engine, LocalEngine) and engine.processes is None else engine


def _counted(total: int, to_do: int) -> str:
    return f"{total}" + ("" if to_do == total else f", {to_do} to do")
