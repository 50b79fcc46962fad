"""Block structures of real models. SD names as in the original checkpoints; depths from ComfyUI's model list."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_graft.kernels.matching import Item, match
from lora_graft.kernels.similarity import phi
from lora_graft.kernels.spectral import subspace

from .weights import weight_like

RES, DEEP = 320, 1280


def modules(block, shapes):
    return [Item(f"{block}.{role}", role, block, shape) for role, shape in shapes.items()]


def residual(block, width):
    return modules(block, {"in_layers.2": (width, width, 3, 3), "emb_layers.1": (width, 1280)})


def transformer(block, width, depth):
    found = modules(block, {"proj_in": (width, width), "proj_out": (width, width)})
    for i in range(depth):
        roles = {
            "attn1.to_q": (width, width),
            "attn1.to_k": (width, width),
            "attn2.to_k": (width, 2048),
            "ff.net.0.proj": (8 * width, width),
        }
        found += modules(f"{block}.transformer_blocks.{i}", roles)
    return found


def unet(down, middle, up):
    """down, up: number of the block -> (width, transformer depth); middle: depth, or None without middle block."""
    found = []
    for side, blocks in (("input_blocks", down), ("output_blocks", up)):
        for i, (width, depth) in blocks.items():
            found += residual(f"{side}.{i}.0", width)
            found += transformer(f"{side}.{i}.1", width, depth) if depth else []
    if middle is not None:
        found += residual("middle_block.0", DEEP)
        if middle:
            found += transformer("middle_block.1", DEEP, middle) + residual("middle_block.2", DEEP)
    return [item._replace(position=i) for i, item in enumerate(found)]


def sdxl_like(deep, shallow, middle, last=None, shallow_up=None):
    a, b, c = (deep, deep, last or deep)
    d, e, f = shallow_up or (shallow,) * 3
    return unet(
        {1: (320, 0), 2: (320, 0), 4: (640, shallow), 5: (640, shallow), 7: (1280, deep), 8: (1280, deep)},
        middle,
        {
            0: (1280, a),
            1: (1280, b),
            2: (1280, c),
            3: (640, d),
            4: (640, e),
            5: (640, f),
            6: (320, 0),
            7: (320, 0),
            8: (320, 0),
        },
    )


SDXL = sdxl_like(10, 2, 10)
SSD_1B = sdxl_like(4, 2, 0, last=10, shallow_up=(2, 1, 1))
VEGA = sdxl_like(2, 1, 0, shallow_up=(1, 1, 1))
KOALA = unet(
    {1: (320, 0), 3: (640, 2), 5: (1280, 5)},
    None,
    {0: (1280, 5), 1: (1280, 5), 2: (640, 2), 3: (640, 2), 4: (320, 0), 5: (320, 0)},
)


def by_name(items):
    return {item.name: item for item in items}


def assert_sound(pairs, source, target):
    """Every pair fits; none twice; blocks stay whole; order is kept in every list of blocks."""
    source, target = by_name(source), by_name(target)
    used = [name for name in pairs.values() if name is not None]
    assert list(pairs) == list(source)
    assert len(set(used)) == len(used)
    blocks = {}
    for name, other in pairs.items():
        if other is not None:
            a, b = source[name], target[other]
            assert (a.role, a.shape) == (b.role, b.shape)
            assert blocks.setdefault(a.block, b.block) == b.block
    assert len(set(blocks.values())) == len(blocks)

    def order(block):
        return [int(part) if part.isdigit() else part for part in block.split(".")]

    for side in ("input_blocks", "output_blocks"):
        chain = sorted((order(a), order(b)) for a, b in blocks.items() if a.startswith(side))
        assert [b for _, b in chain] == sorted(b for _, b in chain)


def block_map(pairs):
    return {a.rsplit(".attn1", 1)[0]: b.rsplit(".attn1", 1)[0] for a, b in pairs.items() if b and a.endswith("1.to_q")}


def test_equal_structures_match_by_name_without_asking_for_similarity():
    def never(a, b):
        raise AssertionError("not needed")

    pairs = match(SDXL, SDXL, never)
    assert pairs == {item.name: item.name for item in SDXL}


@pytest.mark.parametrize("target", [SSD_1B, VEGA, KOALA], ids=["SSD-1B", "Vega", "KOALA"])
def test_every_module_of_a_pruned_sdxl_is_fed(target):
    pairs = match(SDXL, target)
    assert_sound(pairs, SDXL, target)
    assert {name for name in pairs.values() if name} == {item.name for item in target}


def test_ssd_1b_without_similarity_spreads_evenly_and_keeps_the_full_block():
    blocks = block_map(match(SDXL, SSD_1B))
    deep = {int(a.rsplit(".", 1)[1]): b for a, b in blocks.items() if a.startswith("input_blocks.7.")}
    assert list(deep) == [0, 2, 5, 7]
    assert list(deep.values()) == [f"input_blocks.7.1.transformer_blocks.{i}" for i in range(4)]
    # SSD-1B leaves the last deep stage alone.
    for i in range(10):
        name = f"output_blocks.2.1.transformer_blocks.{i}"
        assert blocks[name] == name
    assert not any(block.startswith("middle_block") for block in blocks)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_ssd_1b_finds_the_blocks_it_was_cut_from(data):
    """Whatever blocks pruning kept, similarity finds them."""
    kept = {}
    for stage, depth in {"input_blocks.7": 4, "input_blocks.8": 4, "output_blocks.0": 4, "output_blocks.1": 4}.items():
        kept[stage] = sorted(data.draw(st.permutations(range(10)))[:depth])
    origin = {
        f"{stage}.1.transformer_blocks.{i}": f"{stage}.1.transformer_blocks.{k}"
        for stage, blocks in kept.items()
        for i, k in enumerate(blocks)
    }
    origin |= {f"output_blocks.{i}.1.transformer_blocks.0": f"output_blocks.{i}.1.transformer_blocks.1" for i in (4, 5)}

    def similarity(a, b):
        return 0.9 if a.block == origin.get(b.block, b.block) else 0.1

    pairs = match(SDXL, SSD_1B, similarity)
    assert_sound(pairs, SDXL, SSD_1B)
    found = {b: a for a, b in block_map(pairs).items()}
    assert found == {b: origin.get(b, b) for b in found}
    assert len(found) == 4 * 4 + 10 + 4 + 2 + 1 + 1


def test_a_pruned_two_block_model_finds_the_block_that_stayed():
    """Real weights: the target is the source's second block, healed a little; its similarity is Φ."""
    shapes = {"attn.qkv": (192, 64), "mlp.fc1": (256, 64)}
    source = [i for n in (0, 1) for i in modules(f"joint_blocks.{n}", shapes)]
    source += modules("outside blocks", {"final_layer.linear": (16, 64)})
    target = modules("joint_blocks.0", shapes) + modules("outside blocks", {"final_layer.linear": (16, 64)})
    weights = {item.name: weight_like(*item.shape, seed=i) for i, item in enumerate(source)}
    healed = {
        t.name: weights[t.name.replace("blocks.0", "blocks.1")] + 0.2 * weight_like(*t.shape, seed=50 + i) / 2**0.5
        for i, t in enumerate(target)
    }

    def similarity(a, b):
        return phi(subspace(weights[a.name], 16).right, subspace(healed[b.name], 16).right)

    pairs = match(source, target, similarity)
    assert pairs == {
        "joint_blocks.0.attn.qkv": None,
        "joint_blocks.0.mlp.fc1": None,
        "joint_blocks.1.attn.qkv": "joint_blocks.0.attn.qkv",
        "joint_blocks.1.mlp.fc1": "joint_blocks.0.mlp.fc1",
        "outside blocks.final_layer.linear": "outside blocks.final_layer.linear",
    }
    # Without similarity blocks are taken from the front.
    assert match(source, target)["joint_blocks.0.attn.qkv"] == "joint_blocks.0.attn.qkv"


@settings(max_examples=60, deadline=None)
@given(
    scores=st.integers(1, 6).flatmap(
        lambda n: st.lists(st.lists(st.floats(0, 1), min_size=n, max_size=n), min_size=1, max_size=6)
    )
)
def test_the_order_found_has_the_largest_total_similarity(scores):
    """Against trying every order-keeping choice."""
    from itertools import combinations

    rows, columns = len(scores), len(scores[0])
    if rows == columns:
        return
    a = [i for n in range(rows) for i in modules(f"blocks.{n}", {"w": (4, 4)})]
    b = [i for n in range(columns) for i in modules(f"blocks.{n}", {"w": (4, 4)})]

    def similarity(x, y):
        return scores[int(x.block[7:])][int(y.block[7:])]

    pairs = match(a, b, similarity)
    total = sum(similarity(by_name(a)[s], by_name(b)[t]) for s, t in pairs.items() if t)
    count = min(rows, columns)
    best = max(
        sum(scores[i][j] for i, j in zip(r, c, strict=True))
        for r in combinations(range(rows), count)
        for c in combinations(range(columns), count)
    )
    assert sum(t is not None for t in pairs.values()) == count
    assert total == pytest.approx(best, abs=1e-9)


def test_shape_decides_before_name():
    """KOALA's output_blocks.2 is a stage of 640 where SDXL's is one of 1280."""
    blocks = block_map(match(SDXL, KOALA))
    assert blocks["output_blocks.3.1.transformer_blocks.0"] == "output_blocks.2.1.transformer_blocks.0"
    assert not any(a.startswith("output_blocks.2") for a in blocks)


def test_deeper_targets_leave_target_blocks_empty():
    a = [i for n in range(2) for i in modules(f"blocks.{n}", {"w": (4, 4)})]
    b = [i for n in range(5) for i in modules(f"blocks.{n}", {"w": (4, 4)})]
    assert match(a, b) == {"blocks.0.w": "blocks.0.w", "blocks.1.w": "blocks.2.w"}


def test_other_sizes_do_not_pair():
    a = modules("blocks.0", {"w": (4, 4), "v": (2, 2)}) + modules("blocks.1", {"w": (4, 4), "v": (2, 2)})
    b = modules("blocks.0", {"w": (8, 8), "v": (2, 2)})
    assert match(a, b) == {"blocks.0.w": None, "blocks.0.v": "blocks.0.v", "blocks.1.w": None, "blocks.1.v": None}


def test_strangers_and_nothing():
    assert match([], SDXL) == {}
    assert set(match(SDXL, []).values()) == {None}
    other = modules("double_blocks.0", {"img_attn.qkv": (9216, 3072)})
    assert set(match(SDXL, other).values()) == {None}


def test_two_modules_of_one_role_in_a_block_pair_by_name():
    twins = [Item(f"a.0.w{end}", "w", "a.0", (1, 1)) for end in ("", ".weight")]
    assert match(twins, twins[::-1]) == {item.name: item.name for item in twins}
    assert match(twins, [Item("a.0.x", "w", "a.0", (1, 1))]) == {"a.0.w": None, "a.0.w.weight": None}


def test_similarity_is_asked_for_a_few_modules_of_a_pair_of_blocks():
    asked = []

    def similarity(a, b):
        asked.append((a.block, b.block))
        return 0.5

    shapes = {f"w{i}": (4, 4) for i in range(10)}
    a = [i for n in range(3) for i in modules(f"blocks.{n}", shapes)]
    b = [i for n in range(2) for i in modules(f"blocks.{n}", shapes)]
    match(a, b, similarity, probes=3)
    assert len(asked) == 3 * 6
    assert torch.tensor([asked.count(p) for p in set(asked)]).eq(3).all()
