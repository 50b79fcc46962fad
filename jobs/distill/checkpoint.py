"""Checkpoints of a run: one file, found again by what the run is made of."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import AdapterError
from ...io import safetensors
from .train import State

KIND = "lora_graft.checkpoint"


@dataclass
class FileKeeper:
    """Checkpoints of one run in ``folder``/``identity``.safetensors.

    A disk that is full does not end the run: `trouble` then says what happened.
    """

    folder: Path
    identity: str
    every: int = 25
    trouble: str = ""

    @property
    def path(self) -> Path:
        return self.folder / f"{self.identity[:24]}.safetensors"

    def load(self) -> State | None:
        """The state of a broken run, or None; a damaged file counts as none."""
        if not self.path.exists():
            return None
        try:
            tensors, metadata, _ = safetensors.load(self.path)
            header = json.loads(metadata[KIND])
            if header["identity"] != self.identity:
                return None
            groups = {group: {} for group in ("params", "moments", "best")}
            for key, tensor in tensors.items():
                group, _, name = key.partition(":")
                groups[group][name] = tensor
            if not groups["params"] or groups["params"].keys() != groups["best"].keys():
                raise KeyError("params")
            return State(
                header["step"],
                **groups,
                losses=header["losses"],
                checks=[tuple(c) for c in header["checks"]],
                reference=header["reference"],
            )
        except (AdapterError, KeyError, TypeError, ValueError):
            self.trouble = "The checkpoint of an earlier run could not be read; the run began anew."
            return None

    def save(self, state: State) -> None:
        tensors = {
            f"{group}:{name}": tensor.detach().cpu()
            for group in ("params", "moments", "best")
            for name, tensor in getattr(state, group).items()
        }
        header = {
            "identity": self.identity,
            "step": state.step,
            "losses": state.losses,
            "checks": state.checks,
            "reference": state.reference,
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            safetensors.save(self.path, tensors, {KIND: json.dumps(header)}, overwrite=True)
        except (AdapterError, OSError) as problem:
            self.trouble = f"A checkpoint could not be written: {problem}"

    def forget(self) -> None:
        """The run is finished."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def identity(*parts: object) -> str:
    """A hash of everything that decides the result of a run; parts are plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
