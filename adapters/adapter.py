"""What an adapter file holds: modules, unknown tensors, metadata; and the state dict that travels between nodes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from . import scales
from .embeddings import embeddings
from .metadata import tags, triggers, without_configs
from .module import AdapterModule
from .peft_config import PeftFolder


@dataclass(eq=False)
class Adapter:
    """An adapter as read.

    modules:  module key -> AdapterModule, in the file's order.
    extras:   tensors no format knows, by file key; kept, reported and written again.
    metadata: the file's metadata, untouched.
    layout:   "kohya", "diffusers", "peft", "comfy", "bare" or "cloneofsimo", by the majority of the keys.
    file:     path it was read from, if any.
    digest:   sha256 of the file's bytes, or of the tensors when it came as a state dict.
    aliases:  our key -> the file's own key, for dialects whose names had to be translated (None: not in the file).
    peft:     what PEFT's configuration says, of an adapter that was read from a folder.
    """

    modules: dict[str, AdapterModule]
    extras: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    layout: str = "bare"
    file: str | None = None
    digest: str = ""
    aliases: dict[str, str | None] = field(default_factory=dict)
    peft: PeftFolder | None = None

    def with_modules(self, modules: dict[str, AdapterModule]) -> Adapter:
        """The same adapter (extras, metadata) with other modules; their keys must be the dictionary's.

        Where PEFT's configuration in the metadata would scale a new module wrongly, it is dropped and the scales of
        the others go into their factors.
        """
        return replace(self, modules=modules).consistent()

    def with_alphas(self) -> Adapter:
        """The adapter with every scale that only its metadata gives written as an ``alpha`` tensor.

        ComfyUI ignores PEFT's configuration (rsLoRA, lora_alpha other than the rank); with alphas it applies such a
        file as it was trained. The configuration is dropped from the metadata: diffusers refuses both at once.
        """
        modules = {key: scales.with_alpha(module) for key, module in self.modules.items()}
        if all(modules[key] is module for key, module in self.modules.items()):
            return self
        return replace(self, modules=modules, metadata=without_configs(self.metadata))

    def consistent(self) -> Adapter:
        """The adapter unchanged when its metadata still gives every module's scale, else with these in the factors.

        A module made anew carries its whole scale in its factors; PEFT's configuration would scale it a second time.
        """
        if scales.agree(self.modules.values(), self.metadata):
            return self
        modules = {key: scales.with_scale_inside(module) for key, module in self.modules.items()}
        return replace(self, modules=modules, metadata=without_configs(self.metadata))

    @property
    def kinds(self) -> dict[str, int]:
        """Number of modules by kind."""
        counts: dict[str, int] = {}
        for module in self.modules.values():
            counts[module.kind] = counts.get(module.kind, 0) + 1
        return counts

    @property
    def triggers(self) -> list[str]:
        """Trigger words and phrases the metadata names, most telling first."""
        return triggers(self.metadata)

    @property
    def tags(self) -> dict[str, int]:
        """Training tags with how often they were seen, most frequent first."""
        return tags(self.metadata)

    @property
    def embeddings(self) -> dict[str, dict[str, Tensor]]:
        """Textual-inversion vectors embedded in the file: name -> {part: (tokens, width)}."""
        return embeddings(self.extras, self.metadata)


class LoraState(dict):
    """A state dict that also carries the file's metadata, path and digest, as it travels between nodes."""

    def __init__(
        self, tensors: Any = (), *, metadata: dict[str, str] | None = None, file: str | None = None, digest: str = ""
    ):
        super().__init__(tensors)
        self.metadata, self.file, self.digest = dict(metadata or {}), file, digest
