"""What a PEFT folder can hold beside plain factors: DoRA, whole weights, biases, tokens, LoHa, experts one by one."""

import copy
import json

import pytest
import torch
from language_models import (
    DENSE,
    LAYOUTS,
    PREFIX,
    adapted,
    loaded,
    logits,
    peft,
    predicted,
    relative_of,
    save,
    transformers,
)
from lora_graft import adapters
from lora_graft.bases import open_base
from lora_graft.errors import AdapterError
from lora_graft.jobs.convert import convert
from lora_graft.jobs.merge.merge import MergeSettings, merge
from lora_graft.jobs.merge.resize import ResizeSettings, resize
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from safetensors.torch import load_file, save_file

CLOSE = dict(atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A model with biases and a relative, and both as bases."""
    folder = tmp_path_factory.mktemp("qwen2")
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**LAYOUTS["llama"].config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.15, generator=torch.Generator().manual_seed(parameter.numel()))
    other = relative_of(model)
    return model, other, open_base(save(model, folder / "a")), open_base(save(other, folder / "b"))


def saved(folder, model, seed=1, **settings):
    """An adapter of PEFT's, saved and read, and PEFT's logits."""
    made = adapted(model, seed, **{"target_modules": DENSE, "r": 4, "lora_alpha": 6} | settings)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "magnitude" in name or "modules_to_save" in name or (name.endswith("bias") and parameter.requires_grad):
                parameter.mul_(1 + 0.3 * torch.rand(parameter.shape))
            if "trainable_tokens_delta" in name:
                parameter.add_(torch.rand(parameter.shape))
    made.save_pretrained(folder)
    return adapters.read(folder), logits(made)


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())


def test_dora(llama, tmp_path):
    model, other, source, target = llama
    adapter, theirs = saved(tmp_path / "a", model, use_dora=True)
    assert adapter.kinds == {"dora": 14}
    torch.testing.assert_close(predicted(model, adapter), theirs, **CLOSE)
    copied = transfer(adapter, source, target, TransferSettings("copy")).adapter
    written = adapters.write(copied, tmp_path / "copied")
    assert config_of(written)["use_dora"] is True
    torch.testing.assert_close(loaded(other, written), predicted(other, copied), **CLOSE)
    small = resize(adapter, ResizeSettings("rank", 6), base=source).adapter
    written = adapters.write(small, tmp_path / "small")
    assert config_of(written)["use_dora"] is False
    torch.testing.assert_close(loaded(model, written), predicted(model, small), **CLOSE)


def test_dora_beside_plain_modules_is_refused(llama, tmp_path):
    model, *_ = llama
    adapter, _ = saved(tmp_path / "a", model, use_dora=True)
    plain, _ = saved(tmp_path / "b", model, target_modules=["q_proj"])
    mixed = adapter.with_modules({**adapter.modules, **plain.modules})
    with pytest.raises(AdapterError, match=r"Some modules are DoRA and others \(.*q_proj\)"):
        adapters.write(mixed, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_whole_weights_and_biases(llama, tmp_path):
    """They stay through a resize, move by their difference, and are not merged."""
    model, other, source, target = llama
    how = {"modules_to_save": ["lm_head"], "bias": "lora_only", "target_modules": ["q_proj", "down_proj"]}
    adapter, theirs = saved(tmp_path / "a", model, **how)
    assert {key.removeprefix(PREFIX) for key in adapter.extras} == {
        "lm_head.weight",
        "model.layers.0.self_attn.q_proj.base_layer.bias",
        "model.layers.1.self_attn.q_proj.base_layer.bias",
    }
    torch.testing.assert_close(predicted(model, adapter), theirs, **CLOSE)
    result = resize(adapter, ResizeSettings("rank", 2))
    assert any("lm_head.weight is held whole" in note for note in result.report.notes) and not result.report.extras
    written = adapters.write(result.adapter, tmp_path / "small")
    torch.testing.assert_close(loaded(model, written), predicted(model, result.adapter), **CLOSE)

    moved = transfer(adapter, source, target, TransferSettings("copy"))
    head = PREFIX + "lm_head.weight"
    change = adapter.extras[head] - model.lm_head.weight
    torch.testing.assert_close(moved.adapter.extras[head], other.lm_head.weight + change)
    assert any("lm_head.weight is held whole" in note for note in moved.report.notes)
    written = adapters.write(moved.adapter, tmp_path / "moved")
    torch.testing.assert_close(loaded(other, written), predicted(other, moved.adapter), **CLOSE)

    second, _ = saved(tmp_path / "b", model, seed=2, **how)
    with pytest.raises(AdapterError, match="hold lm_head.weight whole, each with other values"):
        merge([(adapter, 1, 1), (second, 1, 1)])
    third, _ = saved(tmp_path / "c", model, seed=3, target_modules=["q_proj"])
    both = merge([(third, 1, 1), (adapter, 0.5, 0.5)], MergeSettings("concat"))
    assert any("lm_head.weight is held whole by 1 of 2 adapters" in note for note in both.report.notes)
    written = adapters.write(both.adapter, tmp_path / "both")
    assert config_of(written)["modules_to_save"] == ["lm_head"] and config_of(written)["bias"] == "lora_only"
    torch.testing.assert_close(loaded(model, written), predicted(model, both.adapter), **CLOSE)


def test_a_head_of_another_size_is_refused_by_name(llama, tmp_path):
    model, _, source, _ = llama
    adapter, _ = saved(tmp_path / "a", model, modules_to_save=["lm_head"], target_modules=["q_proj"])
    larger = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**LAYOUTS["llama"].config | {"vocab_size": 80}))
    target = open_base(save(larger, tmp_path / "larger"))
    with pytest.raises(AdapterError, match="lm_head.weight whole .* in larger 80"):
        transfer(adapter, source, target)


def test_bias_of_the_factors(llama, tmp_path):
    model, other, source, target = llama
    adapter, theirs = saved(tmp_path / "a", model, lora_bias=True, target_modules=["q_proj", "k_proj"])
    assert all(module.bias() is not None for module in adapter.modules.values())
    torch.testing.assert_close(predicted(model, adapter), theirs, **CLOSE)
    for method in ("copy", "rotate"):
        moved = transfer(adapter, source, target, TransferSettings(method)).adapter
        written = adapters.write(moved, tmp_path / method)
        assert config_of(written)["lora_bias"] is True
        torch.testing.assert_close(loaded(other, written), predicted(other, moved), **CLOSE)


def test_new_tokens(llama, tmp_path):
    """Kept where the model stays the same; refused for another embedding."""
    model, _, source, target = llama
    adapter, theirs = saved(tmp_path / "a", model, trainable_token_indices=[3, 5], target_modules=["q_proj"])
    written = adapters.write(convert(adapter, "same"), tmp_path / "again")
    torch.testing.assert_close(loaded(model, written), theirs, **CLOSE)
    written = adapters.write(resize(adapter, ResizeSettings("rank", 4)).adapter, tmp_path / "resized")
    torch.testing.assert_close(loaded(model, written), theirs, **CLOSE)
    with pytest.raises(AdapterError, match="vectors of new tokens.*cannot be carried over"):
        transfer(adapter, source, target)


@pytest.mark.parametrize("kind", ["LoHa", "LoKr"])
def test_other_products(llama, tmp_path, kind):
    model, other, source, target = llama
    config = getattr(peft, kind + "Config")(r=2, alpha=3, target_modules=["q_proj", "down_proj"], init_weights=False)
    torch.manual_seed(1)
    made = peft.get_peft_model(copy.deepcopy(model), config).eval()
    made.save_pretrained(tmp_path / "a")
    adapter = adapters.read(tmp_path / "a")
    torch.testing.assert_close(predicted(model, adapter), logits(made), **CLOSE)
    copied = transfer(adapter, source, target, TransferSettings("copy")).adapter
    written = adapters.write(copied, tmp_path / "copied")
    assert config_of(written)["peft_type"] == kind.upper()
    torch.testing.assert_close(loaded(other, written), predicted(other, copied), **CLOSE)
    for job, result in {
        "resized": resize(adapter, ResizeSettings("rank", 1)).adapter,
        "merged": merge([(adapter, 0.5, 0.5)], MergeSettings("concat")).adapter,
        "stronger": transfer(adapter, source, source, TransferSettings("copy", strength=2)).adapter,
    }.items():
        written = adapters.write(result, tmp_path / job)
        torch.testing.assert_close(loaded(model, written), predicted(model, result), **CLOSE)


def test_a_classifier(tmp_path):
    """The new head of a classifier, which no base has, travels as it is."""
    config = transformers.LlamaConfig(**LAYOUTS["llama"].config, num_labels=3)
    torch.manual_seed(0)
    model = transformers.LlamaForSequenceClassification(config).eval()
    other = relative_of(model)
    made = peft.get_peft_model(
        model, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], init_lora_weights=False)
    )
    made.save_pretrained(tmp_path / "a")
    base = LAYOUTS["llama"].model()
    adapter = adapters.read(tmp_path / "a")
    source, target = open_base(save(base, tmp_path / "m")), open_base(save(relative_of(base), tmp_path / "n"))
    result = transfer(adapter, source, target)
    written = adapters.write(result.adapter, tmp_path / "b")
    assert config_of(written)["task_type"] == "SEQ_CLS"
    head = PREFIX + "score.weight"
    assert torch.equal(load_file(written / "adapter_model.safetensors")[head], adapter.extras[head])
    assert any("score.weight" in note for note in result.report.notes)
    loaded(other, written)


@pytest.mark.parametrize(
    ("name", "layers", "names"),
    [("qwen3 moe", "mlp", ("gate_proj", "up_proj", "down_proj")), ("mixtral", "block_sparse_moe", ("w1", "w3", "w2"))],
)
def test_experts_one_by_one(tmp_path, name, layers, names):
    """An adapter from before experts were fused: PEFT fuses it on loading, also what the jobs make of it."""
    layout = LAYOUTS[name]
    model = layout.model()
    generator, tensors = torch.Generator().manual_seed(4), {}
    hidden = layout.config["hidden_size"]
    inner = layout.config.get("moe_intermediate_size", layout.config["intermediate_size"])
    shapes = dict(zip(names, ((inner, hidden), (inner, hidden), (hidden, inner)), strict=True))
    for layer in range(2):
        for expert in range(4):
            for what, (m, n) in shapes.items():
                key = f"{PREFIX}model.layers.{layer}.{layers}.experts.{expert}.{what}"
                tensors[key + ".lora_A.weight"] = torch.randn(4, n, generator=generator) * 0.1
                tensors[key + ".lora_B.weight"] = torch.randn(m, 4, generator=generator) * 0.1
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=list(names), task_type="CAUSAL_LM")
    config.save_pretrained(tmp_path / "a")
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors")
    adapter = adapters.read(tmp_path / "a")
    theirs = loaded(model, tmp_path / "a")
    torch.testing.assert_close(theirs, predicted(model, adapter), **CLOSE)
    peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "a").save_pretrained(tmp_path / "fused")
    torch.testing.assert_close(theirs, predicted(model, adapters.read(tmp_path / "fused")), **CLOSE)
    other = relative_of(model)
    source, target = open_base(save(model, tmp_path / "m")), open_base(save(other, tmp_path / "n"))
    for key in adapter.modules:
        assert source.names.resolve(key) is not None, key
    mixed = [(adapter, 0.7, 0.7), (adapter, 0.2, 0.2)]
    for job, result, base in [
        ("energy", resize(adapter, ResizeSettings("energy", 0.8)).adapter, model),
        ("merge", merge(mixed, MergeSettings("lego", rank="auto")).adapter, model),
        ("rotate", transfer(adapter, source, target, TransferSettings("rotate")).adapter, other),
    ]:
        written = adapters.write(result, tmp_path / job)
        torch.testing.assert_close(loaded(base, written), predicted(base, result), **CLOSE)


def test_tied_head_and_embedding(tmp_path):
    """PEFT shares the factors of both; a resize gives each its own."""
    model = LAYOUTS["qwen2"].model()
    adapter, theirs = saved(tmp_path / "a", model, target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True)
    assert len(adapter.modules) == 2
    torch.testing.assert_close(predicted(model, adapter), theirs, **CLOSE)
    small = resize(adapter, ResizeSettings("rank", 2)).adapter
    written = adapters.write(small, tmp_path / "small")
    torch.testing.assert_close(loaded(model, written), predicted(model, small), **CLOSE)


@pytest.mark.parametrize("fill", ["none", "nearest"])
def test_a_deeper_target(llama, tmp_path, fill):
    """Layers that receive nothing have no LoRA in PEFT either; those that are filled have theirs."""
    model, _, source, _ = llama
    config = transformers.Qwen2Config(**LAYOUTS["llama"].config | {"num_hidden_layers": 3})
    deeper = relative_of(transformers.Qwen2ForCausalLM(config).eval(), 0.5)
    target = open_base(save(deeper, tmp_path / "deeper"))
    adapter, _ = saved(tmp_path / "a", model, target_modules="all-linear")
    result = transfer(adapter, source, target, TransferSettings("copy", fill=fill))
    assert len(result.adapter.modules) == (21 if fill == "nearest" else 14)
    written = adapters.write(result.adapter, tmp_path / "out")
    torch.testing.assert_close(loaded(deeper, written), predicted(deeper, result.adapter), **CLOSE)


def test_fused_experts_beside_another_adapter(tmp_path):
    """One adapter with fused experts and one with dropout and without: PEFT loads their merge, in either order."""
    layout = LAYOUTS["qwen3 moe"]
    model = layout.model()
    one, _ = saved(tmp_path / "a", model, **layout.lora)
    two, _ = saved(tmp_path / "b", model, seed=2, target_modules=["q_proj"], lora_dropout=0.1)
    for name, pair in {"one two": (one, two), "two one": (two, one)}.items():
        result = merge([(pair[0], 1, 1), (pair[1], 0.5, 0.5)], MergeSettings("concat")).adapter
        written = adapters.write(result, tmp_path / name)
        torch.testing.assert_close(loaded(model, written), predicted(model, result), **CLOSE)
    with pytest.raises(AdapterError, match="fused experts can only be written as a PEFT folder"):
        adapters.write(one, tmp_path / "x.safetensors")


def test_ia3_is_read_and_not_written(llama, tmp_path):
    model, *_ = llama
    config = peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], init_ia3_weights=False)
    peft.get_peft_model(copy.deepcopy(model), config).save_pretrained(tmp_path / "a")
    adapter = adapters.read(tmp_path / "a")
    assert adapter.kinds == {"ia3": 2}
    with pytest.raises(AdapterError, match="no form for a ia3 module"):
        adapters.write(adapter, tmp_path / "b")
    assert not (tmp_path / "b").exists()
