"""Tiny language models of the real classes, and LoRAs that PEFT made for them with random values."""

from __future__ import annotations

import copy
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
peft = pytest.importorskip("peft", reason="peft is not installed")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
warnings.filterwarnings("ignore", category=UserWarning)

PREFIX = "base_model.model."
SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
SIZES |= dict(num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)
NARROW = SIZES | dict(head_dim=8)
MOE = NARROW | dict(num_experts_per_tok=2)
T5 = dict(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
EYES = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
EYES |= dict(image_size=28, patch_size=14)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
DENSE = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@dataclass
class Layout:
    """A transformers class, its configuration, and what a LoraConfig for it says."""

    name: str
    config: dict
    lora: dict
    more: tuple[str, ...] = ()  # endings of the class: Config and Model, where they differ

    def model(self, seed: int = 0):
        torch.manual_seed(seed)
        kind = self.more[0] if self.more else f"{self.name}Config"
        model = getattr(transformers, self.more[1] if self.more else f"{self.name}ForCausalLM")
        made = model(getattr(transformers, kind)(**self.config)).float().eval()
        with torch.no_grad():
            for parameter in made.parameters():  # real models have such weights; the class' own start is far smaller
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.15)
        return made


def lora(targets, **more):
    return dict(target_modules=targets, r=4, lora_alpha=6) | more


LAYOUTS = {
    "llama": Layout("Llama", SIZES, lora([*DENSE, "embed_tokens", "lm_head"])),
    "mistral": Layout("Mistral", NARROW, lora("all-linear", use_rslora=True)),
    "qwen2": Layout("Qwen2", SIZES | dict(tie_word_embeddings=True), lora([*ATTENTION, "lm_head"])),
    "qwen3": Layout("Qwen3", NARROW, lora(DENSE, rank_pattern={"q_proj": 2, "1.mlp.up_proj": 3})),
    "gemma2": Layout("Gemma2", NARROW, lora(DENSE, alpha_pattern={"layers.1.self_attn.v_proj": 9})),
    "gemma3": Layout("Gemma3", NARROW, lora(r".*\.(q|v|up)_proj"), ("Gemma3TextConfig", "Gemma3ForCausalLM")),
    "gemma3 images": Layout(
        "Gemma3",
        dict(text_config=NARROW, vision_config=EYES, mm_tokens_per_image=4),
        lora(r"model\.language_model\..*\.(q|k|gate)_proj"),
        ("Gemma3Config", "Gemma3ForConditionalGeneration"),
    ),
    "phi3": Layout("Phi3", SIZES, lora(["qkv_proj", "o_proj", "gate_up_proj", "down_proj"])),
    "t5": Layout("T5", T5, lora(["q", "v", "o", "wi", "wo"]), ("T5Config", "T5ForConditionalGeneration")),
    "gpt2": Layout(
        "GPT2",
        dict(vocab_size=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
        lora(["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True),
        ("GPT2Config", "GPT2LMHeadModel"),
    ),
    "qwen3 moe": Layout(
        "Qwen3Moe", MOE | dict(moe_intermediate_size=16, num_experts=4), lora(ATTENTION, target_parameters=EXPERTS)
    ),
    "mixtral": Layout(
        "Mixtral", MOE | dict(num_local_experts=4), lora(["q_proj"], target_parameters=["mlp.experts.down_proj"])
    ),
}


def relative_of(model, amount=0.1, seed=9):
    """A copy of a model, lightly fine-tuned."""
    g, other = torch.Generator().manual_seed(seed), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(amount * parameter.std(unbiased=False) * torch.randn(parameter.shape, generator=g))
    return other


def save(model, folder: Path) -> Path:
    model.save_pretrained(folder, max_shard_size="20KB")
    return folder


def adapted(model, seed: int, **settings):
    """A PEFT model of a copy of the model, every factor random."""
    torch.manual_seed(seed)
    task = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    config = peft.LoraConfig(task_type=task, init_lora_weights=False, **settings)
    made = peft.get_peft_model(copy.deepcopy(model), config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if ".lora_" in name and "magnitude" not in name:
                parameter.normal_(0, 0.1)
    return made.eval()


def logits(model) -> torch.Tensor:
    ids = torch.tensor([[3, 5, 8, 13, 21, 34, 55], [60, 40, 30, 20, 10, 5, 2]])
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            return model(input_ids=ids, decoder_input_ids=ids.flip(1)).logits
        return model(input_ids=ids).logits


def loaded(model, folder: Path) -> torch.Tensor:
    """Logits of a copy of the model under the adapter in a folder, as PEFT loads it; every tensor finds its place."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        made = peft.PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()
    assert not [str(w.message) for w in seen if "missing" in str(w.message) or "unexpected" in str(w.message)]
    return logits(made)


def predicted(model, adapter, base=None) -> torch.Tensor:
    """Logits of a copy of the model whose weights are changed by our ΔW; whole weights replace the model's."""
    other = copy.deepcopy(model)
    head, embedding = other.get_output_embeddings(), other.get_input_embeddings()
    if head is not None and head.weight is embedding.weight:  # an adapter changes one of the two
        head.weight = torch.nn.Parameter(embedding.weight.clone())
    parameters = dict(other.named_parameters())
    with torch.no_grad():
        for key, tensor in adapter.extras.items():
            parameters[key.removeprefix(PREFIX).replace(".base_layer", "")].copy_(tensor)
        for key, module in adapter.modules.items():
            weight, transpose = weight_of(other, parameters, key.removeprefix(PREFIX))
            stored = weight.T if transpose else weight
            change = module.delta(stored)
            weight.add_(change.T if transpose else change)
            if (bias := module.bias()) is not None:
                parameters[key.removeprefix(PREFIX) + ".bias"].add_(bias)
    return logits(other)


def weight_of(model, parameters, name):
    """The parameter that a module's key means, an expert's part of it, and whether it is stored as (in, out)."""
    if ".experts." in name:
        layer, _, rest = name.partition(".experts.")
        number, _, what = rest.partition(".")
        layer = layer.replace("block_sparse_moe", "mlp")
        what = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}.get(what, what)
        if what in ("gate_proj", "up_proj"):
            whole = parameters[f"{layer}.experts.gate_up_proj"][int(number)]
            return whole.chunk(2)[what == "up_proj"], False
        return parameters[f"{layer}.experts.{what}"][int(number)], False
    module = model.get_submodule(name)
    return module.weight, type(module).__name__ == "Conv1D"
