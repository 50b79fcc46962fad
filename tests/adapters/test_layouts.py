"""Layouts: converted files hold the same update for every weight, and diffusers agrees with the conversion."""

import pytest
import torch
from adapter_samples import SAMPLES, judged_by_host, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_graft import adapters
from lora_graft.adapters import rows
from lora_graft.adapters.layouts import layout_of, lora_module
from lora_graft.errors import AdapterError
from lora_graft.kernels.lowrank import LowRank, from_dense
from lora_graft.names import names_for

H, R = 16, 3
SPELLINGS = {"kohya": (".lora_up.weight", ".lora_down.weight"), "peft": (".lora_B.weight", ".lora_A.weight")}


def flux_names():
    """Names of a Flux-shaped model, one block of each sort, width 16."""
    shapes = {
        "img_in": (H, 4),
        "final_layer.adaLN_modulation.1": (2 * H, H),
        "final_layer.linear": (4, H),
        "double_blocks.0.img_attn.qkv": (3 * H, H),
        "double_blocks.0.txt_attn.qkv": (3 * H, H),
        "double_blocks.0.img_attn.proj": (H, H),
        "double_blocks.0.img_mlp.0": (4 * H, H),
        "single_blocks.0.linear1": (7 * H, H),
        "single_blocks.0.linear2": (H, 5 * H),
    }
    return names_for({f"diffusion_model.{k}.weight": s for k, s in shapes.items()}), shapes


def unet_names():
    """Names of a UNet with one resnet and one attention at each depth."""
    shapes = {
        "input_blocks.0.0": (H, 4, 3, 3),
        "input_blocks.1.0.in_layers.2": (H, H, 3, 3),
        "input_blocks.1.0.out_layers.3": (H, H, 3, 3),
    }
    for block in ("input_blocks.1.1", "middle_block.1"):
        shapes |= {
            f"{block}.proj_in": (H, H, 1, 1),
            f"{block}.transformer_blocks.0.attn1.to_q": (H, H),
            f"{block}.transformer_blocks.0.attn1.to_out.0": (H, H),
            f"{block}.transformer_blocks.0.attn2.to_k": (H, 768),
            f"{block}.transformer_blocks.0.ff.net.0.proj": (8 * H, H),
        }
    full = {f"diffusion_model.{k}.weight": s for k, s in shapes.items()}
    full["clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"] = (64, H)
    full["clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"] = (H, H)
    return names_for(full), full


def adapter_for(shapes, seed=0, alpha=1.5, dtype=torch.float32, spelling="kohya"):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, (m, n, *kernel) in shapes.items():
        up, down = SPELLINGS[spelling]
        tensors[key + up] = torch.randn(m, R, *[1] * len(kernel), generator=generator).to(dtype)
        tensors[key + down] = torch.randn(R, n, *kernel, generator=generator).to(dtype)
        if alpha is not None:
            tensors[key + ".alpha"] = torch.tensor(alpha)
    return adapters.from_state_dict(tensors)


def total(adapter, names, sizes):
    """Canonical weight -> ΔW summed over the modules that change it."""
    whole = {}
    for key, module in adapter.modules.items():
        weight_slice = names.resolve(key)
        delta = module.delta().flatten(1)
        if weight_slice.swap:
            delta = delta.roll(delta.shape[0] // 2, 0)
        full = whole.setdefault(weight_slice.name, torch.zeros(sizes[weight_slice.name][0], delta.shape[1]))
        start, length = weight_slice.rows or (0, full.shape[0])
        full[start : start + length] += delta
    return whole


def flux_adapter(dtype=torch.float32):
    names, shapes = flux_names()
    keys = {f"lora_unet_{k.replace('.', '_')}": s for k, s in shapes.items()}
    sizes = {f"diffusion_model.{k}.weight": s for k, s in shapes.items()}
    return names, sizes, adapter_for(keys, dtype=dtype)


def unet_adapter():
    names, full = unet_names()
    weight_slices = {weight_slice.name: weight_slice for weight_slice in names.aliases.values()}
    keys = {names.layout_key(weight_slices[name], "kohya"): shape for name, shape in full.items()}
    assert None not in keys
    return names, full, adapter_for(keys)


@pytest.mark.parametrize("make", [flux_adapter, unet_adapter], ids=["flux", "unet"])
@pytest.mark.parametrize("layout", ["kohya", "comfy", "diffusers", "peft"])
def test_there_and_back(make, layout):
    names, sizes, adapter = make()
    expected = total(adapter, names, sizes)
    state = adapters.to_state_dict(adapter, layout=layout, names=names)
    there = adapters.from_state_dict(state)
    assert there.layout in (layout, "diffusers" if layout == "peft" else layout)
    assert all(("alpha" in "".join(m.tensors)) == (layout in ("kohya", "comfy")) for m in there.modules.values())
    found = total(there, names, sizes)
    assert found.keys() == expected.keys()
    assert max(relative(found[k], expected[k]) for k in found) < 1e-6
    back = adapters.from_state_dict(adapters.to_state_dict(there, layout="kohya", names=names))
    assert back.modules.keys() == adapter.modules.keys()
    found = total(back, names, sizes)
    assert max(relative(found[k], expected[k]) for k in found) < 1e-6


def test_comfy_to_kohya_keeps_every_bit():
    names, _, adapter = flux_adapter(torch.float16)
    there = adapters.from_state_dict(adapters.to_state_dict(adapter, layout="comfy", names=names))
    back = adapters.to_state_dict(there, layout="kohya", names=names)
    first = adapters.to_state_dict(adapter)
    assert back.keys() == first.keys() and all(torch.equal(back[k], first[k]) for k in first)


def test_fused_weights_split_and_fuse():
    """Flux: q, k, v of diffusers become block-diagonal factors whose ranks add up, and come out again unchanged."""
    names, shapes = flux_names()
    keys = {f"transformer.transformer_blocks.0.attn.{n}": (H, H) for n in ("to_q", "to_k", "to_v")}
    adapter = adapter_for(keys, alpha=None, spelling="peft")
    fused = adapters.from_state_dict(adapters.to_state_dict(adapter, layout="kohya", names=names))
    (module,) = fused.modules.values()
    assert module.key == "lora_unet_double_blocks_0_img_attn_qkv" and module.rank == 3 * R and module.scale() == 1.0
    assert torch.equal(module.delta(), torch.cat([m.delta() for m in adapter.modules.values()]))
    back = adapters.from_state_dict(adapters.to_state_dict(fused, layout="diffusers", names=names))
    for key, module in adapter.modules.items():
        assert back.modules[key].rank == R
        assert all(torch.equal(back.modules[key].tensors[s], t) for s, t in module.tensors.items())


def test_missing_slices_stay_unchanged():
    names, _ = flux_names()
    block = "transformer.single_transformer_blocks.0"
    keys = {f"{block}.attn.to_v": (H, H), f"{block}.proj_mlp": (4 * H, H)}
    adapter = adapter_for(keys, alpha=None, spelling="peft")
    (fused,) = adapters.from_state_dict(adapters.to_state_dict(adapter, layout="comfy", names=names)).modules.values()
    v, mlp = (m.delta() for m in adapter.modules.values())
    assert torch.equal(fused.delta(), torch.cat([torch.zeros(2 * H, H), v, mlp]))
    back = adapters.to_state_dict(
        adapters.from_state_dict({fused.key + s: t for s, t in fused.tensors.items()}), layout="diffusers", names=names
    )
    assert {k.partition(".lora_")[0] for k in back} == set(keys)


def four(values):
    return st.lists(values, min_size=4, max_size=4)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    ranks=four(st.integers(1, 4)),
    alphas=four(st.sampled_from([0.5, 1.0, 3.0])),
    width=st.integers(1, 7),
    present=four(st.booleans()),
    seed=st.integers(0, 99),
)
def test_fuse_then_take(lengths, ranks, alphas, width, present, seed):
    generator = torch.Generator().manual_seed(seed)
    parts, expected, start = [], [], 0
    for i, length in enumerate(lengths):
        tensors = {
            "m.lora_up.weight": torch.randn(length, ranks[i], generator=generator),
            "m.lora_down.weight": torch.randn(ranks[i], width, generator=generator),
            "m.alpha": torch.tensor(alphas[i]),
        }
        module = adapters.from_state_dict(tensors).modules["m"]
        if present[i] or i == 0:
            parts.append((module, (start, length)))
        expected.append(module.delta() if present[i] or i == 0 else torch.zeros(length, width))
        start += length
    whole = rows.fuse(parts, start, "w")
    assert relative(whole.delta(), torch.cat(expected)) < 1e-6
    for module, (begin, length) in parts:
        part = rows.take(whole, begin, length)
        assert part.rank == module.rank and relative(part.delta(), module.delta()) < 1e-6


@pytest.mark.parametrize(
    "name",
    ["loha", "loha tucker", "lokr w2 factored", "lokr tucker", "locon tucker", "lora diffusers", "lora with bias"],
)
def test_plain_is_the_same_update(name):
    module = adapters.from_state_dict({"m" + s: t for s, t in SAMPLES[name].tensors().items()}).modules["m"]
    plain = rows.plain(module)
    assert plain.kind == "lora" and plain.shape == module.shape and ".alpha" in plain.tensors
    assert relative(plain.delta(), module.delta()) < 1e-6
    bias = module.bias()
    assert bias is None or torch.equal(plain.bias(), bias)


@pytest.mark.parametrize("name", list(SAMPLES))
@pytest.mark.parametrize("layout", ["kohya", "comfy", "diffusers", "peft"])
def test_every_format_is_converted_exactly_or_refused(name, layout):
    """No format changes its update on the way to another layout; what a layout cannot say is refused by name."""
    sample = SAMPLES[name]
    names = names_for({"diffusion_model.blocks.0.proj.weight": sample.shape})
    key = "transformer.blocks.0.proj" if "peft" in name else "diffusion_model.blocks.0.proj"
    adapter = adapters.from_state_dict({key + s: t for s, t in sample.tensors().items()})
    module, base = adapter.modules[key], sample.weight()
    try:
        again = adapters.from_state_dict(adapters.to_state_dict(adapter, layout=layout, names=names))
    except AdapterError as refusal:
        assert refusal.key
        able = name.startswith(("lora", "loha", "lokr", "locon")) and "reshaping" not in name
        assert not able, refusal
        return
    (found,) = again.modules.values()
    assert layout_of([found.key]) == layout
    assert relative(found.delta(base), module.delta(base)) < 1e-6
    bias = module.bias()
    assert (found.bias() is None) == (bias is None) and (bias is None or torch.allclose(found.bias(), bias))


@pytest.mark.parametrize("kind", ["loha", "lokr"])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_products_of_a_convolution_get_its_kernel(kind, kernel):
    """LyCORIS stores their factors flat; diffusers' layers have a convolution's shape."""
    name, size = "diffusion_model.input_blocks.1.0.in_layers.2.weight", kernel[0] * kernel[1]
    names = names_for({"diffusion_model.input_blocks.1.0.in_layers.0.weight": (H,), name: (H, H, *kernel)})
    key = "lora_unet_input_blocks_1_0_in_layers_2"
    if kind == "loha":
        tensors = {
            f".hada_w{i}_{s}": torch.randn(H, R) if s == "a" else torch.randn(R, H * size) for i in "12" for s in "ab"
        }
    else:
        tensors = {
            ".lokr_w1": torch.randn(2, 2),
            ".lokr_w2_a": torch.randn(H // 2, R),
            ".lokr_w2_b": torch.randn(R, H * size // 2),
        }
    adapter = adapters.from_state_dict({key + s: t for s, t in tensors.items()})
    state = adapters.to_state_dict(adapter, layout="diffusers", names=names)
    (down,) = (t for k, t in state.items() if k.endswith("lora_A.weight"))
    (up,) = (t for k, t in state.items() if k.endswith("lora_B.weight"))
    assert down.shape[1:] == (H, *kernel) and up.shape[2:] == (1, 1)
    (module,) = adapter.modules.values()
    torch.testing.assert_close(up.flatten(1) @ down.flatten(1), module.delta().flatten(1))


def test_refusals_name_the_module():
    names, shapes = flux_names()
    stray = adapters.from_state_dict({"lora_unet_nowhere" + s: t for s, t in SAMPLES["lora"].tensors().items()})
    with pytest.raises(AdapterError, match="no place in this base.*lora_unet_nowhere"):
        adapters.to_state_dict(stray, layout="comfy", names=names)
    scale = {".dora_scale": torch.ones(1, H)}
    keys = {"lora_unet_double_blocks_0_img_attn_qkv": (3 * H, H)}
    plain = adapter_for(keys)
    (key,) = keys
    dora = adapters.from_state_dict({**adapters.to_state_dict(plain), **{key + s: t for s, t in scale.items()}})
    with pytest.raises(AdapterError, match="magnitudes|Magnitudes"):
        adapters.to_state_dict(dora, layout="diffusers", names=names)


def test_dora_by_output_survives_fusing():
    """Row-wise magnitudes belong to rows: slices keep theirs."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for i in range(2):
        tensors |= {
            f"{i}.lora_up.weight": torch.randn(4, 2, generator=generator),
            f"{i}.alpha": torch.tensor(1.0),
            f"{i}.lora_down.weight": torch.randn(2, 6, generator=generator),
            f"{i}.dora_scale": torch.rand(4, 1, generator=generator),
        }
    modules = adapters.from_state_dict(tensors).modules
    base = torch.randn(8, 6, generator=generator)
    whole = rows.fuse([(modules["0"], (0, 4)), (modules["1"], (4, 4))], 8, "w")
    expected = torch.cat([modules["0"].delta(base[:4]), modules["1"].delta(base[4:])])
    assert relative(whole.delta(base), expected) < 1e-6
    assert relative(rows.take(whole, 4, 4).delta(base[4:]), modules["1"].delta(base[4:])) < 1e-6


def test_diffusers_converts_flux_alike():
    """diffusers' own converter from kohya's Flux layout gives the same deltas under the same names."""
    conversion = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    names, shapes = flux_names()
    keys = {f"lora_unet_{k.replace('.', '_')}": s for k, s in shapes.items() if k.startswith(("double", "single"))}
    # Its converter cuts qkv into the real model's widths only when asked for dims; equal thirds need none.
    keys = {k: s for k, s in keys.items() if "linear1" not in k}
    adapter = adapter_for(keys, alpha=1.5)
    theirs = conversion._convert_kohya_flux_lora_to_diffusers(dict(adapters.to_state_dict(adapter)))
    ours = adapters.from_state_dict(adapters.to_state_dict(adapter, layout="diffusers", names=names))
    them = adapters.from_state_dict(theirs)
    assert them.modules.keys() == ours.modules.keys()
    for key, module in them.modules.items():
        assert relative(ours.modules[key].delta(), module.delta()) < 1e-6


def test_diffusers_unet_loads_what_was_written(tmp_path):
    """A real UNet2DConditionModel with the written file: its merged weights move by our ΔW."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(H, H),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    chosen = {
        f"{block}.attn1.to_q": (H, H),
        f"{block}.attn2.to_k": (H, 8),
        "down_blocks.0.resnets.0.conv1": (H, H, 3, 3),
    }
    kohya = {f"lora_unet_{k.replace('.', '_')}": s for k, s in chosen.items()}

    class Renaming:
        """Names of this UNet: kohya's flat keys and diffusers' dotted ones."""

        shapes: dict = {}

        from lora_graft.names import WeightSlice

        def resolve(self, key):
            return next((self.WeightSlice(k) for k in chosen if key == f"lora_unet_{k.replace('.', '_')}"), None)

        def layout_key(self, weight_slice, layout):
            return None if weight_slice.swap else f"unet.{weight_slice.name}"

        def slices(self, name):
            return set()

    adapter = adapter_for(kohya)
    state = adapters.to_state_dict(adapter, layout="diffusers", names=Renaming())
    before = {k: unet.get_submodule(k).weight.detach().clone() for k in chosen}
    unet.load_lora_adapter(dict(state), prefix="unet")
    unet.fuse_lora()
    for key in chosen:
        after = unet.get_submodule(key).base_layer.weight.detach()
        module = adapter.modules[f"lora_unet_{key.replace('.', '_')}"]
        assert relative(after - before[key], module.delta(before[key])) < 2e-6


@pytest.mark.host
@pytest.mark.parametrize("layout", ["kohya", "comfy", "diffusers"])
def test_host_reads_every_layout(comfy, tmp_path, layout):
    """ComfyUI's loader finds the same ΔW under each layout's suffixes."""
    judged = [
        n
        for n, s in SAMPLES.items()
        if s.host and n.startswith(("lora", "lokr", "loha", "locon")) and "reshaping" not in n and "bias" not in n
    ]
    weights, tensors, spots = {}, {}, {}
    for i, name in enumerate(judged):
        weights[f"diffusion_model.blocks.{i}.proj.weight"] = SAMPLES[name].shape
        tensors |= {f"diffusion_model.blocks.{i}.proj{s}": t for s, t in SAMPLES[name].tensors().items()}
    names = names_for(weights)
    adapter = adapters.from_state_dict(tensors)
    state = adapters.to_state_dict(adapter, layout=layout, names=names)
    for key in adapters.from_state_dict(state).modules:
        name = judged[int("".join(c for c in key if c.isdigit()))]
        spots[key] = SAMPLES[name]
    deltas = judged_by_host(comfy, tmp_path, {k: s.weight() for k, s in spots.items()}, state)
    for key, sample in spots.items():
        expected = adapters.from_state_dict({"m" + s: t for s, t in sample.tensors().items()}).modules["m"].delta()
        assert relative(deltas[key + ".weight"].reshape(expected.shape), expected) < 1e-6


# ---- new modules


@pytest.mark.parametrize(
    ("key", "like", "suffixes"),
    [
        ("lora_unet_x", None, {".lora_up.weight", ".lora_down.weight", ".alpha"}),
        ("diffusion_model.x", None, {".lora_up.weight", ".lora_down.weight", ".alpha"}),
        ("unet.x", None, {".lora_A.weight", ".lora_B.weight"}),
        ("base_model.model.x", None, {".lora_A.weight", ".lora_B.weight"}),
        ("unet.x", "lora diffusers", {".lora.up.weight", ".lora.down.weight"}),
        ("x", "dora by output", {".lora_up.weight", ".lora_down.weight", ".alpha"}),
        ("lora_unet_x", "loha", {".lora_up.weight", ".lora_down.weight", ".alpha"}),
    ],
)
@pytest.mark.parametrize("shape", [(24, 20), (24, 20, 3, 3)])
def test_lora_module(key, like, suffixes, shape):
    generator = torch.Generator().manual_seed(0)
    columns = 20 * 9 ** (len(shape) // 4)
    update = LowRank(torch.randn(24, 5, generator=generator) * 1e-4, torch.randn(5, columns, generator=generator))
    neighbour = None
    if like:
        tensors = {key + s: t for s, t in SAMPLES[like].tensors(dtype=torch.float16).items()}
        neighbour = adapters.from_state_dict(tensors).modules[key]
    module = lora_module(key, update, shape=shape, like=neighbour)
    assert set(module.tensors) == suffixes and module.shape == shape and module.rank == 5
    again = adapters.from_state_dict({key + s: t for s, t in module.tensors.items()}).modules[key]
    assert relative(again.low_rank().dense(), update.dense()) < (2e-3 if like else 1e-6)
    up = next(t for s, t in module.tensors.items() if "up" in s or "_B" in s)
    assert up.dtype == (torch.float16 if like else torch.float32)
    with pytest.raises(AdapterError, match="does not fit"):
        lora_module(key, update, shape=(25, 20))


def test_half_precision_keeps_tiny_updates():
    """Factors of very different size are balanced before fp16, so that neither falls into its subnormal range."""
    update = LowRank(torch.full((6, 2), 3e-7), torch.full((2, 6), 20.0))
    module = lora_module("unet.x", update, shape=(6, 6), dtype="fp16")
    assert relative(module.low_rank().dense(), update.dense()) < 1e-3


@settings(max_examples=30, deadline=None)
@given(
    strength=st.floats(-3, 3),
    name=st.sampled_from(
        [n for n in SAMPLES if n.split()[0] in ("lora", "locon", "loha", "lokr", "glora", "diff", "ia3", "norm")]
    ),
)
def test_scaled(strength, name):
    sample = SAMPLES[name]
    module = adapters.from_state_dict({"m" + s: t for s, t in sample.tensors().items()}).modules["m"]
    expected = module.delta(sample.weight()) * strength
    error = (module.scaled(strength).delta(sample.weight()) - expected).abs().max()
    rounding = torch.finfo(torch.float32).eps * float(sample.weight().abs().max())  # of IA³'s factors, which are near 1
    assert float(error) <= 1e-5 * max(float(expected.abs().max()), 1e-6) + rounding
    if module.bias() is not None:
        assert torch.allclose(module.scaled(strength).bias(), module.bias() * strength, atol=1e-7)


@pytest.mark.parametrize("name", ["oft", "boft", "dora by output", "set"])
def test_what_cannot_be_scaled_says_so(name):
    module = adapters.from_state_dict({"m" + s: t for s, t in SAMPLES[name].tensors().items()}).modules["m"]
    with pytest.raises(AdapterError, match="cannot be scaled"):
        module.scaled(0.5)


def test_from_dense_round_trip_of_a_full_difference():
    sample = SAMPLES["diff"]
    module = adapters.from_state_dict({"m" + s: t for s, t in sample.tensors().items()}).modules["m"]
    update = module.low_rank()
    assert relative(update.dense(), module.delta()) < 1e-6 and update.rank == from_dense(module.delta())[0].rank == 20
