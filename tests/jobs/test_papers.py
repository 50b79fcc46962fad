"""The papers' formulas, written out in numpy and float64 from the files alone, against what the jobs return.

LoRA-X (arXiv 2501.16559), ProLoRA (2506.04244) and LoRA-LEGO (2409.16167). Nothing here calls a kernel: singular
vectors are numpy's, the clusters of LEGO are known beforehand because the LoRAs were made from them.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lora_graft import adapters
from lora_graft.jobs.merge.merge import MergeSettings, merge
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from safetensors.numpy import load_file
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def one_thread():
    """numpy's threads wait for each other on a busy machine."""
    with threadpool_limits(1):
        yield


def weights(path):
    """Every weight of a checkpoint in float64, by the name that kohya's layout gives it."""
    found = {}
    for name, value in load_file(path).items():
        if name.endswith(".weight") and value.ndim == 2:
            stem = name.removeprefix("model.diffusion_model.").removesuffix(".weight")
            found[f"lora_unet_{stem.replace('.', '_')}"] = value.astype(np.float64)
    return found


def updates(state):
    """ΔW = alpha/r · B A in float64, by module."""
    found = {}
    for name, up in state.items():
        if name.endswith(".lora_up.weight"):
            key = name.removesuffix(".lora_up.weight")
            down = np.asarray(state[f"{key}.lora_down.weight"], np.float64)
            found[key] = float(state[f"{key}.alpha"]) / len(down) * np.asarray(up, np.float64) @ down
    return found


def of_adapter(adapter):
    return updates({key: tensor.float().numpy() for key, tensor in adapters.to_state_dict(adapter).items()})


def thirds(key, matrix):
    """q, k and v where they are one weight: the paper has them apart."""
    return np.split(matrix, 3) if key.endswith("qkv") else [matrix]


def leading(weight, share=0.25):
    """U and V of the leading quarter of the singular values."""
    u, _, vt = np.linalg.svd(weight, full_matrices=False)
    k = round(share * min(weight.shape))
    return u[:, :k], vt[:k].T


def apart(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def lora_x(delta, source, target):
    (ut, vt) = target
    return ut @ ut.T @ delta @ vt @ vt.T


def prolora(delta, source, target):
    (us, vs), (ut, vt) = source, target
    inside = us @ us.T @ delta @ vs @ vs.T
    ps, qs, pt, qt = (np.eye(len(x)) - x @ x.T for x in (us, vs, ut, vt))
    return ut @ ut.T @ inside @ vt @ vt.T + pt @ (ps @ delta @ qs) @ qt


@pytest.mark.parametrize("method, formula", [("lora-x", lora_x), ("prolora", prolora)])
def test_a_transfer_is_the_papers_formula_on_every_module(family, method, formula):
    source, target = weights(family.path("a")), weights(family.path("b"))
    before = updates(load_file(family.path("slant_a")))
    single = adapters.from_state_dict(
        {key: tensor.float() for key, tensor in adapters.to_state_dict(family.adapter("slant_a")).items()}
    )
    result = transfer(single, family.base("a"), family.base("b"), TransferSettings(method))
    after = of_adapter(result.adapter)
    lines = {line.key: line for line in result.report.modules}
    assert after.keys() == before.keys() and len(after) == 15
    for key, delta in before.items():
        expected, alike = [], []
        for piece, ours, theirs in zip(*(thirds(key, m) for m in (delta, source[key], target[key])), strict=True):
            here, there = leading(ours), leading(theirs)
            expected.append(formula(piece, here, there))
            k = here[0].shape[1]
            alike.append([np.linalg.norm(x.T @ y) ** 2 / k for x, y in zip(here, there, strict=True)])
        assert apart(after[key], np.concatenate(expected)) < 2e-5, key
        phi = np.mean(alike, 0)
        assert [lines[key].phi_left, lines[key].phi_right] == pytest.approx(phi, abs=2e-5), key


def pooled(ranks, noise, seed=0, rows=24, columns=36, groups=5):
    """LoRAs whose units are noisy copies of a few far ones; of each unit, the number of the one it copies."""
    dice = np.random.default_rng(seed)
    centres = dice.normal(size=(groups, rows + columns))
    states, members, units = [], [], []
    for rank in ranks:
        mine = dice.permutation(groups)[:rank]
        unit = centres[mine] + noise * dice.normal(size=(rank, rows + columns))
        down, up = unit[:, :columns], unit[:, columns:]
        alpha = 2.0 * rank  # a scale of 2, which belongs evenly to both halves of the unit
        tensors = {"lora_up.weight": up.T / 2**0.5, "lora_down.weight": down / 2**0.5, "alpha": np.array(alpha)}
        states.append({f"lora_unet_x.{name}": torch.from_numpy(np.ascontiguousarray(t)) for name, t in tensors.items()})
        members.append(mine)
        units.append(unit)
    return states, np.concatenate(members), np.concatenate(units), columns


@pytest.mark.parametrize("parameter", [True, False])
@pytest.mark.parametrize("output", [True, False])
def test_a_merge_is_the_papers_algorithm_from_pooled_units_to_reweighted_centroids(parameter, output):
    ranks = (5, 3, 4)
    states, members, units, columns = pooled(ranks, noise=0.15)
    settings = MergeSettings(
        "lego", rank=5, units="paper", parameter_reweighting=parameter, output_reweighting=output, dtype="fp32"
    )
    given = [adapters.from_state_dict({k: t.float() for k, t in state.items()}) for state in states]
    merged = of_adapter(merge([(lora, 1.0, 1.0) for lora in given], settings).adapter)["lora_unet_x"]
    expected = 0.0
    for group in range(5):
        cluster = units[members == group]
        centroid = cluster.mean(0)
        if parameter:
            centroid = centroid * np.abs(cluster).max(1).mean() / np.abs(centroid).max()
        expected = expected + np.outer(centroid[columns:], centroid[:columns])
    if output:
        expected = expected * (np.mean(ranks) / 5) ** 0.5
    assert apart(merged, expected) < 2e-6
