"""An adapter by its header alone says of formats, shapes, ranks and metadata what reading the whole file says."""

from __future__ import annotations

import pytest
from adapter_samples import SAMPLES
from lora_graft import adapters
from lora_graft.adapters.outline import outline
from lora_graft.errors import AdapterError
from safetensors.torch import save_file


@pytest.mark.parametrize("name", SAMPLES)
def test_as_the_whole_file_says(name, tmp_path):
    module = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    file = tmp_path / "a.safetensors"
    tensors = {module + suffix: tensor.contiguous() for suffix, tensor in SAMPLES[name].tensors().items()}
    save_file(tensors, file, {"ss_tag_frequency": '{"a": {"cat": 3}}'})
    read, seen = adapters.read(file), outline(file)
    assert list(seen.modules) == list(read.modules) and list(seen.extras) == list(read.extras)
    for key, module in read.modules.items():
        other = seen.modules[key]
        assert (other.kind, other.shape, other.rank) == (module.kind, module.shape, module.rank)
    assert (seen.metadata, seen.layout, seen.tags) == (read.metadata, read.layout, {"cat": 3})


def test_no_weight_is_read(tmp_path):
    """NaN inside is what `read` refuses."""
    file = tmp_path / "a.safetensors"
    tensors = {s: t * float("nan") for s, t in SAMPLES["lora"].tensors().items() if t.numel() > 1}
    save_file({"lora_unet_mid_block_attentions_0_proj_in" + s: t for s, t in tensors.items()}, file)
    assert len(outline(file).modules) == 1
    with pytest.raises(AdapterError, match="NaN"):
        adapters.read(file)


def test_what_is_no_adapter_is_refused(tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"\x80\x02pickle, long enough to have a header")
    with pytest.raises(AdapterError, match="pickle"):
        outline(file)
