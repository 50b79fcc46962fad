"""More relatives of base A, for benchmarks: made and healed from the files that the repository carries.

``deeper`` is A with one block twice. Hosts take the number of blocks from the width and cannot load four blocks of
width 192. ``mixed`` is A with one block of the stranger S in the place of its own. Both are healed on A's data, and
LoRAs can be trained on them.
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

BLOCK = 1  # the one that is there twice, or comes from S
SEEDS = {"deeper": 100, "mixed": 101}
HEAL_STEPS, LORA_STEPS, PEAK, PICTURES = 500, 300, 1e-3, 4096


class Relative:
    """A relative and its LoRAs, each kept under `folder` once it is trained. name: one of :data:`SEEDS`."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Path:
        """The denoiser in SD3's names, as the other bases of the family are written out."""
        path = self.folder / f"family_{self.name}.safetensors"
        if not path.exists():
            safetensors.save(path, {materialize.PREFIX + n: w.half() for n, w in self.weights().items()})
        return path

    def weights(self) -> dict[str, Tensor]:
        """The denoiser as it is stored, float32."""
        path = self.folder / f"base_{self.name}.safetensors"
        if not path.exists():
            store.save(self._healed(), path)
        trained, name = store.load(path), "y_embedder.mlp.0.weight"
        wide = self._unhealed(materialize.base("a"), materialize.base("s"))
        wide[name][:, : model.POOLED] = trained.pop(name)
        return {**wide, **trained}

    def lora(self, effect: str) -> Path:
        """A LoRA of the effect, trained on this base, in kohya's layout."""
        path = self.folder / f"family_{effect}_{self.name}.safetensors"
        if not path.exists():
            seed = 1000 + 10 * SEEDS[self.name] + data.EFFECTS.index(effect)
            made = train_lora(path.stem, self.weights(), self._pool(effect), steps=LORA_STEPS, seed=seed)
            safetensors.save(path, kohya_file(made, self.name))
        return path

    def _unhealed(self, ours: dict[str, Tensor], strange: dict[str, Tensor]) -> dict[str, Tensor]:
        """A's weights, or the trained part of them, after the operation."""
        if self.name == "deeper":
            changed = model.repeat(ours, BLOCK)
        else:
            changed = {name: (strange if f"joint_blocks.{BLOCK}." in name else ours)[name] for name in ours}
        return {name: weight.clone() for name, weight in changed.items()}

    def _healed(self) -> dict[str, Tensor]:
        trained = self._unhealed(*(store.load(materialize.HERE / f"base_{n}.safetensors") for n in "as"))
        whole = self._unhealed(materialize.base("a"), materialize.base("s"))
        return fit(
            f"heal {self.name}",
            trained,
            lambda p: {**whole, **p},
            self._pool(None),
            steps=HEAL_STEPS,
            peak=PEAK,
            batch=64,
            seed=SEEDS[self.name],
        )

    @cached_property
    def _autoencoder(self) -> dict[str, Tensor]:
        return materialize.autoencoder("a")

    def _pool(self, effect: str | None) -> Pool:
        seed = data.EFFECTS.index(effect) + 1 if effect else 0
        return Pool(self._autoencoder, PICTURES, seed, look="night", effect=effect)


def main() -> None:
    """Train both, with their LoRAs."""
    import argparse

    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", default=list(SEEDS), help=f"of {', '.join(SEEDS)}")
    parser.add_argument("--out", type=Path, default=Path("out/relatives"), help="folder of the checkpoints")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        relative = Relative(name, options.out)
        for path in (relative.checkpoint, *map(relative.lora, data.EFFECTS)):
            print(path, flush=True)


if __name__ == "__main__":
    main()
