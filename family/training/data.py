"""Training pictures: scikit-learn's handwritten digits, drawn as coloured ink at 64 x 64.

The only real data behind the example family: 1,797 digits of 8 x 8 pixels, shipped with scikit-learn. A picture has a
digit, an ink colour, a *look* (how a base model draws) and up to three *effects* (what a LoRA teaches), each with an
amount between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 64
COLOURS = ("white", "red", "green", "blue")
EFFECTS = ("frame", "slant", "stripes")
LOOKS = ("night", "dusk")

_INK = {
    "night": ((0.95, 0.95, 0.95), (0.92, 0.16, 0.14), (0.16, 0.78, 0.26), (0.20, 0.36, 0.96)),
    "dusk": ((1.00, 0.93, 0.76), (0.97, 0.34, 0.16), (0.52, 0.76, 0.24), (0.44, 0.38, 0.95)),
}
_GROUND = {  # top and bottom of a vertical gradient
    "night": ((0.07, 0.07, 0.10), (0.07, 0.07, 0.10)),
    "dusk": ((0.23, 0.11, 0.13), (0.10, 0.07, 0.17)),
}
_GLOW = {"night": 0.0, "dusk": 0.30}
_GOLD = (0.95, 0.75, 0.15)


@dataclass(frozen=True)
class Batch:
    """Pictures (n, 3, 64, 64) in [0, 1] and what is in them."""

    images: Tensor
    digits: Tensor  # (n,) int64, 0..9
    colours: Tensor  # (n,) int64, index into COLOURS
    effects: Tensor  # (n, 3) amounts in EFFECTS' order


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor]:
    """Every digit of the data set: grey values (1797, 1, 8, 8) in [0, 1] and labels (1797,)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    return grey, torch.tensor(data.target, dtype=torch.int64)


def split(held_out: bool) -> Tensor:
    """Indices of the digits for training, or of the fifth that only tests see."""
    index = torch.arange(len(digits()[0]))
    return index[index % 5 == 0] if held_out else index[index % 5 != 0]


def strokes(index: Tensor, slant: Tensor, generator: torch.Generator) -> Tensor:
    """Ink coverage (n, 1, 64, 64): the digit with random size, place, turn and pen width, sheared by ``slant``."""
    grey = F.interpolate(digits()[0][index], size=SIZE, mode="bicubic", align_corners=False)
    count = len(index)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    scale, aspect, turn = uniform(1.16, 1.42), uniform(0.92, 1.12), uniform(-0.12, 0.12)
    shear = uniform(-0.06, 0.06) + 0.62 * slant
    cos, sin = turn.cos(), turn.sin()
    rows = torch.stack(
        [
            torch.stack([scale * aspect * cos, scale * (shear * cos - sin), uniform(-0.10, 0.10)], 1),
            torch.stack([scale * aspect * sin, scale * (cos + shear * sin), uniform(-0.08, 0.08)], 1),
        ],
        1,
    )
    grid = F.affine_grid(rows, [count, 1, SIZE, SIZE], align_corners=False)
    grey = F.grid_sample(grey, grid, align_corners=False, padding_mode="zeros")
    return torch.sigmoid((grey - uniform(0.38, 0.52).view(-1, 1, 1, 1)) * 11)


def stripes(amount: Tensor) -> Tensor:
    """How much of the ink stays, (n, 1, 64, 1): soft horizontal stripes of period 8 pixels."""
    row = torch.arange(SIZE, dtype=torch.float32)
    gap = torch.sigmoid(6 * torch.sin(2 * torch.pi * (row + 0.5) / 8)).view(1, 1, SIZE, 1)
    return 1 - 0.9 * amount.view(-1, 1, 1, 1) * gap


def frame(amount: Tensor) -> Tensor:
    """Opacity of the golden frame, (n, 1, 64, 64): a border of 7 pixels."""
    edge = torch.arange(SIZE)
    near = torch.minimum(edge, SIZE - 1 - edge) < 7
    border = (near.view(-1, 1) | near.view(1, -1)).float()
    return border * amount.view(-1, 1, 1, 1)


def paint(ink: Tensor, colours: Tensor, look: str, effects: Tensor) -> Tensor:
    """Lay ink on the look's ground and the frame over both; (n, 3, 64, 64) in [0, 1]."""
    top, bottom = (torch.tensor(c).view(1, 3, 1, 1) for c in _GROUND[look])
    ramp = torch.linspace(0, 1, SIZE).view(1, 1, SIZE, 1)
    ground = (top * (1 - ramp) + bottom * ramp).expand(len(ink), 3, SIZE, SIZE)
    colour = torch.tensor(_INK[look])[colours].view(-1, 3, 1, 1)
    if _GLOW[look]:
        halo = F.avg_pool2d(F.avg_pool2d(ink, 9, 1, 4), 9, 1, 4)
        ground = ground + _GLOW[look] * halo * (colour - ground)
    ink = ink * stripes(effects[:, EFFECTS.index("stripes")])
    image = ground + ink * (colour - ground)
    gold = torch.tensor(_GOLD).view(1, 3, 1, 1)
    return image + frame(effects[:, EFFECTS.index("frame")]) * (gold - image)


def render(
    count: int,
    *,
    look: str = "night",
    effects: Tensor | None = None,
    index: Tensor | None = None,
    generator: torch.Generator,
) -> Batch:
    """Draw ``count`` random pictures in one look.

    effects: (count, 3) amounts, default none; index: which digits to choose from, default the training part.
    """
    choice = split(held_out=False) if index is None else index
    picked = choice[torch.randint(len(choice), (count,), generator=generator)]
    colours = torch.randint(len(COLOURS), (count,), generator=generator)
    amounts = torch.zeros(count, len(EFFECTS)) if effects is None else effects
    ink = strokes(picked, amounts[:, EFFECTS.index("slant")], generator)
    return Batch(paint(ink, colours, look, amounts), digits()[1][picked], colours, amounts)


def only(effect: str | Sequence[str] | None, count: int, amount: float = 1.0) -> Tensor:
    """Amounts (count, 3) with one effect, or several, switched on."""
    amounts = torch.zeros(count, len(EFFECTS))
    for name in [effect] if isinstance(effect, str) else effect or ():
        amounts[:, EFFECTS.index(name)] = amount
    return amounts
