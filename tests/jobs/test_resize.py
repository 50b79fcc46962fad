"""Resizing a LoRA: ranks by rule, the best cut at each, what cannot be cut left as it is."""

from __future__ import annotations

import pytest
import torch
from lora_graft import adapters
from lora_graft.errors import SettingsError
from lora_graft.jobs.merge.resize import ResizeSettings, resize

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_input_blocks_4_0_in_layers_2"
VALUES = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.25])


@pytest.fixture
def lora():
    """A linear and a convolution whose singular values are VALUES, half alpha, a norm and an odd key."""
    g = torch.Generator().manual_seed(1)

    def basis(size):
        return torch.linalg.qr(torch.randn(size, 6, generator=g)).Q

    conv = basis(72).T.reshape(6, 8, 3, 3)
    return adapters.from_state_dict(
        {
            f"{Q}.lora_up.weight": basis(40) * VALUES * 2,
            f"{Q}.lora_down.weight": basis(30).T.contiguous(),
            f"{Q}.alpha": torch.tensor(3.0),
            f"{Q}.diff_b": torch.ones(40),
            f"{CONV}.lora_up.weight": (basis(16) * VALUES).reshape(16, 6, 1, 1),
            f"{CONV}.lora_down.weight": conv,
            "lora_unet_out_0.w_norm": torch.ones(8),
            "odd.key": torch.ones(2),
        },
        {"ss_network_module": "networks.lora", "ss_network_dim": "6"},
        "folder/x.safetensors",
    )


@pytest.mark.parametrize(
    ("rule", "amount", "rank"),
    [("rank", 2, 2), ("ratio", 5, 3), ("cumulative", 0.7, 2), ("energy", 0.95, 3), ("frobenius", 0.95, 2)],
)
def test_rules(lora, rule, amount, rank):
    squares = VALUES.square()
    result = resize(lora, ResizeSettings(rule, amount))
    for key in (Q, CONV):
        module = result.adapter.modules[key]
        assert module.rank == rank
        u, s, v = torch.linalg.svd(lora.modules[key].delta().flatten(1).double(), full_matrices=False)
        best = (u[:, :rank] * s[:rank]) @ v[:rank]
        torch.testing.assert_close(module.delta().flatten(1).double(), best, rtol=1e-4, atol=1e-5)
    line = next(m for m in result.report.modules if m.key == Q)
    assert line.error == pytest.approx(float((squares[rank:].sum() / squares.sum()).sqrt()), rel=1e-3)
    assert line.ranks_in == [6] and line.rank_out == rank and line.decision == rule


def test_the_rest_stays(lora):
    result = resize(lora, ResizeSettings("rank", 2))
    assert torch.equal(result.adapter.modules[Q].bias(), torch.ones(40))
    assert result.adapter.modules["lora_unet_out_0"] is lora.modules["lora_unet_out_0"]
    assert "odd.key" in result.adapter.extras and result.adapter.metadata["ss_network_dim"] == "2"
    assert "x.safetensors × 1 became" in result.report.summary()
    assert "2 modules were cut, 1 left as they are" in result.report.summary()


def test_nothing_to_cut(lora):
    result = resize(lora, ResizeSettings("rank", 64))
    before, after = adapters.to_state_dict(lora), adapters.to_state_dict(result.adapter)
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    halved = resize(lora, ResizeSettings("rank", 64, dtype="fp16")).adapter
    assert {t.dtype for m in halved.modules.values() for t in m.tensors.values() if t.ndim} == {torch.float16}


def test_a_limit_over_the_rule(lora):
    assert {
        m.rank
        for k, m in resize(lora, ResizeSettings("energy", 1.0, most=4)).adapter.modules.items()
        if k != "lora_unet_out_0"
    } == {4}


def test_a_dora_without_its_base_stays(lora):
    dora = adapters.from_state_dict({**adapters.to_state_dict(lora), f"{Q}.dora_scale": torch.ones(40, 1)})
    result = resize(dora, ResizeSettings("rank", 2)).adapter
    assert result.modules[Q].kind == "dora" and result.modules[Q].rank == 6 and result.modules[CONV].rank == 2


@pytest.mark.parametrize(
    "settings",
    [
        ("most", 2),
        ("energy", 0.0),
        ("energy", 1.5),
        ("rank", 0),
        ("rank", 2.5),
        ("ratio", 0.5),
        ("rank", 2, 0),
        ("rank", 2, None, "int8"),
    ],
)
def test_impossible_settings(settings):
    with pytest.raises(SettingsError):
        ResizeSettings(*settings)


def test_every_rule_is_on_the_command_line():
    from inspect import signature

    from lora_graft.choices import Resize
    from lora_graft.cli.resize import resize as command

    flags = signature(command).parameters
    assert [name for name in flags if name in Resize.rules] == list(Resize.rules)


def test_from_the_command_line(lora, tmp_path):
    from lora_graft.cli.app import app
    from typer.testing import CliRunner

    adapters.write(lora, tmp_path / "x.safetensors")
    files = [str(tmp_path / "x.safetensors"), "-o", str(tmp_path / "y.safetensors"), "--force"]

    def run(*options):
        return CliRunner().invoke(app, ["resize", *files, *options])

    for options in (["--rank", "2"], ["--rank", "2", "--lego"], ["--ratio", "5"], ["--frobenius", "0.9", "--json"]):
        assert run(*options).exit_code == 0, options
        assert adapters.read(tmp_path / "y.safetensors").modules[Q].rank < 6
    for options in ([], ["--rank", "2", "--energy", "0.5"], ["--energy", "0.5", "--lego"]):
        assert run(*options).exit_code == 2
    assert run("--energy", "2").exit_code == 1
