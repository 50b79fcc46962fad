"""Fused weights of which an adapter changes only some slices: full height, the right rows, or a refusal."""

from itertools import combinations

import pytest
import torch
from lora_graft.adapters import from_state_dict, write
from lora_graft.errors import AdapterError
from lora_graft.jobs.check import check_fits
from lora_graft.jobs.convert import convert
from lora_graft.jobs.merge.merge import MergeSettings, merge
from lora_graft.jobs.merge.resize import ResizeSettings, resize
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from lora_graft.names import Names, WeightSlice, known_names, known_weights, names_for

LAYOUTS = ("kohya", "comfy", "diffusers", "peft")
D = "diffusion_model."
W = 16  # width of the small models: the names floor cuts fused weights from their shapes


class Base:
    """Names and shapes of a small model; values where they are asked for."""

    fingerprint = ""

    def __init__(self, shapes, architecture):
        self.shapes = {D + name: shape for name, shape in shapes.items()}
        self.names, self.label, self.architecture = names_for(self.shapes), "small", architecture

    def weights(self):
        return self.shapes

    def storage(self, name):
        return "fp32"

    def digest(self, name):
        return f"{id(self)}{name}"

    def load(self, name, rows=None):
        generator = torch.Generator().manual_seed(len(name))
        whole = torch.randn(*self.shapes[name], generator=generator)
        return whole if rows is None else whole[rows[0] : sum(rows)]


def flux(tokens=()):
    block = {
        f"double_blocks.0.{s}_attn.{n}.weight": (m, W) for s in ("img", "txt") for n, m in (("qkv", 3 * W), ("proj", W))
    }
    return (
        block
        | {"single_blocks.0.linear1.weight": (7 * W, W), "single_blocks.0.linear2.weight": (W, 5 * W)}
        | {f"{name}.weight": (W, W) for name in tokens}
    )


BASES = {
    "Flux": Base(flux(), "Flux"),
    "HunyuanVideo": Base(flux(("txt_in.individual_token_refiner.blocks.0.self_attn.proj",)), "HunyuanVideo"),
    "SD3.5 medium": Base(
        {
            f"joint_blocks.{i}.{s}.{a}.qkv.weight": (3 * W, W)
            for i in (0, 1)
            for s, a in (("x_block", "attn"), ("context_block", "attn"), ("x_block", "attn2"))
        },
        "SD3.5 medium",
    ),
    "Z-Image": Base(
        {
            f"{b}.0.attention.{n}.weight": (m, W)
            for b in ("layers", "noise_refiner", "context_refiner")
            for n, m in (("qkv", 3 * W), ("out", W))
        },
        "Z-Image",
    ),
}


def fused_of(base):
    """Every fused weight with its slices, and the keys that name each slice, one per layout that has one."""
    return [(name, sorted(base.names.slices(name))) for name in base.shapes if base.names.slices(name)]


def cases():
    for family, base in BASES.items():
        for name, cuts in fused_of(base):
            for count in range(1, len(cuts) + 1):
                for some in combinations(cuts, count):
                    yield pytest.param(family, name, some, id=f"{family} {name} {[c[0] // W for c in some]}")


def partial(base, name, some, layout="diffusers", dtype=torch.float32):
    """(adapter of these slices with mixed ranks and alphas, float64 ΔW of the whole weight)."""
    generator = torch.Generator().manual_seed(len(some))
    tensors, dense = {}, torch.zeros(base.shapes[name], dtype=torch.float64)
    for number, (start, length) in enumerate(some):
        key = base.names.layout_key(WeightSlice(name, (start, length)), layout)
        rank, alpha = number + 1, (None, 3.0, 1.0, 0.7)[number]
        up = torch.randn(length, rank, generator=generator).to(dtype)
        down = torch.randn(rank, W, generator=generator).to(dtype)
        tensors |= {f"{key}.lora_B.weight": up, f"{key}.lora_A.weight": down}
        if alpha is not None:
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
        dense[start : start + length] = (alpha or rank) / rank * up.double() @ down.double()
    return from_state_dict(tensors, file="some/lora.safetensors"), dense


def dense_of(adapter, names, name, shape):
    """float64 ΔW of the weight from all modules of an adapter, each in its rows; their shapes must be those."""
    whole = torch.zeros(shape, dtype=torch.float64)
    for key, module in adapter.modules.items():
        weight_slice = names.resolve(key)
        assert weight_slice.name == name and module.fits(names.shape(weight_slice)), (key, module.shape)
        start, length = weight_slice.rows or (0, shape[0])
        up, down = module.low_rank()
        whole[start : start + length] += up.double() @ down.double()
    return whole


def close(found, expected, tolerance=2e-6):
    error = float((found - expected).norm() / expected.norm())
    assert found.shape == expected.shape and error < tolerance, error


@pytest.mark.parametrize("family, name, some", list(cases()))
def test_every_subset_of_slices_in_every_layout(family, name, some):
    base = BASES[family]
    adapter, dense = partial(base, name, some)
    for layout in LAYOUTS:
        there = convert(adapter, layout, base)
        close(dense_of(there, base.names, name, dense.shape), dense)
        whole = [m for key, m in there.modules.items() if base.names.resolve(key).rows is None]
        assert not whole or len(there.modules) == 1 and whole[0].shape == base.shapes[name]
        for back in LAYOUTS:
            close(dense_of(convert(there, back, base), base.names, name, dense.shape), dense)


@pytest.mark.parametrize("family, name, some", list(cases()))
def test_merge_and_resize(family, name, some):
    """Merged onto a LoRA for the whole weight, with itself, and cut to its own rank: the same rows."""
    base = BASES[family]
    adapter, dense = partial(base, name, some)
    whole_key = D + name.removeprefix(D).removesuffix(".weight")
    up, down = torch.randn(base.shapes[name][0], 2), torch.randn(2, W)
    whole = from_state_dict({f"{whole_key}.lora_up.weight": up, f"{whole_key}.lora_down.weight": down})
    settings = MergeSettings(method="concat", dtype="fp32")
    both = merge([(whole, 1.0, 1.0), (adapter, 0.5, 0.5)], settings, base=base).adapter
    close(dense_of(both, base.names, name, dense.shape), up.double() @ down.double() + dense / 2)
    kohya = convert(adapter, "kohya", base)
    for one, other in ((adapter, adapter), (adapter, kohya), (kohya, adapter)):
        twice = merge([(one, 0.5, 0.5), (other, 0.5, 0.5)], settings, base=base).adapter
        close(dense_of(twice, base.names, name, dense.shape), dense)
    for one in (adapter, kohya):
        small = resize(one, ResizeSettings("rank", 12), base=base).adapter
        close(dense_of(small, base.names, name, dense.shape), dense)


@pytest.mark.parametrize("family", BASES)
def test_transfer_of_every_subset(family):
    """Onto another base of these sizes, as slices and put together; all subsets of one weight."""
    base, other = BASES[family], Base({k.removeprefix(D): s for k, s in BASES[family].shapes.items()}, family)
    for name, cuts in fused_of(base):
        for count in range(1, len(cuts) + 1):
            for some in combinations(cuts, count):
                adapter, dense = partial(base, name, some)
                for one in (adapter, convert(adapter, "kohya", base)):
                    moved = transfer(one, base, other, TransferSettings(method="copy")).adapter
                    close(dense_of(moved, other.names, name, dense.shape), dense)


# The real sizes, with no base at hand.


def known_partial(architecture, *keys):
    names, tensors = known_names(architecture), {}
    for key in keys:
        shape = names.shape(names.resolve(key))
        tensors |= {f"{key}.lora_B.weight": torch.randn(shape[0], 1), f"{key}.lora_A.weight": torch.randn(1, shape[1])}
    return from_state_dict(tensors, {"modelspec.architecture": architecture}), names


@pytest.mark.parametrize("layout", ["kohya", "comfy"])
@pytest.mark.parametrize(
    "architecture, module, slices, weight, rows",
    [
        ("Flux", "single_transformer_blocks.3.attn", ("to_q", "to_k", "to_v"), "single_blocks.3.linear1", 21504),
        ("Flux", "transformer_blocks.3.attn", ("to_k",), "double_blocks.3.img_attn.qkv", 9216),
        ("SD3", "transformer_blocks.3.attn", ("to_q", "to_k"), "joint_blocks.3.x_block.attn.qkv", 4608),
    ],
)
def test_full_height_without_a_base(tmp_path, architecture, module, slices, weight, rows, layout):
    adapter, names = known_partial(architecture, *(f"transformer.{module}.{s}" for s in slices))
    path = write(convert(adapter, layout), tmp_path / "out.safetensors")
    from lora_graft.adapters import read

    (found,) = read(path).modules.values()
    assert names.resolve(found.key) == WeightSlice(f"{D}{weight}.weight") and found.shape[0] == rows
    width, update = found.shape[1], found.delta()
    order = {"to_q": 0, "to_k": 1, "to_v": 2}
    for key, part in adapter.modules.items():
        start = order[key.rsplit(".", 1)[1]] * width
        torch.testing.assert_close(update[start : start + width], part.delta())
        update[start : start + width] = 0
    assert not update.any()


def test_merge_of_slices_onto_a_whole_without_a_base():
    """The first LoRA has q, k and v of linear1 in one module, the second q alone: the merge is all of linear1."""
    rows, width = known_weights("Flux")[D + "single_blocks.0.linear1.weight"]
    first = from_state_dict(
        {
            D + "single_blocks.0.linear1_qkv.lora_up.weight": torch.randn(3 * width, 1),
            D + "single_blocks.0.linear1_qkv.lora_down.weight": torch.randn(1, width),
        },
        {"ss_base_model_version": "flux1"},
    )
    second, names = known_partial("Flux", "transformer.single_transformer_blocks.0.attn.to_q")
    modules = merge([(first, 1.0, 1.0), (second, 1.0, 1.0)], MergeSettings(method="concat")).adapter.modules
    whole = torch.zeros(rows, width)
    for key, module in modules.items():
        weight_slice = names.resolve(key)
        start, length = weight_slice.rows or (0, rows)
        whole[start : start + length] += module.delta()
    expected = torch.zeros(rows, width)
    (a,), (b,) = first.modules.values(), second.modules.values()
    expected[: 3 * width], expected[:width] = a.delta(), a.delta()[:width] + b.delta()
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-4)


# What cannot be placed is refused.


def test_unknown_height_is_refused(tmp_path):
    name = D + "block.qkv.weight"
    names = Names(
        {
            "transformer.q": WeightSlice(name, (0, 4)),
            D + "block.qkv": WeightSlice(name),
            "lora_unet_block_qkv": WeightSlice(name),
        }
    )
    tensors = {"transformer.q.lora_B.weight": torch.ones(4, 1), "transformer.q.lora_A.weight": torch.ones(1, 4)}
    adapter = from_state_dict(tensors, file="some/lora.safetensors")
    path = tmp_path / "out.safetensors"
    with pytest.raises(AdapterError) as caught:
        write(adapter, path, layout="kohya", names=names)
    for part in ("some/lora.safetensors", "transformer.q", "not known", "--base"):
        assert part in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_slices_of_another_size_are_refused():
    base = BASES["Flux"]
    tensors = {
        "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": torch.ones(W + 1, 1),
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(1, W),
    }
    with pytest.raises(AdapterError, match="img_attn.qkv"):
        convert(from_state_dict(tensors), "kohya", base)
    with pytest.raises(AdapterError, match="Nothing was written"):
        convert(from_state_dict(tensors), "diffusers", base)
    check_fits(from_state_dict(tensors).modules.values(), None)


def test_dora_on_some_slices_is_refused():
    base = BASES["Flux"]
    key = "transformer.transformer_blocks.0.attn.to_q"
    tensors = {
        f"{key}.lora_B.weight": torch.ones(W, 1),
        f"{key}.lora_A.weight": torch.ones(1, W),
        f"{key}.dora_scale": torch.ones(W, 1),
    }
    with pytest.raises(AdapterError, match="only some slices"):
        convert(from_state_dict(tensors), "comfy", base)
