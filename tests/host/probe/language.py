"""Tiny language models as CLIPs: ComfyUI's own classes and loader with a small configuration and random weights."""

from __future__ import annotations

import io as files

import comfy.sd
import comfy.text_encoders.z_image
import torch
from comfy_api.latest import io

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,  # the encoders take the last but one
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
TEXT = ["A numbered list of 21 different prompts for a picture, one line each.", "1. a cat on a table, 2. a red box."]


def pieces(vocabulary: int) -> bytes:
    """A sentencepiece model like Gemma's: with bytes for what it does not know."""
    import sentencepiece

    made = files.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 20),
        model_writer=made,
        vocab_size=vocabulary,
        byte_fallback=True,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    return made.getvalue()


def weights(keys: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    dice = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=dice) * 0.2 for name, shape in keys.items()}


def layers(vocabulary: int, head: int, norms: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    width, inner = SMALL["hidden_size"], SMALL["intermediate_size"]
    found = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    for i in range(SMALL["num_hidden_layers"]):
        at = f"model.layers.{i}"
        for name, many in (("q", SMALL["num_attention_heads"]), ("k", 1), ("v", 1)):
            found[f"{at}.self_attn.{name}_proj.weight"] = (many * head, width)
        found[f"{at}.self_attn.o_proj.weight"] = (width, SMALL["num_attention_heads"] * head)
        found |= {f"{at}.mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        found[f"{at}.mlp.down_proj.weight"] = (width, inner)
        found |= {f"{at}.{name}.weight": (head if "self_attn" in name else width,) for name in norms}
    return found


def gemma(seed: int) -> comfy.sd.CLIP:
    """Gemma 2 by the host's loader, which finds out what it is."""
    vocabulary = 285
    norms = (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    )
    state = weights(layers(vocabulary, 256, norms), seed)
    state["spiece_model"] = torch.frombuffer(bytearray(pieces(vocabulary)), dtype=torch.uint8)
    options = {"gemma2_2b_model_config": dict(SMALL, vocab_size=vocabulary)}
    return comfy.sd.load_text_encoder_state_dicts([state], model_options=options)


def qwen(seed: int) -> comfy.sd.CLIP:
    """Qwen 3 as Z-Image has it; the loader knows it by its width of 2560, so that the classes are named here."""

    class Target:
        clip = comfy.text_encoders.z_image.te()
        tokenizer = comfy.text_encoders.z_image.ZImageTokenizer
        params = {}

    vocabulary = 151936
    norms = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
    state = weights(layers(vocabulary, 128, norms), seed)
    return comfy.sd.CLIP(
        Target,
        state_dict=[state],
        model_options={"qwen3_4b_model_config": dict(SMALL, vocab_size=vocabulary)},
    )


class LanguageModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_LanguageModel",
            category="probe",
            inputs=[
                io.Combo.Input("kind", options=["gemma", "qwen"]),
                io.Int.Input("longest", default=24, optional=True, tooltip="Tokens of an answer."),
                io.Int.Input("seed", default=7, optional=True, tooltip="Of the weights."),
            ],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, kind, longest=24, seed=7):
        clip = {"gemma": gemma, "qwen": qwen}[kind](seed)
        asked, tokenize, generate = [], clip.tokenize, clip.generate

        def count(text, **more):
            tokens = tokenize(text, **more)
            rows = next(iter(tokens.values()))
            asked.append(clip.decode([token[0] for token in rows[0]], skip_special_tokens=False))
            return tokens

        def short(tokens, **more):
            return generate(tokens, **{**more, "max_length": longest})

        clip.tokenize, clip.generate, clip.asked = count, short, asked
        return io.NodeOutput(clip)


class Asked(io.ComfyNode):
    """What a LanguageModel was asked, as its tokens say it."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Asked",
            category="probe",
            is_output_node=True,
            not_idempotent=True,
            inputs=[io.Clip.Input("clip"), io.AnyType.Input("after")],
        )

    @classmethod
    def execute(cls, clip, after):
        return io.NodeOutput(ui={"text": tuple(clip.asked)})


NODES = [LanguageModel, Asked]
