"""One adapter in another layout: same updates, other key names."""

from __future__ import annotations

from ..adapters import Adapter, from_state_dict, to_state_dict
from ..adapters.metadata import written
from ..bases.model import Base
from ..errors import AdapterError
from ..kernels.threads import one_thread
from ..names import KNOWN, Names, adapter_families, known_names, names_of_adapters, serving, told_architecture
from ..names.guess_adapter import OR
from .check import check_fits

_GIVE = "Give the base model it was made for (--base on the command line, the model input of the node)."


@one_thread()
def convert(adapter: Adapter, layout: str, base: Base | None = None) -> Adapter:
    """The adapter with the keys of `layout` ("kohya", "diffusers", "peft", "comfy").

    base: whose names to use; None takes those of the known model that the adapter's keys, shapes and metadata point
    to. An adapter that has the layout already and points to none stays as it is.

    Raises:
        AdapterError: a module cannot be said in that layout, or does not have the shape of its weight; no base was
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
    metadata = written(state.metadata, None, changed=layout != "same")
    result = from_state_dict(dict(state), metadata=metadata, file=adapter.file)
    check_fits(result.modules.values(), names, base and base.weights())
    return result


def names_of(adapter: Adapter) -> Names:
    """The key names of the known model an adapter was made for.

    Raises:
        AdapterError: it cannot be told which, or some module has no place there; says what to give instead.
    """
    shapes = {key: module.shape for key, module in adapter.modules.items()}
    found = names_of_adapters(shapes, adapter.metadata)
    if found is not None:
        return found[0]
    families, told = adapter_families(shapes), told_architecture(adapter.metadata)
    if told not in families and len(serving(families)) > 1:
        raise AdapterError(
            f"The adapter could be one for {OR.join(families)}, whose key names differ",
            file=adapter.file,
            key=next(iter(shapes)),
            hint=_GIVE,
        )
    likely = told if told in families else next((name for name in (*families, told) if name != "unknown"), None)
    if likely is None:
        raise AdapterError(
            "It cannot be told from this adapter alone which model's key names it has",
            file=adapter.file,
            key=next(iter(shapes)),
            hint=_GIVE,
        )
    if likely not in KNOWN:
        raise AdapterError(
            f"The adapter looks like one for {likely}, whose key names are not known without the model",
            file=adapter.file,
            hint=_GIVE,
        )
    names = known_names(likely)
    strange = next((key for key in shapes if names.resolve(key) is None), None)
    what = "that model has no such module" if strange else "its weights are of other sizes than that model's"
    raise AdapterError(f"The adapter looks like one for {likely}; {what}", file=adapter.file, key=strange, hint=_GIVE)
