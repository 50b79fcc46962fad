"""What a recipe asks for: every output with what it is made from, known and checked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..jobs.merge import order as merging
from ..pipelines import order as distilling
from .distillations import read_distillation
from .document import Mistakes, Table, load
from .merges import read_merge
from .reader import Reader
from .transfers import Stage, read_transfer

SECTIONS = ("transfers", "distillations", "merges")


@dataclass(frozen=True)
class Recipe:
    """stages and distillations, then merges, which may take what those make; ids: output → hash of all that decides
    its content."""

    file: Path
    output: Path
    stages: tuple[Stage, ...]
    distillations: tuple[distilling.Order, ...]
    merges: tuple[merging.Order, ...]
    ids: dict[Path, str]

    def name(self, output: Path) -> str:
        """An output as the manifest names it, the same on every machine."""
        return output.relative_to(self.output).as_posix()


def read(file: Path, *, device: str = "cpu") -> Recipe:
    """The recipe in a file. Relative names in it start from its folder.

    Raises:
        GraftError: it cannot be read as YAML.
        SettingsError: with the line and the field of every mistake: unknown fields and values, values out of range,
            bases that cannot be opened, LoRAs that are not there, outputs that meet.
    """
    file = file.absolute()
    mistakes = Mistakes(file)
    top = Table(load(file), mistakes)
    reader = Reader(file.parent, mistakes, device)
    reader.read(top)
    entries = {name: top.get(name, list) for name in SECTIONS}
    tables = {name: [Table(one, mistakes) for one in entry.value] if entry else [] for name, entry in entries.items()}
    stages = [stage for table in tables["transfers"] for stage in read_transfer(reader, table)]
    distillations = [order for table in tables["distillations"] for order in read_distillation(reader, table)]
    merges = [order for table in tables["merges"] if (order := read_merge(reader, table))]
    top.end()
    if not any(tables.values()) and not mistakes.found:
        mistakes.add(top.entry, f"there is nothing to do: none of {', '.join(SECTIONS)}")
    mistakes.end()
    return Recipe(file, reader.output, tuple(stages), tuple(distillations), tuple(merges), reader.ids)
