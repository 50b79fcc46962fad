"""Language models: names by which PEFT adapters know weights that files call otherwise.

Files hold every expert by itself (``experts.3.gate_proj``, Mixtral ``block_sparse_moe.experts.3.w1``); transformers 5
holds an expert's gate and up projections as one, gate first, and calls Mixtral's layers ``mlp`` like everyone's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .encoders import aliases as keys
from .encoders import is_encoder, plain
from .weight_slice import DENOISER, Shape, WeightSlice, module_of

# The gate projection's name -> that of the up projection, which lies below it in the fused weight.
FUSED = {"gate_proj": "up_proj", "w1": "w3"}
SEPARATE = re.compile(r"(?P<stem>.+\.experts\.[0-9]{1,5})\.(?:(?P<gate>gate_proj|w1)|up_proj|w3|down_proj|w2)\.weight$")

_EXPERT = re.compile(
    r"(?P<layer>.+)\.(?P<moe>mlp|block_sparse_moe)\.experts\.(?P<n>[0-9]{1,5})\.(?P<what>\w+)\.weight$"
)
_ROUTER = re.compile(r"(?P<layer>.+)\.block_sparse_moe\.gate\.weight$")
# The text model of one that also sees, in files and in transformers 5.
_OF_TEXT = {"language_model.model.": "model.language_model.", "language_model.lm_head.": "lm_head."}
_PREFIXES = ("base_model.model.", "")


def aliases(native: Mapping[str, Shape]) -> dict[str, WeightSlice]:
    """Adapter module key -> WeightSlice for experts, routers, and the text model of one that also sees.

    Args:
        native: the model's own weight names -> shapes; an expert's gate and up projections are one ``gate_up_proj``.
    """
    found: dict[str, WeightSlice] = {}
    if is_encoder(native):
        for name in native:
            if name.endswith(".weight"):
                module = module_of(plain(name))
                for key in (f"text_encoders.transformer.{module}", *keys(module, alone=True)):
                    found[key] = WeightSlice(DENOISER + name)
    for theirs, ours in _OF_TEXT.items():
        for name in native:
            if name.startswith(theirs) and name.endswith(".weight"):
                module = module_of(ours + name[len(theirs) :])
                found |= {prefix + module: WeightSlice(DENOISER + name) for prefix in _PREFIXES}
    for name, shape in native.items():
        here = WeightSlice(DENOISER + name)
        if hit := _EXPERT.match(name):
            ours = f"{hit['layer']}.mlp.experts.{hit['n']}"
            stored = f"{hit['layer']}.{hit['moe']}.experts.{hit['n']}"
            own = {"w2": "down_proj"}.get(hit["what"], hit["what"])
            modules = {f"{ours}.{own}": here}
            if hit["what"] == "gate_up_proj":
                half = shape[0] // 2
                names = next(iter(FUSED.items())) if hit["moe"] == "mlp" else ("w1", FUSED["w1"])
                modules |= {f"{stored}.{one}": here._replace(rows=(i * half, half)) for i, one in enumerate(names)}
        elif hit := _ROUTER.match(name):
            modules = {f"{hit['layer']}.mlp.gate": here}
        else:
            continue
        found |= {prefix + module: weight_slice for prefix in _PREFIXES for module, weight_slice in modules.items()}
    return found
