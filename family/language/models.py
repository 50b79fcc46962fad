"""Untrained models of the family, as transformers' own classes, and their two tokenizers."""

from __future__ import annotations

from typing import Any

from .tasks import KNOWN, LETTERS

CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MARKS = ("<pad>", "<s>", "</s>")
_CHARACTERS = LETTERS + CAPITALS + "0123456789 =\n"
_PAIRS = [LETTERS[at : at + 2] for at in range(0, len(LETTERS), 2)]  # ab, cd, …
CONTEXT = 160  # tokens


def tokenizer(kind: str) -> Any:
    """A tokenizer that begins a text with ``<s>``.

    kind: "characters", or "pieces", in which the known tasks' names and some pairs of letters are one token each.
    """
    import tokenizers
    import transformers

    steps = [] if kind == "characters" else [*_names(), *[(pair[0], pair[1]) for pair in _PAIRS]]
    tokens = list(dict.fromkeys([*_MARKS, *_CHARACTERS, *["".join(step) for step in steps]]))
    order = {token: number for number, token in enumerate(tokens)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=order, merges=steps))
    made.decoder = tokenizers.decoders.Fuse()
    made.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def _names() -> list[tuple[str, str]]:
    """The joints that make one token of each known task's name."""
    first = dict.fromkeys((name[0], name[1]) for name in KNOWN)
    return [*first, *[(name[:2], name[2]) for name in KNOWN]]


def untrained(kind: str, tokens: int, seed: int) -> Any:
    """A model with random weights: "llama", or "gemma", which is of another layout and width."""
    import torch
    import transformers

    common = dict(
        vocab_size=tokens,
        max_position_embeddings=CONTEXT,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    if kind == "llama":
        sizes = dict(hidden_size=128, intermediate_size=320, num_hidden_layers=4)
        heads = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=32)
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**common, **sizes, **heads))
    sizes = dict(hidden_size=112, intermediate_size=304, num_hidden_layers=4)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=28, query_pre_attn_scalar=28)
    config = transformers.Gemma2Config(**common, **sizes, **heads, sliding_window=CONTEXT, attn_implementation="eager")
    return transformers.Gemma2ForCausalLM(config)
