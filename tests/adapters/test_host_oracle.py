"""ComfyUI is the oracle: the same tensors must give the same ΔW there and here."""

import pytest
from adapter_samples import SAMPLES, relative
from lora_graft import adapters

pytestmark = pytest.mark.host
JUDGED = [name for name, sample in SAMPLES.items() if sample.host]


@pytest.mark.parametrize("name", JUDGED)
def test_delta_is_the_hosts(name, host_deltas):
    sample = SAMPLES[name]
    module = adapters.from_state_dict({name + s: t for s, t in sample.tensors().items()}).modules[name]
    delta = module.delta(sample.weight())
    assert delta.shape == sample.shape
    assert relative(delta, host_deltas[name + ".weight"]) < 1e-6


@pytest.mark.parametrize("name", [n for n in JUDGED if n not in ("norm",)])
def test_factors_multiply_to_the_hosts_delta(name, host_deltas):
    sample = SAMPLES[name]
    module = adapters.from_state_dict({name + s: t for s, t in sample.tensors().items()}).modules[name]
    update = module.low_rank(sample.weight())
    assert relative(update.dense(), host_deltas[name + ".weight"].flatten(1)) < 2e-6


@pytest.mark.parametrize("name", ["lora with bias", "diff conv", "norm"])
def test_bias_change_is_the_hosts(name, host_deltas):
    sample = SAMPLES[name]
    module = adapters.from_state_dict({name + s: t for s, t in sample.tensors().items()}).modules[name]
    assert relative(module.bias(), host_deltas[name + ".bias"]) < 1e-6


def test_host_reads_every_written_sample(comfy, tmp_path, host_deltas):
    """Written in its own layout, then loaded by ComfyUI from the file: the same weights."""
    from adapter_samples import judged_by_host

    tensors = {name + s: t for name in JUDGED for s, t in SAMPLES[name].tensors().items()}
    file = adapters.write(adapters.from_state_dict(tensors), tmp_path / "all.safetensors")
    again = judged_by_host(comfy, tmp_path, {n: SAMPLES[n].weight() for n in JUDGED}, file)
    assert again.keys() == host_deltas.keys()
    assert max(relative(again[key], host_deltas[key]) for key in again) == 0
