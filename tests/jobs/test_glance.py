"""A LoRA at a glance: family, rank, trigger words, and whether it is for a base; by headers alone."""

from __future__ import annotations

import pytest
import torch
from lora_graft.errors import AdapterError
from lora_graft.jobs.glance import LONGEST, belongs, glance
from safetensors.torch import save_file


def lora(path, prefix, width, rank=4, metadata=None):
    tensors = {f"{prefix}.lora_down.weight": torch.zeros(rank, width), f"{prefix}.lora_up.weight": torch.zeros(8, rank)}
    save_file(tensors, path, metadata)
    return path


def test_family_rank_and_words(family_files):
    found = glance(family_files["family_frame_a"])
    assert found.architecture == "SD3" and found.ranks == (8, 8) and found.modules == 15
    assert found.size == family_files["family_frame_a"].stat().st_size


def test_words_are_kept_short_and_a_changed_file_is_read_again(tmp_path):
    words = ", ".join(f"word{i}" for i in range(99))
    file = lora(tmp_path / "a.safetensors", "lora_unet_mid_block_attentions_0_proj_in", 6)
    assert glance(file).triggers == () and glance(file).ranks == (4, 4)
    told = {"modelspec.trigger_phrase": "x" * 999 + "\x1b[2J", "ss_trained_words": words}
    lora(file, "lora_unet_mid_block_attentions_0_proj_in", 6, rank=2, metadata=told)
    found = glance(file)
    assert found.ranks == (2, 2) and 0 < len(found.triggers) <= 10
    assert all(len(word) <= LONGEST and "\x1b" not in word for word in found.triggers)


def test_whether_it_is_for_a_base(family_files, tmp_path):
    frame, base = family_files["family_frame_a"], family_files["family_b"]
    assert belongs(frame, base) == ("SD3", True)
    other = lora(tmp_path / "unet.safetensors", "lora_unet_mid_block_attentions_0_proj_in", 6)
    assert belongs(other, base) == ("SD3", False)
    text = lora(tmp_path / "text.safetensors", "lora_te_text_model_encoder_layers_0_mlp_fc1", 768)
    assert belongs(text, base) == ("SD3", None)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(AdapterError, match="No such file"):
        glance(tmp_path / "gone.safetensors")
