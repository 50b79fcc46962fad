"""One adapter in another layout: same updates, other key names."""

from __future__ import annotations

from dataclasses import replace

from ..adapters import Adapter, from_state_dict, to_state_dict
from ..adapters.metadata import with_provenance
from ..bases.model import Base
from ..errors import AdapterError
from ..kernels.precision import full_precision
from ..kernels.threads import one_thread
from .check import check_fits
from .names import names_of


@full_precision()
@one_thread()
def convert(adapter: Adapter, layout: str, base: Base | None = None) -> Adapter:
    """The adapter with the keys of `layout` ("kohya", "diffusers", "peft", "comfy").

    base: whose names to use; None takes those of the known model that the adapter's keys, shapes and metadata point
    to. An adapter that has the layout already and points to none stays as it is.

    Raises:
        AdapterError: a module cannot be expressed in that layout, or does not have the shape of its weight; no base was
            given and the model is not known.
    """
    names = base.names if base else None
    if names is None and layout != "same":
        try:
            names = names_of(adapter)
        except AdapterError:
            if adapter.layout != layout:
                raise
            layout = "same"
    state = to_state_dict(adapter, layout=layout, names=names)
    metadata = with_provenance(state.metadata, None, changed=layout != "same")
    result = replace(from_state_dict(dict(state), metadata=metadata, file=adapter.file), peft=adapter.peft)
    check_fits(result.modules.values(), names, base.weights() if base else None)
    return result
