"""Language models as text encoders: which one a file holds, in ComfyUI's words, and how trainers spell its modules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

Shape = tuple[int, ...]

# By what tells a family: {width: ComfyUI's name}. The first serves for widths that ComfyUI does not know.
_SIZES: dict[str, dict[int, str]] = {
    "t5": {4096: "t5xxl", 768: "t5base", 1024: "t5xxl"},
    "umt5": {4096: "umt5xxl", 2048: "pile_t5xl", 768: "t5base"},
    "gemma 2": {2304: "gemma2_2b"},
    "gemma 3": {2560: "gemma3_4b", 3840: "gemma3_12b"},
    "qwen 2.5": {3584: "qwen25_7b", 2048: "qwen25_3b"},
    "qwen 3": {2560: "qwen3_4b", 4096: "qwen3_8b", 2048: "qwen3_2b", 1024: "qwen3_06b"},
    "qwen 3 vl": {4096: "qwen3vl_8b", 2560: "qwen3vl_4b", 5120: "qwen3vl_32b"},
    "llama": {4096: "llama", 5120: "mistral3_24b", 3072: "ministral3_3b"},
}
_T5 = "encoder.block.0.layer.0.SelfAttention.q.weight"
_T5_BIAS = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"  # every block's own in UMT5
# What files put before the text model of one that also sees; ComfyUI has "model." and "visual." instead.
_SEEING = {"model.language_model.": "model.", "language_model.model.": "model.", "model.visual.": "visual."}
_DOTTED = re.compile(r"text_encoder(?:_\d)?\.|text_encoders\.\w+\.transformer\.")
_FLAT = re.compile(r"lora_te\d?_((?:model_|language_model_)*)(?=layers_|encoder_block_)")
_PEFT = "base_model.model."


def plain(name: str) -> str:
    """A weight's or module's name in a language model as ComfyUI has it."""
    old = next((old for old in _SEEING if name.startswith(old)), None)
    return name if old is None else _SEEING[old] + name[len(old) :]


def encoder_names(raw: Mapping[str, Shape]) -> dict[str, str]:
    """Canonical name -> stored, for a language model (or the encoder of a T5) alone in a file; empty for other files.

    Args:
        raw: stored tensor name -> shape.
    """
    encoder = _encoder(raw)
    if not encoder:
        return {}
    inside = [name for name in raw if "." in name]  # beside them lie tokenizers: spiece_model, tekken_model, …
    return {f"{encoder}.transformer.{plain(name)}": name for name in inside}


def is_encoder(raw: Mapping[str, Shape]) -> bool:
    """Whether these are the names of a language model that serves as a text encoder."""
    return bool(_encoder(raw))


def _encoder(raw: Mapping[str, Shape]) -> str:
    """ComfyUI's name of the encoder, or ""."""
    names = {plain(name): shape for name, shape in raw.items()}
    first = names.get("model.layers.0.self_attn.q_proj.weight")
    if _T5 in names:
        family, width = ("umt5" if _T5_BIAS in names else "t5"), names[_T5][-1]
    elif first is not None and len(first) == 2:
        family, width = _family(names), first[-1]
    else:
        return ""
    sizes = _SIZES[family]
    return sizes.get(width, next(iter(sizes.values())))


def _family(names: Mapping[str, Shape]) -> str:
    layer = "model.layers.0."
    normed = layer + "self_attn.q_norm.weight" in names
    if layer + "post_feedforward_layernorm.weight" in names:
        return "gemma 3" if normed else "gemma 2"
    if normed:
        return "qwen 3 vl" if any(name.startswith("visual.") for name in names) else "qwen 3"
    return "qwen 2.5" if layer + "self_attn.k_proj.bias" in names else "llama"


def aliases(module: str, *, alone: bool) -> list[str]:
    """Keys under which adapters know a module (its plain name) of a language model, beside ComfyUI's own.

    alone: whether the base has no other text encoder.
    """
    flat = module.removeprefix("model.").replace(".", "_")
    return [*([f"lora_te_{flat}"] if alone else []), _PEFT + module]


def spellings(key: str) -> Iterator[str]:
    """What a key of another trainer, or for another name of the encoder, may mean.

    OneTrainer writes ``text_encoder.`` or ``lora_te_`` and transformers' own names; PEFT the latter alone.
    """
    if hit := _DOTTED.match(key):
        module = plain(key[hit.end() :])
        yield f"text_encoders.transformer.{module}"
        yield f"text_encoders.transformer.model.{module}"
    elif hit := _FLAT.match(key):
        yield f"lora_te_{key[hit.end() :]}"
    elif key.startswith(_PEFT):
        yield _PEFT + plain(key[len(_PEFT) :])
        yield f"{_PEFT}model.{key[len(_PEFT) :]}"
