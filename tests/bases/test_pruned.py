"""Published pruning maps on the true block structures of Stable Diffusion and its pruned children."""

from __future__ import annotations

import pytest
from lora_graft.names import DENOISER
from lora_graft.names.known import _SD, _UNet, _unet, known_weights
from lora_graft.names.pruned import MAPS, published_map

WIDTHS = (320, 640, 1280, 1280)
# Sizes as in the configurations that github.com/Nota-NetsPresso/BK-SDM publishes (src/unet_config/bk_*/config.json).
BASE = {"widths": WIDTHS, "down": (1, 1, 1, 0), "middle": 1, "up": (0, 0, 1, 1, 1, 1, 1, 1)}
CHILDREN = {
    "BK-SDM-Base, SD-Small": BASE,
    "BK-SDM-Small": BASE | {"middle": None},
    "BK-SDM-Tiny, SD-Tiny": {"widths": WIDTHS[:3], "down": (1,) * 3, "middle": None, "up": (1,) * 6},
}
TEXT = {"SD 1.5": {"context": 768, "linear": False}, "SD 2.x": {"context": 1024}}


def denoiser(**size):
    return {DENOISER + name: shape for name, shape in _unet(_UNet(**size)).items()}


def parent(version="SD 1.5"):
    return denoiser(widths=WIDTHS, **_SD, **TEXT[version])


@pytest.mark.parametrize("version", TEXT)
@pytest.mark.parametrize("name", CHILDREN)
def test_a_published_child_is_known_by_its_blocks_and_shapes(name, version):
    child = denoiser(**CHILDREN[name], **TEXT[version])
    found = published_map(parent(version), child)
    assert found is not None and found.name == name and "arXiv 2305.15798" in found.source
    origins = [found.parent_of(weight) for weight in child]
    assert len(set(origins)) == len(origins) and set(origins) < parent(version).keys()


def test_parameters_are_as_many_as_published():
    """BK-SDM: 0.58, 0.49 and 0.33 billion weights in the UNet."""
    for (name, size), billions in zip(CHILDREN.items(), (0.58, 0.49, 0.33), strict=True):
        count = 0
        for shape in denoiser(**size, **TEXT["SD 1.5"]).values():
            numbers = 1
            for side in shape:
                numbers *= side
            count += numbers
        assert round(count / 1e9, 2) in (billions, billions - 0.01), name


def test_the_blocks_are_those_of_the_published_code():
    """copy_weight_from_teacher: up_blocks.1.attentions.1 comes from attentions.2; Tiny begins at level 1."""
    small, tiny = (next(m for m in MAPS if m.name.startswith(f"BK-SDM-{name}")) for name in ("Small", "Tiny"))
    role = ".1.transformer_blocks.0.attn1.to_q.weight"
    assert small.parent_of(f"{DENOISER}output_blocks.3{role}") == f"{DENOISER}output_blocks.5{role}"
    assert tiny.parent_of(f"{DENOISER}output_blocks.1{role}") == f"{DENOISER}output_blocks.5{role}"
    assert tiny.parent_of(f"{DENOISER}input_blocks.5{role}") == f"{DENOISER}input_blocks.7{role}"
    assert small.parent_of(f"{DENOISER}middle_block.1.norm.weight") is None
    assert small.parent_of(f"{DENOISER}time_embed.0.weight") == f"{DENOISER}time_embed.0.weight"


def test_other_pairs_have_no_map():
    child = denoiser(**CHILDREN["BK-SDM-Small"], **TEXT["SD 1.5"])
    assert published_map(child, parent()) is None, "the child is not the parent"
    assert published_map(parent(), parent()) is None
    assert published_map(parent("SD 2.x"), child) is None, "another text encoder"
    assert published_map(known_weights("SDXL"), known_weights("SSD-1B")) is None
    odd = {name: shape for name, shape in child.items() if "output_blocks.7." not in name}
    assert published_map(parent(), odd) is None
    wide = child | {f"{DENOISER}input_blocks.1.0.in_layers.2.weight": (320, 640, 3, 3)}
    assert published_map(parent(), wide) is None
