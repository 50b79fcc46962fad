"""The main job in under a minute: move the frame LoRA from base A to base B and look at it.

Writes the models, the transferred LoRA, its report and a contact sheet: the target alone, the target with the LoRA
merely copied, with the transferred one, with the LoRA projected on the target's subspaces, with a LoRA-X adapter of the
same effect transferred, and the source with its LoRA.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import adapters, plots
from ..bases import open_base
from ..jobs.progress import Progress, silent
from ..jobs.transfer.transfer import TransferSettings, transfer
from ..kernels.threads import one_thread
from . import judge, materialize
from .sample import sample

EFFECT = "frame"
PROMPTS = [
    "white digit zero",
    "red digit two",
    "a green three",
    "number four in blue ink",
    "a red five",
    "blue digit six",
    "picture of a white seven",
    "green digit nine",
]
DIGITS = torch.tensor([0, 2, 3, 4, 5, 6, 7, 9])
COLOURS = torch.tensor([0, 1, 2, 3, 1, 3, 0, 2])


def contact_sheet(rows: Sequence[tuple[str, Tensor]]) -> np.ndarray:
    """Rows of pictures with a label at the left, (height, width, 3) uint8; images (n, 3, 64, 64) in [0, 1]."""
    return plots.contact_sheet([(label, images.permute(0, 2, 3, 1).numpy()) for label, images in rows])


@one_thread()
def run(out_folder: str | Path, progress: Progress | None = None) -> dict[str, Path | float]:
    """Run the demo; an earlier run's files in the folder are written anew.

    Returns:
        paths (``sheet``, ``report``, ``transferred_lora``, ``models``) and the judge's figures: the frame's strength
        (0 to 1) in each row, and the share of right digits and colours with the transferred LoRA.
    """
    out, tell, total = Path(out_folder), progress or silent, 8
    tell(0, total, "writing the models")
    models = materialize.materialize(out / "models", text_encoder=False)

    tell(1, total, "transferring the LoRA")
    source, target = open_base(models["family_a"]), open_base(models["family_b"])
    original = adapters.read(models[f"family_{EFFECT}_a"])
    result = transfer(original, source, target, TransferSettings(method="auto"))
    copied, projected = (transfer(original, source, target, TransferSettings(method=m)) for m in ("copy", "lora-x"))
    native = transfer(adapters.read(models[f"family_{EFFECT}_lorax_a"]), source, target, TransferSettings())
    moved_path = adapters.write(
        result.adapter,
        out / f"{EFFECT}_a_to_b.safetensors",
        names=target.names,
        overwrite=True,
        provenance=result.provenance,
    )
    report_path = out / "report.md"
    report_path.write_text(result.report.to_markdown(), encoding="utf-8")

    rows = {
        "frame_on_target_alone": ("target: base B", "b", None),
        "frame_copied": ("B + LoRA, copied", "b", copied.adapter),
        "frame_transferred": (
            f"B + LoRA, transferred\n(auto chose {result.report.method})",
            "b",
            adapters.read(moved_path),
        ),
        "frame_projected": ("B + LoRA, projected\n(lora-x)", "b", projected.adapter),
        "frame_of_lorax_adapter": (f"B + LoRA-X adapter\n(auto chose {native.report.method})", "b", native.adapter),
        "frame_on_source": ("source: base A + LoRA", "a", original),
    }
    pictures, figures = [], {}
    for done, (name, (label, base_name, adapter)) in enumerate(rows.items()):
        tell(2 + done, total, "drawing " + label.replace("\n", " "))
        images = sample(
            materialize.base(base_name),
            materialize.autoencoder(),
            PROMPTS,
            range(len(PROMPTS)),
            adapters=[(adapter, 1.0)] if adapter else [],
        )
        verdict = judge.look(materialize.judge_weights(), images)
        figures[name] = verdict.effects[:, materialize.EFFECTS.index(EFFECT)].mean().item()
        if name == "frame_transferred":
            figures["digits_right"], figures["colours_right"] = judge.accuracy(verdict, DIGITS, COLOURS)
        pictures.append((label, images))
    sheet_path = plots.save(contact_sheet(pictures), out / "sheet.png")
    tell(total, total, "done")
    return {
        **figures,
        "sheet": sheet_path,
        "report": report_path,
        "transferred_lora": moved_path,
        "models": out / "models",
    }
