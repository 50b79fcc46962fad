"""A deeper relative of base A: one block twice, healed on A's data, and LoRAs trained on it.

Hosts take the number of blocks from the width and cannot load four blocks of width 192, so the repository does not
carry this base: benchmarks make it, from the files that the repository does carry.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from torch import Tensor

from ...io import safetensors
from .. import materialize, model, store
from . import data
from .learn import Pool, fit
from .train import kohya_file, train_lora

REPEATED_BLOCK = 1
NAME = "deeper"
HEAL_STEPS, PEAK, SEED = 500, 1e-3, 100
LORA_STEPS = 300


class Deeper:
    """The base and its LoRAs, each kept under `folder` once it is trained."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def autoencoder(self) -> dict[str, Tensor]:
        """A's."""
        return materialize.autoencoder("a")

    @property
    def checkpoint(self) -> Path:
        """The denoiser in SD3's names, as the other bases of the family are written out."""
        path = self.folder / f"family_{NAME}.safetensors"
        if not path.exists():
            weights = {materialize.PREFIX + name: weight.half() for name, weight in self.weights().items()}
            safetensors.save(path, weights)
        return path

    def weights(self) -> dict[str, Tensor]:
        """The denoiser as it is stored, float32."""
        unchanged = model.repeat(materialize.base("a"), REPEATED_BLOCK)
        path = self.folder / f"base_{NAME}.safetensors"
        if not path.exists():
            store.save(self._healed(unchanged), path)
        trained = store.load(path)
        wide = unchanged["y_embedder.mlp.0.weight"].clone()
        wide[:, : model.POOLED] = trained["y_embedder.mlp.0.weight"]
        return {**unchanged, **trained, "y_embedder.mlp.0.weight": wide}

    def _healed(self, unchanged: dict[str, Tensor]) -> dict[str, Tensor]:
        trained = model.repeat(store.load(materialize.HERE / "base_a.safetensors"), REPEATED_BLOCK)
        return fit(
            "heal",
            trained,
            lambda p: {**unchanged, **p},
            self._pool(None),
            steps=HEAL_STEPS,
            peak=PEAK,
            batch=64,
            seed=SEED,
        )

    def lora(self, effect: str) -> Path:
        """A LoRA of the effect, trained on the deeper base, in kohya's layout."""
        path = self.folder / f"family_{effect}_{NAME}.safetensors"
        if not path.exists():
            seed = 1000 + 10 * SEED + data.EFFECTS.index(effect)
            made = train_lora(path.stem, self.weights(), self._pool(effect), steps=LORA_STEPS, seed=seed)
            safetensors.save(path, kohya_file(made, NAME))
        return path

    def _pool(self, effect: str | None) -> Pool:
        seed = data.EFFECTS.index(effect) + 1 if effect else 0
        return Pool(self.autoencoder, 4096, seed, look="night", effect=effect)


def main() -> None:
    """Train everything."""
    import argparse

    import torch

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/deeper"), help="folder of the checkpoints")
    options = parser.parse_args()
    torch.set_num_threads(1)
    deeper = Deeper(options.out)
    for path in (deeper.checkpoint, *map(deeper.lora, data.EFFECTS)):
        print(path)


if __name__ == "__main__":
    main()
