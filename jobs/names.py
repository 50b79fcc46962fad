"""Whose key names adapters have: those of the known model that their keys, shapes and metadata point to."""

from __future__ import annotations

from collections.abc import Sequence

from .. import choices
from ..adapters import Adapter
from ..bases import Base
from ..errors import AdapterError
from ..names import KNOWN, Names, adapter_families, known_names, metadata_architecture, names_of_adapters, serving
from ..names.guess_adapter import OR

_GIVE = "Give the base model it was made for (--base on the command line, the model input of the node)."


def known_names_of(adapters: Sequence[Adapter]) -> Names | None:
    """Names of the known model that all adapters are recognised to be for, some odd module of theirs aside."""
    union = {key: m.shape for adapter in adapters for key, m in adapter.modules.items()}
    metadata = {key: value for adapter in adapters for key, value in adapter.metadata.items()}
    found = names_of_adapters(union, metadata) or names_of_adapters(union, metadata, every=False)
    return found[0] if found else None


def names_to_write(adapter: Adapter, layout: str, base: Base | None = None) -> Names | None:
    """Whose key names a file in a layout has: those of the base where there is one; None where all stay as they are.

    Raises:
        AdapterError: as :func:`names_of`.
    """
    if layout == choices.File.layout:
        return None
    return base.names if base else names_of(adapter)


def names_of(adapter: Adapter) -> Names:
    """The key names of the known model an adapter was made for.

    Raises:
        AdapterError: nothing tells which, or it lacks one of the modules; the hint says what to give instead.
    """
    shapes = {key: module.shape for key, module in adapter.modules.items()}
    found = names_of_adapters(shapes, adapter.metadata)
    if found is not None:
        return found[0]
    families, named = adapter_families(shapes), metadata_architecture(adapter.metadata)
    if named not in families and len(serving(families)) > 1:
        raise AdapterError(
            f"The adapter could be one for {OR.join(families)}, whose key names differ",
            file=adapter.file,
            key=next(iter(shapes)),
            hint=_GIVE,
        )
    likely = named if named in families else next((name for name in (*families, named) if name != "unknown"), None)
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
    strange = next((key for key in shapes if names is None or names.resolve(key) is None), None)
    what = "that model has no such module" if strange else "its weights are of other sizes than that model's"
    raise AdapterError(f"The adapter looks like one for {likely}; {what}", file=adapter.file, key=strange, hint=_GIVE)
