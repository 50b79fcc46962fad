"""Weights that a PEFT adapter holds whole, not as a change: ``modules_to_save``, trained biases, new tokens.

They are among the adapter's extras. A resize leaves them as they are. A transfer carries what they change: the target's
own weight plus the difference from the source's. A merge keeps what the adapters agree on, or what one alone has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..adapters import Adapter
from ..adapters.peft_config import PREFIX, PeftFolder
from ..bases.model import Base
from ..errors import AdapterError
from ..names import DENOISER
from .text import times

_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save(\.default)?|original_module)(?=\.)")


def in_model(key: str) -> str:
    """The name in the model of a weight that an adapter holds whole."""
    return _WRAPPERS.sub("", key.removeprefix(PREFIX))


def carried(adapter: Adapter, source: Base, target: Base) -> tuple[dict[str, Tensor], list[str]]:
    """The extras of an adapter for another base, and what a report says of them.

    Raises:
        AdapterError: a weight that the target lacks or has in another size, or vectors of new tokens for a changed
            embedding; it is named.
    """
    if adapter.peft is None:
        return adapter.extras, []
    extras, notes = {}, []
    for key, tensor in adapter.extras.items():
        extras[key], note = _carried(adapter, key, tensor, source, target)
        notes += [note] if note else []
    return extras, notes


def _carried(adapter: Adapter, key: str, tensor: Tensor, source: Base, target: Base) -> tuple[Tensor, str]:
    tokens = ".token_adapter." in key
    name = in_model(key.partition(".token_adapter.")[0] + ".weight" if tokens else key)
    here, there = source.weights().get(DENOISER + name), target.weights().get(DENOISER + name)
    if here is None:
        return tensor, f"{name} is held whole; {source.label} has no such weight: carried as it is."
    if there is not None and source.digest(DENOISER + name) == target.digest(DENOISER + name):
        return tensor, ""
    if tokens or there != here or tuple(tensor.shape) != here:
        what = "vectors of new tokens" if tokens else f"{name} whole ({times(tuple(tensor.shape))})"
        other = "not there" if there is None else times(there)
        raise AdapterError(
            f"The adapter holds {what}; in {source.label} it is {times(here)}, in {target.label} {other}: it cannot "
            "be carried over",
            file=adapter.file,
            key=key,
            hint="Take it out of the adapter (modules_to_save, trainable_token_indices), or train it on the target.",
        )
    change = tensor.float() - source.load(DENOISER + name)
    moved = (target.load(DENOISER + name) + change).to(tensor.dtype)
    return moved, f"{name} is held whole: its change against {source.label} is added to {target.label}'s own."


def joined(adapters: Sequence[Adapter], clashes: Sequence[str]) -> tuple[PeftFolder | None, list[str]]:
    """What PEFT's configuration of a merge says beside ranks, scales and targets, and notes for the report.

    Args:
        clashes: keys of extras that differ between the adapters.

    Raises:
        AdapterError: two adapters hold one weight whole, and differently; it is named.
    """
    folders = [adapter.peft for adapter in adapters if adapter.peft is not None]
    if not folders:
        return None, []
    if clashes:
        raise AdapterError(
            f"The adapters hold {in_model(clashes[0])} whole, each with other values: whole weights are not merged",
            file=adapters[0].file,
            key=clashes[0],
            hint="Merge adapters without it (modules_to_save, bias, trainable_token_indices).",
        )
    config = dict(folders[0].config)
    for field in ("modules_to_save", "target_parameters"):
        every = [one for folder in folders for one in folder.config.get(field) or ()]
        config |= {field: list(dict.fromkeys(every))} if every else {}
    biases = [folder.config.get("bias", "none") for folder in folders]
    config["bias"] = next((bias for bias in biases if bias != "none"), "none")
    tokens = [found for folder in folders if (found := folder.config.get("trainable_token_indices"))]
    config |= {"trainable_token_indices": tokens[0]} if tokens else {}
    notes = [
        f"{in_model(key)} is held whole by {sum(key in one.extras for one in adapters)} of {len(adapters)} adapters "
        "and kept as it is, whatever its strength."
        for key in dict.fromkeys(key for adapter in adapters for key in adapter.extras)
    ]
    embeddings = frozenset().union(*(folder.embeddings for folder in folders))
    first = adapters[0].peft
    keys = first.keys if first is not None and first is folders[0] else frozenset()
    return replace(folders[0], config=config, keys=keys, embeddings=embeddings), notes
