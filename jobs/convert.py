"""One adapter in another layout: same updates, other key names."""

from __future__ import annotations

from ..adapters import Adapter, from_state_dict, to_state_dict
from ..bases.model import Base


def convert(adapter: Adapter, layout: str, base: Base | None = None) -> Adapter:
    """The adapter with the keys of `layout` ("kohya", "diffusers", "peft", "comfy").

    base: whose names to use; needed wherever key names change.

    Raises:
        AdapterError: a module cannot be said in that layout.
    """
    state = to_state_dict(adapter, layout=layout, names=base.names if base else None)
    return from_state_dict(dict(state), metadata=state.metadata, file=adapter.file)
