"""LyCORIS and PEFT are the oracles: modules trained by them mean here what they mean there."""

import json

import pytest
import torch
from adapter_samples import SAMPLES, relative
from lora_graft import adapters

lycoris = pytest.importorskip("lycoris.modules")
peft = pytest.importorskip("peft")


def shaken(module, seed=0):
    """The module with every parameter drawn at random, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return module


def lycoris_module(kind, conv, **options):
    torch.manual_seed(3)
    layer = torch.nn.Conv2d(48, 64, 3) if conv else torch.nn.Linear(48, 64)
    return layer, shaken(lycoris_class(kind)("x", layer, 1.0, **options))


def lycoris_class(kind):
    from lycoris.modules import boft, diag_oft, glora, ia3, locon, loha, lokr

    return {
        "locon": locon.LoConModule,
        "loha": loha.LohaModule,
        "lokr": lokr.LokrModule,
        "glora": glora.GLoRAModule,
        "oft": diag_oft.DiagOFTModule,
        "boft": boft.ButterflyOFTModule,
        "ia3": ia3.IA3Module,
    }[kind]


@pytest.mark.parametrize("conv", [False, True], ids=["linear", "conv"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("locon", {"lora_dim": 4, "alpha": 2.0}),
        ("locon", {"lora_dim": 4, "alpha": 2.0, "use_tucker": True}),
        ("locon", {"lora_dim": 4, "alpha": 2.0, "rs_lora": True}),
        ("loha", {"lora_dim": 4, "alpha": 2.0}),
        ("loha", {"lora_dim": 4, "alpha": 2.0, "use_tucker": True, "rs_lora": True}),
        ("lokr", {"lora_dim": 100000, "alpha": 2.0}),
        ("lokr", {"lora_dim": 2, "alpha": 1.0, "factor": 4}),
        ("lokr", {"lora_dim": 2, "alpha": 1.0, "factor": 4, "use_tucker": True}),
        ("lokr", {"lora_dim": 2, "alpha": 1.0, "factor": 8, "decompose_both": True}),
        ("glora", {"lora_dim": 4, "alpha": 2.0}),
        ("oft", {"lora_dim": 8, "constraint": 0}),
        ("boft", {"lora_dim": 8}),
        ("boft", {"lora_dim": 8, "rescaled": True}),
        ("ia3", {}),
        ("ia3", {"train_on_input": True}),
    ],
)
def test_lycoris(kind, options, conv):
    layer, theirs = lycoris_module(kind, conv, **options)
    state = theirs.custom_state_dict() if kind not in ("oft", "boft", "ia3") else theirs.state_dict()
    tensors = {f"x.{k}": v.detach().clone() for k, v in state.items()}
    module = adapters.from_state_dict(tensors).modules["x"]
    # LyCORIS trains LoHa and LoKr with get_weight; their get_diff_weight applies the scale a second time.
    made = theirs.get_weight(None) if kind in ("loha", "lokr") else theirs.get_diff_weight()[0]
    expected = made.detach().reshape(layer.weight.shape)
    assert relative(module.delta(layer.weight.detach()), expected) < 1e-6
    assert relative(module.low_rank(layer.weight.detach()).dense(), expected.flatten(1)) < 3e-6


def test_oft_bound_is_the_functional_form():
    """alpha bounds ‖Q‖ as it stands (ComfyUI, lycoris.functional); LyCORIS' module multiplies it by the width first."""
    from lycoris.functional import diag_oft

    sample = SAMPLES["oft bounded"]
    tensors, base = sample.tensors(), sample.weight()
    module = adapters.from_state_dict({"x" + s: t for s, t in tensors.items()}).modules["x"]
    expected = diag_oft.diff_weight(base, tensors[".oft_blocks"], None, constraint=float(tensors[".alpha"]))
    assert relative(module.delta(base), expected) < 1e-6


@pytest.mark.parametrize("by_output", [True, False])
def test_dora_differs_from_lycoris_only_in_the_row_norm(by_output):
    """On the input axis ComfyUI and LyCORIS agree; on the output axis ComfyUI divides by the base's own norm."""
    layer, theirs = lycoris_module("locon", False, lora_dim=4, alpha=2.0, weight_decompose=True, wd_on_out=by_output)
    theirs.dora_scale.data.abs_().add_(1)
    tensors = {f"x.{k}": v.detach() for k, v in theirs.custom_state_dict().items()}
    module = adapters.from_state_dict(tensors).modules["x"]
    base = layer.weight.detach()
    merged = theirs.get_merged_weight()[0].detach()
    if not by_output:
        assert relative(base + module.delta(base), merged) < 1e-6
    else:
        ratio = (base + module.inner.delta(base)).norm(dim=1, keepdim=True) / base.norm(dim=1, keepdim=True)
        assert relative(base + module.delta(base), merged * ratio) < 1e-6


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.c = torch.nn.Linear(20, 24), torch.nn.Conv2d(20, 24, 3)
        self.e = torch.nn.Embedding(24, 20)

    def forward(self, x):
        return self.a(x)


def peft_config(name):
    return {
        "lora": peft.LoraConfig(r=4, lora_alpha=8, target_modules=["a", "c", "e"], init_lora_weights=False),
        "rslora": peft.LoraConfig(
            r=4, lora_alpha=8, use_rslora=True, target_modules=["a", "c"], init_lora_weights=False
        ),
        "patterns": peft.LoraConfig(
            r=4,
            lora_alpha=8,
            rank_pattern={"c": 2},
            alpha_pattern={"a": 1},
            target_modules=["a", "c"],
            init_lora_weights=False,
        ),
        "dora": peft.LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=["a", "c"], init_lora_weights=False),
        "loha": peft.LoHaConfig(r=4, alpha=8, target_modules=["a", "c"], init_weights=False, use_effective_conv2d=True),
        "lokr": peft.LoKrConfig(r=3, alpha=8, target_modules=["a", "c"], init_weights=False),
        "ia3": peft.IA3Config(target_modules=["a", "c"], feedforward_modules=["a"], init_ia3_weights=False),
    }[name]


@pytest.mark.parametrize("name", ["lora", "rslora", "patterns", "dora", "loha", "lokr", "ia3"])
def test_peft(name, tmp_path):
    """save_pretrained -> read -> write elsewhere (without the configuration file) -> read: PEFT's merged weights."""
    torch.manual_seed(0)
    net = Net()
    base = {k: v.detach().clone() for k, v in net.named_parameters()}
    model = peft.get_peft_model(net, peft_config(name))
    for key, parameter in model.named_parameters():
        if "magnitude" in key or "ia3" in key:
            parameter.data.mul_(1 + 0.3 * torch.rand(parameter.shape))
    model.save_pretrained(tmp_path)
    read = adapters.read(tmp_path / "adapter_model.safetensors")
    again = adapters.read(adapters.write(read, tmp_path / "elsewhere.safetensors"))
    merged = dict(model.merge_and_unload().named_parameters())
    assert len(read.modules) == len(peft_config(name).target_modules)
    for adapter in (read, again, read.with_alphas()):
        for key, module in adapter.modules.items():
            weight = key.removeprefix("base_model.model.") + ".weight"
            found = base[weight] + module.delta(base[weight])
            assert relative(found, merged[weight].detach()) < 1e-6


def test_rslora_of_diffusers_metadata():
    """diffusers keeps PEFT's configuration in the file, prefixed by the pipeline's part."""
    sample = SAMPLES["lora peft"].tensors()
    config = {"unet.r": 4, "unet.lora_alpha": 6, "unet.use_rslora": True, "unet.alpha_pattern": {}}
    metadata = {"lora_adapter_metadata": json.dumps(config)}
    tensors = {"unet.x" + s: t for s, t in sample.items()} | {"text_encoder.y" + s: t for s, t in sample.items()}
    adapter = adapters.from_state_dict(tensors, metadata)
    assert adapter.modules["unet.x"].scale() == pytest.approx(3.0)
    assert adapter.modules["text_encoder.y"].scale() == 1.0
    plain = adapter.with_alphas()
    assert float(plain.modules["unet.x"].tensors[".alpha"]) == pytest.approx(12.0)
    assert "lora_adapter_metadata" not in plain.metadata
    assert adapters.to_state_dict(adapter).keys() == tensors.keys()


def test_new_module_is_not_scaled_twice():
    """A module made anew holds its whole scale; the old configuration must not scale it again after saving."""
    sample = SAMPLES["lora peft"].tensors()
    metadata = {"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 16})}
    adapter = adapters.from_state_dict({f"{k}{s}": t for k in "xy" for s, t in sample.items()}, metadata)
    update = adapter.modules["x"].low_rank()
    new = adapters.lora_module("x", update, shape=(24, 20), like=adapter.modules["x"])
    state = adapters.to_state_dict(adapter.with_modules({**adapter.modules, "x": new}))
    again = adapters.from_state_dict(state)
    for key in "xy":
        assert relative(again.modules[key].delta(), adapter.modules[key].delta()) < 1e-6
