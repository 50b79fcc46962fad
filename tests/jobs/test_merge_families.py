"""Two LoRAs of different families, merged by mistake, are refused with both names."""

import pytest
from lora_graft.adapters import from_state_dict
from lora_graft.errors import AdapterError
from lora_graft.jobs.merge.merge import MergeSettings, merge
from torch import ones

KEYS = {
    "Wan": "blocks.0.self_attn.q",
    "Cosmos Predict2 or Anima": "blocks.0.self_attn.q_proj",
    "Krea 2": "blocks.0.attn.wq",
    "Ernie-Image": "layers.0.self_attention.to_q",
    "Kandinsky 5": "visual_transformer_blocks.0.self_attention.to_query",
    "ACE-Step": "transformer_blocks.0.cross_attn.to_q",
    "PixArt": "blocks.0.cross_attn.q_linear",
}


def lora(family):
    key = f"diffusion_model.{KEYS[family]}"
    return from_state_dict({f"{key}.lora_up.weight": ones(2048, 1), f"{key}.lora_down.weight": ones(1, 2048)})


@pytest.mark.parametrize(("one", "other"), [*zip(KEYS, [*list(KEYS)[1:], next(iter(KEYS))], strict=True)])
def test_refused_with_both_names(one, other):
    with pytest.raises(AdapterError, match=rf"looks like one for {one}; .*looks like one for {other}"):
        merge([(lora(one), 1, 1), (lora(other), 1, 1)], MergeSettings())
