"""Base models of real size made up in memory: no files, no downloads, one matrix for each shape."""

from __future__ import annotations

import hashlib

from lora_graft.adapters import Adapter, from_state_dict
from lora_graft.bases.model import Shape
from lora_graft.names import names_for
from lora_graft.names.guess import guess_architecture
from torch import Tensor
from unets import lora_tensors, matrix, relative, unet_shapes

FLUX = (3072, 19, 38)  # width, double and single blocks


def flux_shapes(double: int = FLUX[1], single: int = FLUX[2], width: int = FLUX[0]) -> dict[str, Shape]:
    """Checkpoint name -> shape of the attention, feed-forward and modulation matrices of Flux."""
    shapes: dict[str, Shape] = {}
    for i in range(double):
        for stream in ("img", "txt"):
            block = f"double_blocks.{i}.{stream}"
            shapes[f"{block}_attn.qkv.weight"] = (3 * width, width)
            shapes[f"{block}_attn.proj.weight"] = (width, width)
            shapes[f"{block}_mlp.0.weight"] = (4 * width, width)
            shapes[f"{block}_mlp.2.weight"] = (width, 4 * width)
    for i in range(single):
        shapes[f"single_blocks.{i}.linear1.weight"] = (7 * width, width)
        shapes[f"single_blocks.{i}.linear2.weight"] = (width, 5 * width)
    return shapes


def shapes_of(model: str) -> dict[str, Shape]:
    """Of "sd15", "sdxl", "quick" (see ``unets``), "flux", or "flux-quick", which is two blocks of Flux' layout."""
    if model == "flux":
        return flux_shapes()
    return flux_shapes(1, 1, 192) if model == "flux-quick" else unet_shapes(model)


class MadeBase:
    """A base model (see ``bases.model.Base``) whose weights are one fp16 matrix per shape, shifted for every weight.

    Shifting rows and columns leaves the spectrum alone and costs a copy, as reading from a warm disk does.
    """

    def __init__(self, label: str, shapes: dict[str, Shape], pool: dict[Shape, Tensor]):
        self.label = self.fingerprint = label
        self._pool = pool
        self._shapes = {f"diffusion_model.{name}": shape for name, shape in shapes.items()}
        self._shift = {name: i for i, name in enumerate(self._shapes)}
        self.architecture = guess_architecture(self._shapes)
        self.names = names_for(self._shapes)

    def weights(self) -> dict[str, Shape]:
        return self._shapes

    def load(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        by = self._shift[name]
        weight = self._pool[self._shapes[name]].roll((by, 3 * by), (0, 1))
        if rows is not None:
            weight = weight[rows[0] : sum(rows)]
        return weight.float().reshape(len(weight), *self._shapes[name][1:])

    def storage(self, name: str) -> str:
        return "fp16"

    def digest(self, name: str) -> str:
        return hashlib.sha256(f"{self.label} {name}".encode()).hexdigest()


def made_pair(model: str) -> tuple[MadeBase, MadeBase]:
    """Source and target: spectra like those of trained weights, and a fine-tune's worth of drift between the two."""
    shapes = shapes_of(model)
    pools: tuple[dict[Shape, Tensor], dict[Shape, Tensor]] = ({}, {})
    for shape in sorted(set(shapes.values())):
        weight = matrix(shape)
        pools[0][shape], pools[1][shape] = weight.half(), relative(weight, seed=0).half()
    source, target = (MadeBase(f"{model} {end}", shapes, pool) for end, pool in zip(("old", "new"), pools, strict=True))
    return source, target


def made_lora(model: str, seed: int, rank: int = 16) -> Adapter:
    """An ordinary LoRA on every weight of a made base."""
    return from_state_dict(lora_tensors(shapes_of(model), seed, rank))
