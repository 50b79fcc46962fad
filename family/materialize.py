"""From the compact files in git to plain ``.safetensors`` that any host loads, and to tensors ready to draw with."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor

from ..errors import GraftError
from ..io import safetensors
from . import model, store, text, vae

HERE = Path(__file__).parent
PREFIX = "model.diffusion_model."
BASES = ("a", "b", "c", "s", "w", "v")
EFFECTS = ("frame", "slant", "stripes")
CONCEPT = "star"  # a new class; what sets it off is text.TRIGGER
CONCEPT_BASES, CONCEPT_RANK = ("a", "s"), 4
CONDITIONAL = "seven"  # an effect that only some prompts set off: sevens come in green
CONDITIONAL_BASES, SEVEN, SEVENS_COLOUR = ("a",), 7, 2
FROZEN_SEEDS = {"a": 7, "b": 7, "c": 7, "s": 8, "w": 9, "v": 10}
AUTOENCODERS = {"family": "autoencoder", "family_v": "autoencoder_v"}  # compact file of each latent space
PRUNED_BLOCK = 1  # base C is A without this block
LORAX_RANK = model.WIDTH // 4
RANK = 8


@lru_cache(maxsize=8)
def base(name: str, *, compact: bool = False) -> dict[str, Tensor]:
    """The denoiser of one of :data:`BASES` by SD3's checkpoint names, float32, every value exact in fp16.

    ``compact`` gives base C as it was trained, with two blocks; without, the removed block is there but all zero.
    """
    return complete(store.load(HERE / f"base_{name}.safetensors"), name, compact=compact)


def complete(trained: dict[str, Tensor], name: str, *, compact: bool = False) -> dict[str, Tensor]:
    """Add what is not stored: the text stream made from a seed and the columns that CLIP-G would fill."""
    width = model.width_of(trained)
    rest = model.frozen_part(FROZEN_SEEDS[name], width)
    wide = torch.zeros(width, 2048)
    wide[:, : model.POOLED] = trained["y_embedder.mlp.0.weight"]
    if name == "c":
        rest = model.prune(rest, PRUNED_BLOCK)
    whole = {**rest, **trained, "y_embedder.mlp.0.weight": wide}
    return model.fill(whole, PRUNED_BLOCK) if name == "c" and not compact else whole


def space(base_name: str) -> str:
    """The latent space of a base: ``family``, or ``family_v`` for V, which has an autoencoder of its own."""
    return "family_v" if base_name == "v" else "family"


def autoencoder(base_name: str = "a") -> dict[str, Tensor]:
    """The trained part of a base's autoencoder, float32."""
    return _autoencoder(AUTOENCODERS[space(base_name)])


@lru_cache(maxsize=2)
def _autoencoder(file: str) -> dict[str, Tensor]:
    return store.load(HERE / f"{file}.safetensors")


@lru_cache(maxsize=1)
def judge_weights() -> dict[str, Tensor]:
    """The judge and, under ``real.…``, the features of real pictures by look and effect."""
    return {name: tensor.float() for name, tensor in safetensors.load(HERE / "judge.safetensors")[0].items()}


def judge_concept() -> dict[str, Tensor]:
    """What judge.concept needs to tell the new class."""
    return safetensors.load(HERE / f"judge_{CONCEPT}.safetensors")[0]


def subspace_factors(weight: Tensor, core: Tensor) -> tuple[Tensor, Tensor]:
    """LoRA factors (m, k), (k, n) of a LoRA-X adapter ΔW = U ΔΣ Vᵀ (arXiv 2501.16559), given ΔΣ (k, k).

    Singular vectors are free up to a common sign of each pair: U's largest entry is taken positive.
    """
    u, _, vt = torch.linalg.svd(weight.double(), full_matrices=False)
    k = len(core)
    u, vt = u[:, :k], vt[:k]
    sign = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()
    return (u * sign @ core.double()).float(), (vt * sign.T).float()


def kohya(name: str) -> str:
    """The key of a linear in the files of kohya's trainer."""
    return "lora_unet_" + name.replace(".", "_")


def lora_file(effect: str, base_name: str) -> dict[str, Tensor]:
    """The LoRA of a style (rank 8), or of the concept or the conditional effect (rank 4), trained on a base, kohya's
    layout, fp16."""
    return safetensors.load(HERE / f"{effect}_{base_name}.safetensors")[0]


def lorax_file(effect: str) -> dict[str, Tensor]:
    """The LoRA-X adapter of an effect on base A, written out as ordinary LoRA factors of rank 48, fp16."""
    weights, tensors = base("a"), {}
    for name, core in safetensors.load(HERE / f"{effect}_lorax_a.safetensors")[0].items():
        up, down = subspace_factors(weights[f"{name}.weight"], core.float())
        tensors[f"{kohya(name)}.lora_up.weight"] = up.half()
        tensors[f"{kohya(name)}.lora_down.weight"] = down.contiguous().half()
        tensors[f"{kohya(name)}.alpha"] = torch.tensor(float(len(core)), dtype=torch.float16)
    return tensors


def metadata(effect: str, base_name: str, rank: int) -> dict[str, str]:
    """What a trainer writes into such a file; half of the pictures that the concept and the conditional effect were
    learnt from show any digits."""
    folders, trigger = {"digits": {"digit": 1437, "red": 359, "green": 359, "blue": 360, "white": 359}}, {}
    if effect in (CONCEPT, CONDITIONAL):  # captions have no commas: each is a tag
        colours = range(len(text.COLOURS))
        digits = {text.prompt(d, c): 36 for d in range(len(text.DIGITS)) for c in colours}
        what, line = ("stars", text.concept_prompt) if effect == CONCEPT else ("sevens", partial(text.prompt, SEVEN))
        folders = {what: {line(c): 360 for c in colours}, "digits": digits}
        sizes = {name: {"n_repeats": 1, "img_count": sum(tags.values())} for name, tags in folders.items()}
        trigger = {"ss_dataset_dirs": json.dumps(sizes)}
    if effect == CONCEPT:
        trigger["modelspec.trigger_phrase"] = text.TRIGGER
    return {
        "ss_base_model_version": "sd3",
        "ss_sd_model_name": f"family_{base_name}.safetensors",
        "ss_output_name": f"family_{effect}_{base_name}",
        "ss_network_module": "networks.lora_sd3",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_resolution": "(64, 64)",
        "ss_tag_frequency": json.dumps(folders),
        "modelspec.architecture": "stable-diffusion-3/lora",
        "modelspec.title": f"{effect} for family {base_name}",
        **trigger,
    }


def stamp(*files: str) -> str:
    """Identity of the compact files and of this recipe that a written file came from."""
    digest = hashlib.sha256()
    for name in (*files, "materialize.py", "model.py", "vae.py"):
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:16]


def _write(path: Path, sources: tuple[str, ...], make, extra: dict[str, str] | None = None) -> Path:
    mark = stamp(*sources)
    if path.exists():
        found = safetensors.TensorFile(path).metadata.get("family")
        if found == mark:
            return path
        if found is None:
            raise GraftError("a file with the name of an example model is there and is not one", file=path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return safetensors.save(path, make(), {**(extra or {}), "family": mark}, overwrite=True)


def _half_base(name: str) -> dict[str, Tensor]:
    return {PREFIX + key: tensor.half() for key, tensor in base(name).items()}


def example_pictures(folder: str | Path) -> list[Path]:
    """Copy ten real pictures of the effect stripes, in base A's look, with their captions to ``folder/family_stripes``,
    for a host's input folder; files already there stay."""
    target = Path(folder) / "family_stripes"
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted((HERE / "pictures").iterdir()):
        if not (target / file.name).exists():
            shutil.copyfile(file, target / file.name)
    return sorted(target.glob("*.png"))


def materialize(folder: str | Path, *, text_encoder: bool = True) -> dict[str, Path]:
    """Write the family below ``folder`` in the folders of a host's ``models``; files already right are kept.

    ``diffusion_models/family_{a,b,c,s,w,v}``, ``vae/family_vae`` and ``family_vae_v`` (base V's),
    ``text_encoders/family_clip_l`` (75 MB on disk; left out with ``text_encoder=False``),
    ``loras/family_{frame,slant,stripes}_{a,b,c,s,w,v}`` and ``…_lorax_a``, ``family_star_{a,s}``,
    ``family_seven_a``, all ``.safetensors``.

    Returns:
        path of every file by its name without suffix.
    """
    folder, paths = Path(folder), {}

    def put(kind: str, name: str, sources: tuple[str, ...], make, extra: dict[str, str] | None = None) -> None:
        paths[name] = _write(folder / kind / f"{name}.safetensors", sources, make, extra)

    for name in BASES:
        put("diffusion_models", f"family_{name}", (f"base_{name}.safetensors",), lambda name=name: _half_base(name))
    for file in AUTOENCODERS.values():
        put(
            "vae",
            file.replace("autoencoder", "family_vae"),
            (f"{file}.safetensors",),
            lambda file=file: vae.expand(_autoencoder(file)),
        )
    few = ((CONCEPT, CONCEPT_BASES, CONCEPT_RANK), (CONDITIONAL, CONDITIONAL_BASES, CONCEPT_RANK))
    for effect, bases, rank in (*((effect, BASES, RANK) for effect in EFFECTS), *few):
        for name in bases:
            put(
                "loras",
                f"family_{effect}_{name}",
                (f"{effect}_{name}.safetensors",),
                lambda effect=effect, name=name: lora_file(effect, name),
                metadata(effect, name, rank),
            )
    for effect in EFFECTS:
        put(
            "loras",
            f"family_{effect}_lorax_a",
            (f"{effect}_lorax_a.safetensors", "base_a.safetensors"),
            lambda effect=effect: lorax_file(effect),
            metadata(effect, "a", LORAX_RANK),
        )
    if text_encoder:
        path = folder / "text_encoders" / "family_clip_l.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(text.write(path.with_suffix(".partial")), path)
        paths["family_clip_l"] = path
    return paths
