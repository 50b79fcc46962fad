"""Names of weights: the canonical one, every name an adapter file may call it by, and whose model they tell of."""

from .build import names_for
from .describe import describe
from .guess import guess_architecture, metadata_architecture
from .guess_adapter import adapter_families, guess_adapter_architecture
from .known import KNOWN, known_names, known_weights
from .pruned import PruningMap, published_map
from .recognise import names_of_adapters, serving
from .weight_slice import DENOISER, Names, StoredPart, WeightSlice, module_of, style_of

__all__ = [
    "DENOISER",
    "KNOWN",
    "Names",
    "PruningMap",
    "StoredPart",
    "WeightSlice",
    "adapter_families",
    "describe",
    "guess_adapter_architecture",
    "guess_architecture",
    "known_names",
    "known_weights",
    "metadata_architecture",
    "module_of",
    "names_for",
    "names_of_adapters",
    "published_map",
    "serving",
    "style_of",
]
