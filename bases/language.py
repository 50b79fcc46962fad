"""A language model as transformers keeps it: a folder with ``config.json`` and (sharded) safetensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BaseModelError
from ..names import DENOISER, StoredPart
from ..names.language import FUSED, SEPARATE
from ..untrusted import parse_json

Shape = tuple[int, ...]

_CLASSES = re.compile(
    r".*(ForCausalLM|LMHeadModel|ForConditionalGeneration|For\w*Classification|ForQuestionAnswering)$"
)
_HEAD = "lm_head.weight"
_EMBEDDINGS = ("embed_tokens.weight", "shared.weight", "wte.weight")
# Weights of Conv1D, which transformers stores as (in, out).
_CONV1D = {"gpt2": re.compile(r".*\.(c_attn|c_proj|c_fc|q_attn)\.weight$")}


def language_model(folder: Path) -> dict[str, Any] | None:
    """The configuration of the language model in a folder; None where there is none.

    Raises:
        BaseModelError: the configuration cannot be read, or the weights are stored in a form that cannot be.
    """
    file = folder / "config.json"
    if not file.is_file():
        return None
    try:
        config = parse_json(file.read_bytes())
        names = [str(name) for name in config.get("architectures") or ()]
    except (OSError, ValueError, TypeError, AttributeError) as problem:
        raise BaseModelError(f"The model's configuration cannot be read: {problem}", file=file) from problem
    if not any(_CLASSES.match(name) for name in names):
        return None
    _check_storage(config, file)
    return config


def _check_storage(config: Mapping[str, Any], file: Path) -> None:
    quantised = config.get("quantization_config")
    if not quantised:
        return
    method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
    if method == "bitsandbytes":
        return
    raise BaseModelError(
        f"The model's weights are quantised ({method}), which cannot be read here",
        file=file,
        key="quantization_config",
        hint="Give the same model in fp16, bf16 or fp32: an adapter trained on the quantised one belongs to it too.",
    )


def language_parts(raw: Mapping[str, Shape], config: Mapping[str, Any]) -> dict[str, list[StoredPart]]:
    """Canonical weight name -> the stored tensors that stack up to it.

    The names are the model's own behind the prefix of canonical names. A head that shares the embedding's weight has
    a name of its own; each expert's gate and up projections are one weight, as transformers 5 and PEFT have them.

    Args:
        raw: stored tensor name -> shape.
    """
    transposed = _CONV1D.get(str(config.get("model_type")))
    parts = {
        name: [StoredPart(name, transpose=transposed is not None and bool(transposed.match(name)))]
        for name, shape in raw.items()
        if shape
    }
    for name in list(parts):
        hit = SEPARATE.match(name)
        if hit is None or hit["gate"] is None:
            continue
        other = f"{hit['stem']}.{FUSED[hit['gate']]}.weight"
        if other in parts and raw[other] == raw[name]:
            parts[f"{hit['stem']}.gate_up_proj.weight"] = [*parts.pop(name), *parts.pop(other)]
    embedding = next((name for end in _EMBEDDINGS for name in raw if name.endswith(end)), None)
    if _HEAD not in parts and embedding is not None and not config.get("num_labels"):
        parts[_HEAD] = [StoredPart(embedding)]
    return {DENOISER + name: found for name, found in parts.items()}
