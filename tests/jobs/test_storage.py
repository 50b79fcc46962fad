"""One base in two storages is told as one base; another base, however stored, is not."""

from __future__ import annotations

import pytest
import torch
from lora_graft.bases import open_base
from lora_graft.io.rounding import rounding
from lora_graft.jobs.transfer.compare import compare
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from safetensors.torch import load_file, save_file


def fp8(weights):
    """A checkpoint as people store it in fp8 with a scale for each matrix."""
    stored = {}
    for name, weight in weights.items():
        if weight.ndim != 2:
            stored[name] = weight
            continue
        scale = weight.float().abs().max().clamp(min=1e-6) / 448
        stored[name] = (weight.float() / scale).to(torch.float8_e4m3fn)
        stored[name.removesuffix(".weight") + ".scale_weight"] = scale
    return stored


STORAGES = {
    "bf16": lambda weights: {n: w.bfloat16() for n, w in weights.items()},
    "fp8 (e4m3)": lambda weights: {n: w.to(torch.float8_e4m3fn) if w.ndim == 2 else w for n, w in weights.items()},
    "fp8 (e5m2)": lambda weights: {n: w.to(torch.float8_e5m2) if w.ndim == 2 else w for n, w in weights.items()},
    "scaled fp8": fp8,
}


@pytest.fixture(scope="module")
def stored(family, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")

    def opened(base, storage):
        file = folder / f"{base}_{storage}.safetensors"
        if not file.exists():
            save_file(STORAGES[storage](load_file(family.path(base))), file)
        return open_base(file)

    return opened


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("method", ["auto", "copy"])
def test_the_same_base_stored_otherwise(family, stored, storage, method):
    for pair in ((family.base("a"), stored("a", storage)), (stored("a", storage), family.base("a"))):
        report = transfer(family.adapter("frame_a"), *pair, TransferSettings(method)).report
        assert report.advice == "copy" and "the same base" in report.advice_reason, report.advice_reason
        assert storage in report.advice_reason and "fp16" in report.advice_reason


@pytest.mark.parametrize("storage", STORAGES)
def test_the_comparison_says_so(family, stored, storage):
    report = compare(family.base("a"), stored("a", storage), adapter=family.adapter("frame_a"))
    assert "same base stored otherwise" in report.summary()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("target", ["b", "s"])
def test_another_base_stored_otherwise(family, stored, storage, target):
    """B is a fine-tune of A, S a stranger: neither is A, whatever its storage."""
    base = stored(target, storage)
    report = transfer(family.adapter("frame_a"), family.base("a"), base, TransferSettings("copy")).report
    assert "same base" not in report.advice_reason
    assert "same base" not in compare(family.base("a"), base, adapter=family.adapter("frame_a")).summary()


def test_two_files_in_one_storage(family, stored):
    """fp8 against fp8: the same numbers are the same weights, others another base."""
    same = transfer(
        family.adapter("frame_a"), stored("a", "fp8 (e4m3)"), stored("a", "fp8 (e4m3)"), TransferSettings("copy")
    )
    assert same.report.advice == "none"
    other = transfer(
        family.adapter("frame_a"), stored("a", "fp8 (e4m3)"), stored("b", "fp8 (e4m3)"), TransferSettings("copy")
    )
    assert "same base" not in other.report.advice_reason


def test_rounding_is_what_the_cast_does():
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    assert rounding("fp32", weight) == 0
    assert 2e-4 < rounding("fp16", weight) < rounding("bf16", weight) < 3e-3
    assert 0.02 < rounding("fp8 (e4m3)", weight) < rounding("fp8 (e5m2)", weight) < 0.07
    assert rounding("fp8 (e4m3)", 1e-3 * weight) > 0.2, "small weights lose most where nothing scales them"
    assert rounding("Q8_0", weight) < rounding("Q5_K", weight) < rounding("IQ4_XS", weight) < rounding("Q2_K", weight)
    assert rounding("", weight) == rounding("fp4 of tomorrow", weight) == 0
    assert rounding("fp16", torch.zeros(3, 3)) == 0
