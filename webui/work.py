"""What all kinds of jobs share: files by their names, settings, the result and how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .fields import SAME
from .host import Host
from .paths import found

if TYPE_CHECKING:
    from ..adapters import Adapter

Values = Mapping[str, Any]
NO_PICTURES = "No picture: matplotlib is not installed here."


@dataclass
class Result:
    """What a job brings.

    markdown: the report. data: the same for programs, as JSON holds it. picture: PNG. alt: what it shows.
    file: the adapter that was written. lora: the name a prompt gives it.
    """

    markdown: str
    data: Any = None
    picture: bytes | None = None
    alt: str = ""
    file: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def lora(self) -> str:
        return self.file.stem if self.file else ""


def adapter(name: str, host: Host) -> Adapter:
    from ..adapters import read

    return read(found(name, host.loras(), "LoRA"))


def weighted(values: Values, host: Host) -> list[tuple[Adapter, float, float]]:
    from ..adapters import read

    known = host.loras()
    return [(read(found(name, known, "LoRA")), model, clip) for name, model, clip in values["loras"]]


def base_paths(values: Values, host: Host, *which: str) -> list[Any]:
    """Where the bases named lie; None for one that was not given."""
    known = host.bases()
    return [found(values[name], known, "base model") if values[name] else None for name in which]


def bases(values: Values, host: Host, *which: str) -> list[Any]:
    """The bases named, opened; None for one that was not given."""
    from ..bases import open_base

    return [None if path is None else open_base(path) for path in base_paths(values, host, *which)]


def size(values: Values):
    """The subspace size that the values ask for."""
    from ..kernels.spectral import SubspaceSize

    return SubspaceSize.by(values["subspace"], share=values["k_share"], k=values["k"], energy=values["energy"])


def moving(values: Values):
    """The settings of a transfer."""
    from ..jobs.transfer.transfer import TransferSettings

    names = ("method", "rank", "threshold", "strength", "below_threshold", "match_blocks", "fill")
    return TransferSettings(size=size(values), **{name: values[name] for name in names})


def cache():
    """The user's own cache of subspaces."""
    from ..jobs.cache import SubspaceCache

    return SubspaceCache()


def device(values: Values, host: Host) -> str:
    """ "cpu" or "cuda".

    Raises:
        SettingsError: a GPU was asked for and there is none.
    """
    from ..jobs.device import device_of

    wanted = values["device"]
    return host.device if wanted == "auto" else device_of(wanted)


def dtype(values: Values) -> str | None:
    return None if values["dtype"] == SAME else values["dtype"]


def stem(name: str) -> str:
    """The last part of a LoRA's name."""
    return name.rsplit("/", 1)[-1]


def stems(values: Values) -> str:
    """The first of several LoRAs in a name for their file."""
    return "+".join(stem(name) for name, *_ in values["loras"][:3])


def write(made: Adapter, output: Path, values: Values, names: Any = None, provenance: Any = None) -> None:
    """The adapter's file; never over another."""
    from .. import adapters

    number, layout = dtype(values), values["layout"]
    adapters.write(made, output, dtype=number, layout=layout, names=names, overwrite=False, provenance=provenance)


def reported(report: Any, drawing: str, alt: str, output: Path | None = None) -> Result:
    """A job's report with its picture, where pictures can be drawn."""
    made = Result(report.to_markdown(), report.to_dict(), alt=alt, file=output)
    try:
        from .. import plots

        made.picture = plots.encode(getattr(plots, drawing)(report))
    except ImportError:
        made.notes.append(NO_PICTURES)
    return made
