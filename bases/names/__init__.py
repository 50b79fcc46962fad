"""Names of weights: the canonical one, and every name an adapter file may call it by."""

from .build import names_for
from .slot import DENOISER, LAYOUTS, Names, Part, Slot, module_of, style_of

__all__ = ["DENOISER", "LAYOUTS", "Names", "Part", "Slot", "module_of", "names_for", "style_of"]
