"""Models that bitsandbytes stored in 8 and 4 bits, read without it.

The files are made here by the format's definition; that real ones are read to the bit is checked where the library is
installed.
"""

import json

import pytest
import torch
from lora_graft.bases import open_base
from lora_graft.errors import BaseModelError
from lora_graft.names import DENOISER
from safetensors.torch import save_file

NAME = "model.layers.0.self_attn.q_proj.weight"
LEVELS = torch.linspace(-1, 1, 16)


def four_bits(weight, block=64, nested=0):
    """Tensors of a weight in 4 bits, and the weight that they mean."""
    flat = weight.flatten()
    blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % block)).reshape(-1, block)
    scales = blocks.abs().amax(1)
    state = {"quant_type": "nf4", "blocksize": block, "dtype": "float32", "shape": list(weight.shape)}
    tensors = {}
    if nested:
        offset, levels = float(scales.mean()), torch.linspace(-1, 1, 256)
        rest = torch.nn.functional.pad(scales - offset, (0, -scales.numel() % nested)).reshape(-1, nested)
        of_scales = rest.abs().amax(1)
        codes = (rest[..., None] / of_scales[:, None, None] - levels).abs().argmin(-1).flatten()[: scales.numel()]
        scales = levels[codes] * of_scales.repeat_interleave(nested)[: scales.numel()] + offset
        state |= {"nested_blocksize": nested, "nested_dtype": "float32", "nested_offset": offset}
        tensors |= {".absmax": codes.to(torch.uint8), ".nested_absmax": of_scales, ".nested_quant_map": levels}
    else:
        tensors |= {".absmax": scales}
    codes = (blocks[..., None] / scales[:, None, None] - LEVELS).abs().argmin(-1).to(torch.uint8)
    meant = (LEVELS[codes.long()] * scales[:, None]).flatten()[: flat.numel()].reshape(weight.shape)
    codes = codes.flatten()[: flat.numel()]
    codes = torch.nn.functional.pad(codes, (0, codes.numel() % 2))
    tensors |= {"": (codes[::2] << 4 | codes[1::2])[:, None], ".quant_map": LEVELS}
    text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    return {NAME + suffix: t for suffix, t in tensors.items()} | {NAME + ".quant_state.bitsandbytes__nf4": text}, meant


def folder(path, tensors, method="bitsandbytes"):
    path.mkdir(exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": method}}
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    return path


@pytest.mark.parametrize("shape", [(16, 24), (7, 9)])
@pytest.mark.parametrize("nested", [0, 3])
def test_four_bits(tmp_path, shape, nested):
    tensors, meant = four_bits(torch.randn(shape, generator=torch.Generator().manual_seed(1)), nested=nested)
    plain = torch.randn(4, 4)
    base = open_base(folder(tmp_path / "m", tensors | {"model.norm.weight": plain}))
    assert base.weights() == {DENOISER + NAME: shape, DENOISER + "model.norm.weight": (4, 4)}
    assert torch.equal(base.load(DENOISER + NAME), meant)
    assert torch.equal(base.load(DENOISER + NAME, (2, 3)), meant[2:5])
    assert torch.equal(base.load(DENOISER + "model.norm.weight"), plain)
    assert base.storage(DENOISER + NAME) == "nf4" and base.storage(DENOISER + "model.norm.weight") == "fp32"
    before = base.digest(DENOISER + NAME)
    tensors[NAME + ".quant_map"] = LEVELS * 2
    assert open_base(folder(tmp_path / "m", tensors)).digest(DENOISER + NAME) != before


def test_eight_bits(tmp_path):
    values = torch.randint(-127, 128, (6, 8), dtype=torch.int8, generator=torch.Generator().manual_seed(1))
    largest = torch.rand(6) + 0.5
    tensors = {NAME: values, NAME.removesuffix(".weight") + ".SCB": largest}
    base = open_base(folder(tmp_path / "m", tensors))
    meant = values.double() * largest.double()[:, None] / 127
    torch.testing.assert_close(base.load(DENOISER + NAME).double(), meant, atol=1e-7, rtol=1e-6)
    assert torch.equal(base.load(DENOISER + NAME, (2, 3)), base.load(DENOISER + NAME)[2:5])
    assert list(base.weights()) == [DENOISER + NAME] and base.storage(DENOISER + NAME) == "int8"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda t: t.update({NAME: t[NAME][:-1]}), "makes no sense"),
        (lambda t: t.update({NAME + ".quant_state.bitsandbytes__nf4": torch.zeros(9, dtype=torch.uint8)}), "no sense"),
        (lambda t: t.update({NAME + ".absmax": torch.ones(2)}), "2 scales for 384 values"),
        (lambda t: t.pop(NAME + ".quant_map"), "do not fit"),
    ],
)
def test_broken_files_are_refused(tmp_path, harm, said):
    tensors, _ = four_bits(torch.randn(16, 24))
    harm(tensors)
    with pytest.raises(BaseModelError, match=said) as caught:
        open_base(folder(tmp_path / "m", tensors)).load(DENOISER + NAME)
    assert NAME in str(caught.value)


@pytest.mark.parametrize("how", ["nf4", "nf4 double", "fp4", "int8"])
def test_files_of_the_library_itself(tmp_path, how):
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    # A multiple of its block: on a CPU the library (0.50) multiplies others out wrongly.
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(2))
    if how == "int8":
        values, largest, _ = functional.int8_vectorwise_quant(weight.half())
        tensors, meant = {NAME: values, NAME.removesuffix(".weight") + ".SCB": largest}, values * largest[:, None] / 127
    else:
        double = how.endswith("double")
        packed, state = functional.quantize_4bit(weight, quant_type=how[:3], compress_statistics=double)
        meant = functional.dequantize_4bit(packed, state)
        tensors = {NAME: packed} | {f"{NAME}.{key}": t for key, t in state.as_dict(packed=True).items()}
    found = open_base(folder(tmp_path / "m", {k: t.contiguous() for k, t in tensors.items()})).load(DENOISER + NAME)
    torch.testing.assert_close(found, meant.float(), atol=1e-7, rtol=1e-6)
