"""Every layout of language models: PEFT's ΔW is ours, and what each job writes acts in PEFT as we predict."""

import json
from functools import lru_cache

import pytest
import torch
from language_models import LAYOUTS, PREFIX, adapted, loaded, logits, predicted, relative_of, save, weight_of
from lora_graft import adapters
from lora_graft.bases import open_base
from lora_graft.jobs.convert import convert
from lora_graft.jobs.merge.merge import MergeSettings, merge
from lora_graft.jobs.merge.resize import ResizeSettings, resize
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer

CLOSE = dict(atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """For a layout: its model and a relative of it in folders, and two adapters of different rank for the first."""

    @lru_cache
    def make(name):
        layout, folder = LAYOUTS[name], tmp_path_factory.mktemp(name.replace(" ", "_"))
        model = layout.model()
        other = relative_of(model)
        one = adapted(model, 1, **layout.lora)
        two = adapted(model, 2, **layout.lora | {"r": 3, "lora_alpha": 5})
        for which, peft_model in (("one", one), ("two", two)):
            peft_model.save_pretrained(folder / which, save_embedding_layers=False)
        return model, other, save(model, folder / "model"), save(other, folder / "other"), folder, one

    return make


@pytest.mark.parametrize("name", LAYOUTS)
def test_update_is_pefts(made, name):
    """ΔW of every module equals PEFT's own, on weights that the base in the folder has too."""
    model, _, base_folder, _, folder, peft_model = made(name)
    adapter, base = adapters.read(folder / "one"), open_base(base_folder)
    assert base.architecture == "language model" and not adapter.extras
    layers = {n: m for n, m in peft_model.named_modules() if hasattr(m, "get_delta_weight")}
    parameters = dict(model.named_parameters())
    seen = set()
    for key, module in adapter.modules.items():
        layer, number, what = key, None, ""
        if ".experts." in key:
            layer, _, rest = key.partition(".experts.")
            layer += ".experts"
            number, _, what = rest.partition(".")
            if layers[layer].parameter_name != what:
                layer += ".base_layer"
            assert layers[layer].parameter_name == what
        theirs = layers[layer].get_delta_weight("default").detach()
        theirs = theirs if number is None else theirs[int(number)]
        seen.add(layer)
        weight, transposed = weight_of(model, parameters, key.removeprefix(PREFIX))
        stored = weight.T if transposed else weight
        torch.testing.assert_close(module.delta(), theirs.T if transposed else theirs, atol=1e-6, rtol=1e-5)
        weight_slice = base.names.resolve(key)
        assert weight_slice is not None, key
        assert torch.equal(base.load(weight_slice.name, weight_slice.rows), stored)
    assert seen == set(layers)


def jobs(adapter, second, source, target):
    """What every job makes of an adapter: (name, adapter, whether it is for the target)."""
    yield "convert", convert(adapter, "same"), False
    yield "resize", resize(adapter, ResizeSettings("rank", 2)).adapter, False
    yield "resize by energy", resize(adapter, ResizeSettings("energy", 0.8)).adapter, False
    pair = [(adapter, 0.7, 0.7), (second, -0.5, -0.5)]
    yield "merge lego", merge(pair, MergeSettings("lego")).adapter, False
    yield "merge concat", merge(pair, MergeSettings("concat", rank="sum"), base=source).adapter, False
    yield "transfer copy", transfer(adapter, source, target, TransferSettings("copy", strength=0.5)).adapter, True
    yield "transfer rotate", transfer(adapter, source, target, TransferSettings("rotate")).adapter, True


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_jobs_write(made, name, tmp_path):
    """PeftModel.from_pretrained loads each folder, and its logits are those of the base with our ΔW added."""
    model, other, base_folder, other_folder, folder, peft_model = made(name)
    source, target = open_base(base_folder), open_base(other_folder)
    adapter = adapters.read(folder / "one")
    torch.testing.assert_close(predicted(model, adapter), logits(peft_model), **CLOSE)
    for job, result, moved in jobs(adapter, adapters.read(folder / "two"), source, target):
        written = adapters.write(result, tmp_path / job)
        base = other if moved else model
        found, expected = loaded(base, written), predicted(base, result)
        torch.testing.assert_close(found, expected, **CLOSE, msg=lambda text, job=job: f"{job}: {text}")
        assert float((found - logits(base)).abs().max()) > 0.01, job
        again = adapters.read(written)
        torch.testing.assert_close(predicted(base, again), expected, **CLOSE)
        config = json.loads((written / "adapter_config.json").read_text())
        if moved:
            assert config["base_model_name_or_path"] == str(other_folder)
