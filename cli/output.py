"""Output files: refused before any work is done when they would overwrite, and written all together or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io.outputs import claim, staged
from .options import suffixed

if TYPE_CHECKING:
    from ..adapters import Adapter


# Endings under which nobody expects a folder.
_OF_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".json", ".md", ".png", ".zip")


@dataclass(frozen=True)
class Outputs:
    """The files that a command was asked for.

    texts: file → the report's method that makes its text. force: write over files that exist.
    """

    adapter: Path | None = None
    texts: dict[Path, str] = field(default_factory=dict)
    plot: Path | None = None
    force: bool = False


def outputs(
    adapter: Path | None = None,
    *,
    report: Path | None = None,
    json: Path | None = None,
    plot: Path | None = None,
    force: bool,
    inputs: tuple[Path | None, ...],
    folder: bool = False,
) -> Outputs:
    """Check names and places of everything to write, before any work is done.

    Args:
        folder: whether the adapter may be written as PEFT's folder: under any name that is not a file's.
        report: Markdown or JSON, as the name ends; json: JSON, whatever the name.

    Raises:
        BadParameter: a name that ends otherwise than it must.
        GraftError: see :func:`..io.outputs.claim`.
    """
    named = adapter if adapter is not None and folder and adapter.suffix.lower() not in _OF_FILES else None
    if named is None:
        suffixed(adapter, "--output", (".safetensors",))
    suffixed(report, "--report", (".json", ".md"))
    suffixed(plot, "--plot", (".png",))
    claim(adapter, report, json, plot, force=force, inputs=inputs, folder=named)
    texts = {}
    if report:
        texts[report] = "to_markdown" if report.suffix.lower() == ".md" else "to_json"
    if json:
        texts[json] = "to_json"
    return Outputs(adapter, texts, plot, force)


def from_peft(*loras: Path, layout: str = "same") -> bool:
    """Whether a command's adapter may be written as PEFT's folder: a LoRA comes from one, or the layout is PEFT's."""
    return layout == "peft" or any(lora.suffix.lower() != ".safetensors" for lora in loras)


def publish(
    asked: Outputs, report: Any = None, adapter: Adapter | None = None, *, drawing: str = "heatmap", **how: Any
) -> list[Path]:
    """Write the adapter, its report and its picture, all or none; the files, in this order.

    Args:
        report: a report of one of the jobs, where a text or a picture is asked for.
        adapter: where a file for it is asked for.
        drawing: the function of ``plots`` that draws the report.
        how: keyword arguments of :func:`..adapters.write`.

    Raises:
        GraftError: a file cannot be written.
    """
    files = {path: getattr(report, text)().encode() for path, text in asked.texts.items()}
    if asked.plot:
        from .. import plots

        files[asked.plot] = plots.encode(getattr(plots, drawing)(report))
    with staged(files, main=asked.adapter if adapter is not None else None, overwrite=asked.force):
        if asked.adapter and adapter is not None:
            from .. import adapters

            adapters.write(adapter, asked.adapter, overwrite=asked.force, **how)
    return [asked.adapter, *files] if asked.adapter else [*files]
