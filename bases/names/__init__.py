"""Names of weights: the canonical one, and every name an adapter file may call it by."""

from .build import names_for
from .known import KNOWN, known_names, known_weights
from .slot import DENOISER, LAYOUTS, Names, Part, Slot, module_of, style_of

__all__ = [
    "DENOISER", "KNOWN", "LAYOUTS", "Names", "Part", "Slot", "known_names", "known_weights", "module_of", "names_for",
    "style_of",
]  # fmt: skip
