"""Many LoRAs for another base, one after the other in the page's own thread: what fails is told, the rest goes on.

The command line does this in processes; a host's main module is not to be run again in another one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SettingsError
from .host import Host
from .paths import ADAPTERS, found, new_folder, plain_name
from .work import Result, Values, bases, cache, device, moving, stem, write

if TYPE_CHECKING:
    from ..jobs.progress import Progress
    from ..jobs.transfer.report import Report

COLUMNS = ("LoRA", "result", "method", "similarity", "kept energy", "advice")


def shelf(values: Values, host: Host, progress: Progress) -> Result:
    """Results go into a folder inside the LoRA folder; what is there already is left alone, so that a job that was
    stopped goes on where it was.
    """
    from ..adapters import read
    from ..jobs.processes import guarded
    from ..jobs.text import cell, joined, table
    from ..jobs.transfer.transfer import transfer

    known, folder = host.loras(), new_folder(host.lora_folder, values["folder"])
    chosen = values["shelf"] or [name for name, path in known.items() if not path.is_relative_to(folder)]
    if not chosen:
        raise SettingsError("there is no LoRA to move", hint="Put some into the LoRA folder, or choose some.")
    outputs = _outputs(chosen, folder)
    (source, target), settings = bases(values, host, "source", "target"), moving(values)
    where, kept = device(values, host), cache()
    rows, failures = [], []
    for number, (name, output) in enumerate(outputs.items()):

        def tell(done: int, total: int, label: str, /, at: int = number, of: str = name) -> None:
            progress(1000 * at + 1000 * done // max(total, 1), 1000 * len(outputs), of)

        tell(0, 1, "")
        if os.path.lexists(output):
            rows.append([name, "there already", "", "", "", ""])
            continue

        def moved_one(name: str, output: Path = output, tell: Progress = tell) -> Report:
            lora = read(found(name, known, "LoRA"))
            done = transfer(lora, source, target, settings, progress=tell, cache=kept, device=where)
            folder.mkdir(exist_ok=True)
            write(done.adapter, output, values, target.names, done.provenance)
            return done.report

        report, why = guarded(moved_one, name)
        if report is None:
            rows.append([name, "failed", "", "", "", ""])
            failures.append(f"{name}: {why}")
        else:
            figures = cell(report.totals["mean_similarity"]), cell(report.totals["kept_energy"])
            rows.append([name, "moved", report.method, *figures, report.advice])
    progress(1000 * len(outputs), 1000 * len(outputs), "")
    if any(row[1] == "moved" for row in rows):
        host.refreshed()
    moved, before = (sum(row[1] == word for row in rows) for word in ("moved", "there already"))
    text = f"{moved} moved into the folder {folder.name}, {before} were there already, {len(failures)} failed."
    from ..untrusted import in_markdown

    parts = ["# Shelf", in_markdown(text), *(f"- {in_markdown(line)}" for line in failures), table(COLUMNS, rows)]
    data = {
        "folder": folder.name,
        "loras": [dict(zip(COLUMNS, row, strict=True)) for row in rows],
        "failures": failures,
    }
    return Result(joined(parts), data)


def _outputs(names: list[str], folder: Path) -> dict[str, Path]:
    """LoRA → its file among the results, under its own last name; of two alike the second has its folder's before."""
    outputs: dict[str, Path] = {}
    taken: set[str] = set()
    for name in names:
        last = stem(name)
        wanted = last if last.casefold() not in taken else name.replace("/", "_")
        if wanted.casefold() in taken:
            raise SettingsError(f"two results would be called {wanted}", hint="Move these in two jobs.")
        taken.add(wanted.casefold())
        outputs[name] = folder / f"{plain_name(wanted)}{ADAPTERS[0]}"
    return outputs
