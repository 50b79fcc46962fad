"""Published pruning maps: which block of a model a block of its pruned child was copied from.

A map stands here only where its authors published it, as code or as a list. For SSD-1B and Segmind Vega (arXiv
2401.02677), KOALA (2312.04005), Flux.1 lite and Flex.1 no list of the kept layers was found, only how many there are:
between them and their parents a search over similarities decides (``kernels.matching``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from .weight_slice import DENOISER, Shape


class PruningMap(NamedTuple):
    """What a pruned model was made of.

    name: the pruned model; source: where the map was published.
    blocks: block of the pruned model → block of its parent, in the checkpoint's names. What lies in none of the lists
        of blocks (time embedding, input and output) keeps its name.
    """

    name: str
    source: str
    blocks: Mapping[str, str]

    def parent_of(self, name: str) -> str | None:
        """The parent's weight that a canonical weight of the child came from; None where the map says nothing."""
        match = _BLOCK.match(name)
        if match is None:
            return name
        block = self.blocks.get(match[1])
        return None if block is None else f"{DENOISER}{block}{match[2]}"


_BLOCK = re.compile(rf"{re.escape(DENOISER)}((?:input|output)_blocks\.\d+|middle_block)(\..+)$")


def _unet(inputs: Mapping[int, int], outputs: tuple[int, ...], *, middle: bool) -> dict[str, str]:
    found = {f"input_blocks.{child}": f"input_blocks.{parent}" for child, parent in inputs.items()}
    found |= {"middle_block": "middle_block"} if middle else {}
    return found | {f"output_blocks.{child}": f"output_blocks.{parent}" for child, parent in enumerate(outputs)}


# Diffusers' down_blocks.i.resnets.0 and up_blocks.i.resnets.0 and .2 of the parent, in the checkpoint's numbers.
_DOWN = {0: 0, 1: 1, 2: 3, 3: 4, 4: 6, 5: 7}
_BK_SDM = (
    "BK-SDM, arXiv 2305.15798; github.com/Nota-NetsPresso/BK-SDM, src/kd_train_text_to_image.py, "
    "copy_weight_from_teacher"
)
_SEGMIND = "; the same blocks in github.com/segmind/distill-sd, distill_training.py, prepare_unet"
_OUTER = (0, 2, 3, 5, 6, 8, 9, 11)

MAPS = (
    PruningMap("BK-SDM-Base, SD-Small", _BK_SDM + _SEGMIND, _unet({**_DOWN, 6: 9, 7: 10}, _OUTER, middle=True)),
    PruningMap("BK-SDM-Small", _BK_SDM, _unet({**_DOWN, 6: 9, 7: 10}, _OUTER, middle=False)),
    PruningMap("BK-SDM-Tiny, SD-Tiny", _BK_SDM + _SEGMIND, _unet(_DOWN, _OUTER[2:], middle=False)),
)


def published_map(parent: Mapping[str, Shape], child: Mapping[str, Shape]) -> PruningMap | None:
    """The map between two denoisers, by their weights (canonical name → shape); None where none was published.

    It must name every block of the child, have a weight of equal shape in the parent for every weight of the child,
    and the parent must be of one piece: its blocks are those of Stable Diffusion 1 or 2.
    """
    ours = {name: shape for name, shape in parent.items() if name.startswith(DENOISER)}
    theirs = {name: shape for name, shape in child.items() if name.startswith(DENOISER)}
    if _blocks(ours) != _WHOLE:
        return None
    for one in MAPS:
        if _blocks(theirs) == set(one.blocks) and all(
            (origin := one.parent_of(name)) is not None and ours.get(origin) == shape for name, shape in theirs.items()
        ):
            return one
    return None


_WHOLE = {f"{side}_blocks.{number}" for side in ("input", "output") for number in range(12)} | {"middle_block"}


def _blocks(weights: Mapping[str, Shape]) -> set[str]:
    return {match[1] for name in weights if (match := _BLOCK.match(name))}
