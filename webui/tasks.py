"""What each kind of job does, from checked values to a result; file names come from the host's lists alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .fields import FIXED, JOBS, SAME
from .host import Host
from .paths import found, new_file, new_folder
from .work import (
    Result,
    Values,
    adapter,
    bases,
    cache,
    device,
    dtype,
    moving,
    reported,
    size,
    stem,
    stems,
    weighted,
    write,
)

if TYPE_CHECKING:
    from ..jobs.progress import Progress


def run(kind: str, values: Values, host: Host, progress: Progress) -> Result:
    """Do a job; what :class:`.jobs.Queue` calls.

    Raises:
        GraftError: the files or the settings do not allow it.
        BaseException: what the progress raises.
    """
    from .distilling import distill
    from .shelf import shelf

    work: dict[str, Callable[[Values, Host, Progress], Result]] = {
        "transfer": transfer,
        "merge": merge,
        "resize": resize,
        "similarity": similarity,
        "convert": convert,
        "inspect": inspect,
        "shelf": shelf,
        "distill": distill,
    }
    result = work[kind](values, host, progress)
    if result.file is not None:
        host.refreshed()
    return result


def look_up(kind: str, values: Values, host: Host) -> None:
    """Check that all files named are there and the new one is not, before a job is lined up.

    Raises:
        GraftError: the first that is not so.
    """
    bases = loras = None
    for item in JOBS[kind]:
        value = values[item.name]
        if item.kind == "base" and value:
            bases = host.bases() if bases is None else bases
            found(value, bases, "base model")
        if item.kind in ("lora", "loras", "shelf") and value:
            loras = host.loras() if loras is None else loras
            names = {"lora": [value], "loras": [entry[0] for entry in value], "shelf": value}[item.kind]
            for name in names:
                found(name, loras, "LoRA")
        if item.kind == "output" and value:
            new_file(host.lora_folder, value, "")
        if item.name == "folder":
            new_folder(host.lora_folder, value)


def title_of(kind: str, values: Values) -> str:
    """What a list of jobs calls this one."""
    loras = values.get("loras") or values.get("shelf") or ()
    what = values.get("lora") or " + ".join(entry if isinstance(entry, str) else entry[0] for entry in loras[:3])
    what = f"{what} + …" if len(loras) > 3 else what
    where = " → ".join(name for name in (values.get("source"), values.get("target")) if name)
    return ", ".join(part for part in (what, where) if part)


def transfer(values: Values, host: Host, progress: Progress) -> Result:
    from ..jobs.transfer.transfer import transfer as work

    lora, (source, target) = adapter(values["lora"], host), bases(values, host, "source", "target")
    output = new_file(host.lora_folder, values["output"], f"{stem(values['lora'])}-{Path(values['target']).stem}")
    done = work(lora, source, target, moving(values), progress=progress, cache=cache(), device=device(values, host))
    write(done.adapter, output, values, target.names, done.provenance)
    return reported(done.report, "heatmap", "Heat map of similarity and kept energy by block and role", output)


def similarity(values: Values, host: Host, progress: Progress) -> Result:
    from ..jobs.transfer.compare import compare

    source, target = bases(values, host, "source", "target")
    lora = adapter(values["lora"], host) if values["lora"] else None
    where = device(values, host)
    report = compare(source, target, size(values), adapter=lora, progress=progress, cache=cache(), device=where)
    return reported(report, "heatmap", "Heat map of similarity by block and role")


def merge(values: Values, host: Host, progress: Progress) -> Result:
    from ..jobs.merge.merge import MergeSettings
    from ..jobs.merge.merge import merge as work
    from ..jobs.names import names_to_write

    chosen = ("method", "units", "seed", "density", "energy", "parameter_reweighting", "output_reweighting")
    rank = values["fixed_rank"] if values["rank"] == FIXED else values["rank"]
    settings = MergeSettings(rank=rank, dtype=dtype(values), **{name: values[name] for name in chosen})
    given, (base,) = weighted(values, host), bases(values, host, "base")
    output = new_file(host.lora_folder, values["output"], f"{stems(values)}-merged")
    done = work(given, settings, base=base, progress=progress, device=device(values, host))
    names = names_to_write(done.adapter, values["layout"], base)
    write(done.adapter, output, {**values, "dtype": SAME}, names, done.provenance)
    return reported(done.report, "clusters", "Clusters by block, or cosine with the exact sum", output)


def resize(values: Values, host: Host, progress: Progress) -> Result:
    from ..jobs.merge.resize import ResizeSettings
    from ..jobs.merge.resize import resize as work
    from ..jobs.names import names_to_write

    amount = values["amount"]
    settings = ResizeSettings(values["rule"], amount, values["max_rank"], dtype(values))
    lora, (base,) = adapter(values["lora"], host), bases(values, host, "base")
    output = new_file(host.lora_folder, values["output"], f"{stem(values['lora'])}-{values['rule']}-{amount:g}")
    done = work(lora, settings, base=base, progress=progress)
    names = names_to_write(done.adapter, values["layout"], base)
    write(done.adapter, output, {**values, "dtype": SAME}, names, done.provenance)
    return reported(done.report, "clusters", "Cosine with the original by block", output)


def convert(values: Values, host: Host, progress: Progress) -> Result:
    from ..jobs.convert import convert as work
    from ..jobs.loaders import unread
    from ..jobs.text import joined
    from ..untrusted import in_markdown

    lora, (base,) = adapter(values["lora"], host), bases(values, host, "base")
    output = new_file(host.lora_folder, values["output"], f"{stem(values['lora'])}-{values['layout']}")
    progress(0, 1, "")
    done = work(lora, values["layout"], base)
    write(done, output, {**values, "layout": SAME})
    progress(1, 1, "")
    sentence = f"{len(done.modules)} modules in the {done.layout} layout."
    notes = unread(done)
    data = {"modules": len(done.modules), "layout": done.layout, "notes": notes}
    text = joined([f"# {in_markdown(output.stem)}", sentence, *(f"- {in_markdown(note)}" for note in notes)])
    return Result(text, data, file=output)


def inspect(values: Values, host: Host, progress: Progress) -> Result:
    import json

    from ..jobs.inspect import inspect as look
    from ..jobs.text import joined
    from ..untrusted import in_markdown

    progress(0, 1, "")
    seen = look(found(values["lora"], host.loras(), "LoRA"), top_tags=values["tags"])
    progress(1, 1, "")
    first, *lines = seen.to_text().splitlines()
    text = joined([f"# {in_markdown(first)}", *(f"- {in_markdown(line)}" for line in lines)])
    data = json.loads(seen.to_json())
    return Result(text, {**data, "file": Path(data["file"]).name})
