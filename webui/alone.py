"""The page without a host: folders given on the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import GraftError
from .paths import adapters_in, bases_in


class Alone:
    """Folders of bases and of LoRAs. Results go into `output`, else into the first folder of LoRAs.

    Raises:
        GraftError: one of them is no folder.
    """

    origins: tuple[str, ...] = ()
    sends = False

    def __init__(
        self, bases: Sequence[Path], loras: Sequence[Path], output: Path | None = None, *, language: str = "en"
    ):
        for folder in (*bases, *loras, *([] if output is None else [output])):
            if not folder.is_dir():
                raise GraftError("there is no such folder", file=folder, hint="Give one that exists, or create it.")
        self._bases, self._loras = [folder.absolute() for folder in bases], [folder.absolute() for folder in loras]
        self.lora_folder = (output or loras[0]).absolute()
        if self.lora_folder not in self._loras:
            self._loras.append(self.lora_folder)
        self.language = language

    @property
    def device(self) -> str:
        from ..jobs.device import device_of

        return device_of("auto")

    def bases(self) -> Mapping[str, Path]:
        return bases_in(self._bases)

    def loras(self) -> Mapping[str, Path]:
        return adapters_in(self._loras)

    @contextmanager
    def working(self, title: str) -> Iterator[Silent]:
        yield Silent()

    def refreshed(self) -> None:
        """Lists are read from the folders each time."""


class Silent:
    """Nobody but the page asks how far a job is."""

    def tell(self, done: int, total: int) -> None:
        pass

    def interrupted(self) -> bool:
        return False
