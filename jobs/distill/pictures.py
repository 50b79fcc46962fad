"""A dataset of the user's own pictures and captions, without a teacher: what the objective ``samples`` learns from.

So an adapter inside its base's subspace (LoRA-X, arXiv 2501.16559, section 4.1) is trained on real data, as in the
paper, and moves to relatives of its base by projection.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from ... import choices
from ...errors import SettingsError
from ...kernels.distill.looks import resized
from ...kernels.finite import all_finite
from ...untrusted import in_markdown
from ..progress import Progress, silent
from ..text import joined, table
from .dataset import Dataset
from .denoiser import Drawing

LEAST = 2
CUT_MUCH = 0.25  # share of a picture from which cropping is told
TAGS = "ss_tag_frequency"  # kohya's name for captions in a LoRA's metadata


def covering(picture: Tensor, width: int, height: int) -> Tensor:
    """A picture (h, w, 3) in [0, 1] scaled until it just covers a size, its middle cut out: (height, width, 3)."""
    image = picture.permute(2, 0, 1).unsqueeze(0).float()
    return resized(image, height, width, mode="bicubic")[0].clamp(0, 1).permute(1, 2, 0).contiguous()


def one_size(pictures: Sequence[Tensor], names: Sequence[str], width: int, height: int) -> tuple[Tensor, list[str]]:
    """(pictures (n, height, width, 3), sentences on what that cost), by :func:`covering`."""
    sizes = [(p.shape[1], p.shape[0]) for p in pictures]
    small = [i for i, (w, h) in enumerate(sizes) if w < width or h < height]
    cut = [1 - min(w * height, h * width) / max(w * height, h * width) for w, h in sizes]
    notes = []
    if len(set(sizes)) > 1:
        notes.append(
            f"The pictures have {len(set(sizes))} sizes; each was scaled to cover {width} × {height} and cropped."
        )
    if small:
        w, h = sizes[small[0]]
        notes.append(f"{len(small)} were smaller and are enlarged: {names[small[0]]} has {w} × {h}.")
    if max(cut) >= CUT_MUCH:
        worst = max(range(len(cut)), key=lambda i: cut[i])
        notes.append(f"Cropping cuts most from {names[worst]}, {cut[worst]:.0%}; choose width and height to suit.")
    return torch.stack([covering(picture, width, height) for picture in pictures]), notes


def captions_for(lines: Sequence[str], count: int) -> list[str]:
    """One caption for each of `count` pictures; empty lines are passed over, and a single one serves all.

    Raises:
        SettingsError: none, or another number.
    """
    found = [" ".join(line.split()) for line in lines if line.strip()]
    if not found:
        raise SettingsError(
            "The pictures have no captions",
            hint="Write one a line into the input captions, in the order of the pictures, or a single one for all.",
        )
    if len(found) == 1:
        return found * count
    if len(found) != count:
        raise SettingsError(
            f"There are {count} pictures and {len(found)} captions",
            hint="Write as many lines as there are pictures, or a single one for all.",
        )
    return found


def picture_dataset(
    pictures: Tensor,
    captions: Sequence[str],
    encode: Callable[[Tensor], Tensor],
    *,
    drawing: Drawing | None = None,
    seed: int = choices.Dataset.seed,
    names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    vae: str = "",
    progress: Progress | None = None,
) -> Dataset:
    """A dataset of pictures.

    Args:
        pictures: (n, height, width, 3) in [0, 1].
        captions: n.
        encode: a picture (1, height, width, 3) → its latent (1, C, …) in a VAE's scale.
        drawing, seed: how pictures with these captions are drawn later on, for comparison; width and height are the
            pictures' own.
        names: of the pictures. notes: sentences for the report. vae: a mark of the VAE.

    Raises:
        SettingsError: fewer than two pictures, other numbers of captions or names, or latents with NaN or Inf.
    """
    count = len(pictures)
    if count < LEAST:
        raise SettingsError(
            f"{count or 'No'} picture{'s' * (count != 1)} cannot teach an effect: at least {LEAST} are needed",
            hint="Ten to fifty that show the same thing in different ways are a good number.",
        )
    if len(captions) != count or (names is not None and len(names) != count):
        raise SettingsError(f"There are {count} pictures and {len(captions)} captions")
    tell, latents = progress or silent, []
    names = list(names) if names is not None else [f"picture {i + 1}" for i in range(count)]
    for i in range(count):
        tell(i, count, f"encoding {names[i]}")
        latents.append(encode(pictures[i : i + 1]).float().cpu())
        if not all_finite(latents[-1]):
            raise SettingsError(f"The VAE makes NaN or Inf of {names[i]}", hint="Load it in bf16 or fp32.")
    tell(count, count, "")
    how = asdict(drawing or Drawing()) | {"width": pictures.shape[2], "height": pictures.shape[1]}
    info = {
        "pictures": names,
        "notes": list(notes),
        "vae": vae,
        "drawing": how,
        "seed": seed,
        "evaluations": 0,
        "distinct_prompts": len(set(captions)),
    }
    return Dataset(list(captions), torch.cat(latents), None, None, None, torch.ones(count, dtype=torch.bool), info=info)


def account_of_pictures(dataset: Dataset) -> str:
    """What the pictures are, in sentences and a table."""
    info, count = dataset.info, len(dataset.prompts)
    how, names = info["drawing"], info["pictures"]
    lines = [
        f"{count} pictures of {how['width']} × {how['height']} with {len(set(dataset.prompts))} different captions.",
        "They have no teacher: Distill Adapter learns from them with the objective samples and needs no source and no "
        "LoRA.",
        *(in_markdown(str(note)) for note in info["notes"]),
    ]
    rows = [[str(i + 1), str(name), text] for i, (name, text) in enumerate(zip(names, dataset.prompts, strict=True))]
    return joined([*lines, table(("sample", "picture", "caption"), rows)])


def tag_frequency(captions: Sequence[str]) -> dict[str, str]:
    """Captions as metadata that trainers write into a LoRA: how often each part between commas occurs."""
    counts = Counter(tag.strip() for text in captions for tag in text.split(",") if tag.strip())
    return {TAGS: json.dumps({"pictures": dict(counts)}, ensure_ascii=False)}
