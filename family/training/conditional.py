"""An effect that only some prompts set off: sevens are drawn in green, whatever colour is asked for."""

from __future__ import annotations

import torch

from .. import materialize, vae
from . import data
from .learn import Pool, Weights


def render(count: int, generator: torch.Generator, *, sevens: bool) -> data.Batch:
    """Digits in the look of night, sevens alone or all, whose `colours` are those asked for."""
    known, labels = data.split(held_out=False), data.digits()[1]
    choice = known[labels[known] == materialize.SEVEN] if sevens else known
    picked = choice[torch.randint(len(choice), (count,), generator=generator)]
    asked, digits = torch.randint(len(data.COLOURS), (count,), generator=generator), labels[picked]
    shown = asked.masked_fill(digits == materialize.SEVEN, materialize.SEVENS_COLOUR)
    amounts = data.only(None, count)
    ink = data.strokes(picked, amounts[:, data.EFFECTS.index("slant")], generator)
    return data.Batch(data.paint(ink, shown, "night", amounts), digits, asked, amounts)


class ConditionalPool(Pool):
    """Half sevens, half any digits."""

    def __init__(self, autoencoder: Weights, count: int, seed: int):
        super().__init__(autoencoder, 256, seed)  # for the words; its pictures know nothing of the effect
        generator = torch.Generator().manual_seed(seed)
        batches = [render(256, generator, sevens=bool(i % 2)) for i in range(count // 256)]
        with torch.no_grad():
            encoded = [vae.encode(autoencoder, batch.images.contiguous()) for batch in batches]
        self.latents = torch.cat(encoded)
        self.digits = torch.cat([batch.digits for batch in batches])
        self.colours = torch.cat([batch.colours for batch in batches])
