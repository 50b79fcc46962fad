"""An adapter that a job made, in its file with the report beside it: both or neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import adapters
from ..io.outputs import beside, claim, staged


def claim_result(output: Path, report: str | None, *, overwrite: bool = False, folder: bool = False) -> None:
    """Check, before the work, that the adapter and a report of this suffix can be written; their folder is made.

    Args:
        folder: whether the output is PEFT's folder.

    Raises:
        GraftError: as :func:`..io.outputs.claim`.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    claim(output, beside(output, report), force=overwrite, folder=output if folder else None)


def write_result(result: Any, output: Path, report: str | None, *, overwrite: bool = False, **how: Any) -> None:
    """Write what a job gives back.

    Args:
        result: with ``adapter``, ``report`` and ``provenance``.
        report: suffix of the report beside the output, ".md" or ".json"; None for none.
        how: more keyword arguments of :func:`..adapters.write`.

    Raises:
        GraftError: a file cannot be written.
    """
    text = result.report.to_markdown() if report == ".md" else result.report.to_json()
    path = beside(output, report)
    with staged({path: text.encode()} if path else {}, main=output, overwrite=overwrite):
        adapters.write(result.adapter, output, overwrite=overwrite, provenance=result.provenance, **how)
