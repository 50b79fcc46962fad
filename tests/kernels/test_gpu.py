"""Every kernel on a device gives what it gives on the CPU, whether or not the process allows TF32.

`pytest -m gpu` runs what needs a GPU; without one that skips. The same checks on the CPU keep the benchmark that shares
them alive.
"""

from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")],
)


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_every_kernel(benchmarks, device):
    from gpu_accuracy import accuracy

    rows = [line.split("|")[1:-1] for line in accuracy(device)]
    assert {row[0].split(":")[0].strip() for row in rows} == {"subspace", "Φ", "transfer", "merge", "student"}
    assert [row[0] for row in rows if row[-1].strip() != "yes"] == []


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_whole_jobs(benchmarks, device, tmp_path):
    from lora_graft.jobs.cache import SubspaceCache
    from lora_graft.jobs.merge.merge import merge
    from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
    from made_base import made_lora, made_pair

    source, target = made_pair("flux-quick")
    loras = [made_lora("flux-quick", seed) for seed in range(2)]
    settings = TransferSettings(method="prolora")
    here = transfer(loras[0], source, target, settings, cache=SubspaceCache(tmp_path), device=device).adapter
    there = transfer(loras[0], source, target, settings).adapter
    merged = [merge([(lora, 1.0, 1.0) for lora in loras], device=where).adapter for where in (device, "cpu")]
    for ours, exact in ((here, there), merged):
        assert ours.modules.keys() == exact.modules.keys() and ours.modules
        for key, module in ours.modules.items():
            mine, theirs = (m.low_rank() for m in (module, exact.modules[key]))
            assert mine.up.device.type == "cpu"
            torch.testing.assert_close(mine.dense(), theirs.dense(), rtol=1e-3, atol=1e-3 * float(theirs.dense().std()))


def test_counting(benchmarks):
    from gpu_counts import counts
    from lora_graft.kernels.spectral import SubspaceSize

    rows = [line.split("|")[1:-1] for line in list(counts({(600, 800): "one"}, (SubspaceSize(k=16),)))[2:]]
    found = {row[2].strip().split()[0]: row for row in rows}
    assert set(found) == {"gram", "lanczos"}
    # The Gram matrix of 600 x 800 by itself takes 9/16 of 2 · 600² · 800 operations.
    assert float(found["gram"][4]) * 1e9 >= 2 * 600 * 600 * 800 * 9 / 16 * 0.9
    assert all(int(row[3]) > 10 and float(row[5]) >= 0 for row in rows)
