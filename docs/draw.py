"""Draws the icon, the banner and the pictures of the help pages: ``python docs/draw.py [NAME …]``.

The help pages' pictures are real outputs of the example family, the same bytes on the same machine. Colours are
Okabe and Ito's, which every kind of colour sight tells apart.
"""

from __future__ import annotations

import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from lora_graft import adapters
from lora_graft.adapters import Adapter
from lora_graft.bases import open_base
from lora_graft.family import materialize, text
from lora_graft.family.demo import PROMPTS, contact_sheet
from lora_graft.family.denoiser import FamilyDenoiser
from lora_graft.family.sample import sample
from lora_graft.family.vae import decode, encode
from lora_graft.jobs.convert import convert
from lora_graft.jobs.distill import dataset as datasets
from lora_graft.jobs.distill.dataset import Dataset
from lora_graft.jobs.distill.denoiser import Drawing, Teacher
from lora_graft.jobs.distill.discriminator import Encoder, train_discriminator
from lora_graft.jobs.distill.distill import Distillation, Distilled, distill
from lora_graft.jobs.distill.generate import Generation, generate
from lora_graft.jobs.distill.picture_files import open_folder, read_picture
from lora_graft.jobs.distill.pictures import picture_dataset
from lora_graft.jobs.distill.schedule import Training
from lora_graft.jobs.distill.strength import match_strength
from lora_graft.jobs.merge.merge import MergeSettings, merge
from lora_graft.jobs.merge.resize import ResizeSettings, resize
from lora_graft.jobs.transfer.compare import compare
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from lora_graft.kernels.distill.looks import pixels
from lora_graft.kernels.spectral import SubspaceSize
from lora_graft.kernels.threads import one_thread
from lora_graft.plots import canvas, clusters, heatmap, loss_curve
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve
from PIL import Image

HERE = Path(__file__).resolve().parent
HELP = HERE.parent / "web" / "docs" / "images"
BLUE, ORANGE, GREEN, NIGHT = "#0072B2", "#E69F00", "#009E73", "#12161c"
COUNT, WIDTH = 5, 640  # pictures in a row, pixels


def tree(axes) -> None:
    """A scion (orange) set into the cleft of a stock (blue) and in leaf (green), in a square of side 1."""

    def leaf(x: float, y: float, dx: float, dy: float) -> None:
        curve = [
            (x, y),
            (x + dx * 0.1 - dy * 0.6, y + dy * 0.1 + dx * 0.6),
            (x + dx * 0.8 - dy * 0.3, y + dy * 0.8 + dx * 0.3),
            (x + dx, y + dy),
            (x + dx * 0.9 + dy * 0.5, y + dy * 0.9 - dx * 0.5),
            (x + dx * 0.3 + dy * 0.5, y + dy * 0.3 - dx * 0.5),
            (x, y),
        ]
        axes.add_patch(PathPatch(Curve(curve, [1, 4, 4, 4, 4, 4, 4]), facecolor=GREEN, linewidth=0))

    stock = [(0.36, 0.08), (0.36, 0.52), (0.5, 0.3), (0.64, 0.52), (0.64, 0.08)]
    scion = [(0.5, 0.36), (0.38, 0.55), (0.44, 0.84), (0.56, 0.84), (0.62, 0.55)]
    for points, colour in ((stock, BLUE), (scion, ORANGE)):
        axes.add_patch(PathPatch(Curve([*points, points[0]]), facecolor=colour, edgecolor=colour, linewidth=0))
    leaf(0.54, 0.66, 0.3, 0.1)
    leaf(0.46, 0.74, -0.26, 0.16)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()


def icon() -> np.ndarray:
    sheet = canvas.figure(400, 400)
    sheet.set_facecolor(NIGHT)
    tree(sheet.add_axes((-0.04, -0.03, 1.06, 1.06)))
    return canvas.pixels(sheet)


def banner() -> np.ndarray:
    """21 : 9; the pictures at the right are drawn by the family."""
    sheet = canvas.figure(1050, 450)
    sheet.set_facecolor(NIGHT)
    tree(sheet.add_axes((0.015, 0.43, 0.14, 0.327)))
    style = canvas.text_style(40) | {"color": "white", "fontweight": "bold"}
    sheet.text(0.165, 0.58, "LoRA Graft", va="center", **style)
    quiet = canvas.text_style(15) | {"color": "#c8d0d8"}
    sheet.text(0.033, 0.29, "Move, merge and re-teach LoRAs\nacross base models", va="center", linespacing=1.5, **quiet)
    pixels, size, left = canvas.pixels(sheet), 192, 610
    frame, moved = lora("frame_a"), moved_to_b("frame_a")
    rows = [("a", None), ("a", frame)], [("b", None), ("b", moved)]
    for i, row in enumerate(rows):
        for j, (base, adapter) in enumerate(row):
            tile = (drawn(base, adapter, PROMPTS[2:3])[0].permute(1, 2, 0) * 255).round().byte().numpy()
            top, start = 24 + i * (size + 18), left + j * (size + 18)
            pixels[top : top + size, start : start + size] = tile.repeat(3, 0).repeat(3, 1)
    return pixels


def drawn(base: str, adapter: Adapter | None = None, prompts=PROMPTS[:COUNT], strength: float = 1.0):
    return sample(
        materialize.base(base),
        materialize.autoencoder(),
        prompts,
        range(len(prompts)),
        adapters=[(adapter, strength)] if adapter else [],
    )


def lora(name: str) -> Adapter:
    return adapters.read(FILES[f"family_{name}"])


def base(name: str):
    return open_base(FILES[f"family_{name}"])


def moved_to_b(name: str) -> Adapter:
    return transfer(lora(name), base("a"), base("b"), TransferSettings()).adapter


def three(method: str, rank: int | str = 12):
    loras = [(lora(f"{effect}_a"), 1.0, 1.0) for effect in materialize.EFFECTS]
    return merge(loras, MergeSettings(method=method, rank=rank))


def load_lora() -> np.ndarray:
    rows = [(f"{effect}", drawn("a", lora(f"{effect}_a"))) for effect in materialize.EFFECTS]
    return contact_sheet([("the base alone", drawn("a")), *rows])


def apply_lora() -> np.ndarray:
    slant = lora("slant_a")
    return contact_sheet([(f"strength {s:g}", drawn("a", slant, strength=s)) for s in (-1, 0, 0.5, 1)])


def save_lora() -> np.ndarray:
    stripes, folder = lora("stripes_a"), Path(tempfile.mkdtemp())
    rows = [("in the graph", drawn("a", stripes))]
    for layout in ("kohya", "diffusers"):
        path = adapters.write(convert(stripes, layout, base("a")), folder / f"{layout}.safetensors")
        again = convert(adapters.read(path), "kohya", base("a"))
        rows.append((f"saved as {layout}\nand loaded again", drawn("a", again)))
    return contact_sheet(rows)


def similarity() -> np.ndarray:
    return heatmap(compare(base("a"), base("b"), SubspaceSize(share=0.25), adapter=lora("frame_a")), WIDTH)


def transferred() -> np.ndarray:
    return contact_sheet(
        [
            ("target alone", drawn("b")),
            ("target with the\ntransferred LoRA", drawn("b", moved_to_b("frame_a"))),
            ("source with its LoRA", drawn("a", lora("frame_a"))),
        ]
    )


def lego() -> np.ndarray:
    return clusters(three("lego").report, WIDTH)


def merges() -> np.ndarray:
    rows = [("base alone", drawn("a")), ("concat, rank 24", drawn("a", three("concat", "sum").adapter))]
    rows += [(f"{name}, rank 12", drawn("a", three(name).adapter)) for name in ("svd", "lego", "dare", "ties")]
    return contact_sheet(rows)


def resized() -> np.ndarray:
    stripes = lora("stripes_a")
    cut = {rank: resize(stripes, ResizeSettings("rank", rank)).adapter for rank in (4, 2, 1)}
    return contact_sheet(
        [
            ("rank 8, as trained", drawn("a", stripes)),
            *((f"rank {rank}", drawn("a", small)) for rank, small in cut.items()),
        ]
    )


def denoiser(name: str, adapter: Adapter | None = None, strength: float = 1.0) -> FamilyDenoiser:
    return FamilyDenoiser(name, FILES, [(adapter, strength)] if adapter else [])


def teacher(effect: str, strength: float = 1.0) -> Teacher:
    return Teacher(denoiser("a"), [denoiser("a", lora(f"{effect}_a"), strength)])


@lru_cache(maxsize=8)
def data(effect: str, target: str, strength: float = 1.0) -> Dataset:
    """64 samples; the first prompts are those of the other pictures."""
    lines = PROMPTS[:COUNT] + [text.prompt(i * 3 % 10, i % 4) for i in range(32 - COUNT)]
    how = Drawing(64, 64, 10, 3.0, scheduler="simple", batch=32)
    return generate(teacher(effect, strength), denoiser(target), lines, Generation(64, 0, how))


@lru_cache(maxsize=8)
def taught(effect: str, target: str, steps: int) -> Distilled:
    settings = Distillation(training=Training(steps, batch=32, accumulation=1))
    return distill(data(effect, target), teacher(effect), denoiser(target), [lora(f"{effect}_a")], settings)


def decoded(latents):
    return decode(materialize.autoencoder(), latents[:COUNT])


def actions() -> np.ndarray:
    """How strongly LoRAs act on every sample of a dataset, beside the threshold."""
    shown, least = [*((effect, 1.0) for effect in materialize.EFFECTS), ("stripes", 0.08)], Generation().least_action
    sheet = canvas.figure(WIDTH, 280)
    axes = sheet.add_axes((0.27, 0.2, 0.7, 0.66))
    for position, (effect, strength) in enumerate(reversed(shown)):
        acts, heights = data(effect, "b", strength).acts.numpy(), np.linspace(position + 0.25, position - 0.25, 32)
        for part, colour in ((acts >= least, BLUE), (acts < least, ORANGE)):
            axes.scatter(acts[part], heights[part], s=24, color=colour, edgecolor="white", linewidth=0.5)
    axes.axvline(least, color=canvas.INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xscale("log")
    axes.set_xticks([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2], ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"])
    axes.set_xlim(0.02, 2)
    axes.minorticks_off()
    axes.set_yticks(range(len(shown)), [f"{effect}, strength {strength:g}" for effect, strength in reversed(shown)])
    axes.set_xlabel("action on a sample (1: as far as between two unrelated seeds)", **canvas.text_style(10))
    axes.tick_params(labelsize=10, labelfontfamily=canvas.FONT, colors=canvas.INK)
    sheet.text(0.27, 0.92, "Kept (blue) and rejected (orange) samples of four datasets", **canvas.text_style(11))
    return canvas.pixels(sheet)


def from_pictures() -> np.ndarray:
    """The example pictures, a LoRA-X adapter learnt from them, and that adapter on two relatives by projection."""
    found = open_folder(materialize.HERE / "pictures")
    pictures = torch.stack([read_picture(file) for file in found.pictures])
    captions = found.captions()
    space = materialize.autoencoder()
    own = picture_dataset(pictures, captions, lambda picture: encode(space, picture.permute(0, 3, 1, 2)))
    settings = Distillation(kind="lora-x", rank=48, training=Training(100, batch=32, accumulation=1))
    learnt = distill(own, None, denoiser("a"), [], settings).adapter
    moved = {to: transfer(learnt, base("a"), base(to), TransferSettings(method="lora-x")).adapter for to in "bc"}
    return contact_sheet(
        [
            ("five of ten pictures", pictures[:COUNT].permute(0, 3, 1, 2)),
            ("base A alone", drawn("a")),
            ("A with the adapter\ntrained from them", drawn("a", learnt)),
            ("B, a fine-tune,\nby projection", drawn("b", moved["b"])),
            ("C, pruned,\nby projection", drawn("c", moved["c"])),
        ]
    )


def saved_dataset() -> np.ndarray:
    path = datasets.save(data("frame", "b"), Path(tempfile.mkdtemp()) / "dataset.safetensors")
    held = datasets.load(path)
    return contact_sheet(
        [
            ("source with its LoRA", decoded(held.taught)),
            ("source alone,\nthe same seeds", decoded(held.plain)),
            ("target alone,\nother seeds", decoded(held.target)),
        ]
    )


def learnt_again() -> np.ndarray:
    rows = [
        (f"learnt from it in\n{steps} steps", drawn("s", taught("frame", "s", steps).adapter))
        for steps in (25, 50, 100, 200)
    ]
    return contact_sheet([("the data: source\nwith its LoRA", decoded(data("frame", "s").taught)), *rows])


def distilled() -> np.ndarray:
    copied = transfer(lora("frame_a"), base("a"), base("s"), TransferSettings(method="copy")).adapter
    return contact_sheet(
        [
            ("source with its LoRA", drawn("a", lora("frame_a"))),
            ("target alone:\na stranger", drawn("s")),
            ("target with the LoRA\ncopied", drawn("s", copied)),
            ("target with the\ndistilled adapter", drawn("s", taught("frame", "s", 100).adapter)),
        ]
    )


def learning() -> np.ndarray:
    return loss_curve(taught("frame", "s", 100).report, WIDTH, 350)


def matched() -> np.ndarray:
    original, target = lora("slant_a"), denoiser("c")
    copied = transfer(original, base("a"), base("c"), TransferSettings(method="copy")).adapter
    found = match_strength(
        teacher("slant"), target, lambda strength: denoiser("c", copied, strength), data("slant", "c"), batch=32
    )
    return contact_sheet(
        [
            ("target alone:\npruned", drawn("c")),
            ("with the copied LoRA\nat strength 1", drawn("c", copied)),
            (f"at the matched\nstrength {found.value:.2f}", drawn("c", copied, strength=found.value)),
            ("source with its LoRA", drawn("a", original)),
        ]
    )


def likenesses() -> np.ndarray:
    """What a discriminator of the frame says of pictures it has not seen."""
    from lora_graft.family.training import data as real

    dice = torch.Generator().manual_seed(0)
    shown = real.render(52, effects=real.only("frame", 52), generator=dice).images
    prompts = [text.prompt(i % 10, i // 10 % 4) for i in range(96)]
    drawings = {
        name: sample(
            materialize.base("a"),
            materialize.autoencoder(),
            prompts[:count],
            range(first, first + count),
            adapters=[(lora(f"{name}_a"), 1.0)] if name else [],
        )
        for name, count, first in (("", 96, 0), ("frame", 32, 500), ("slant", 32, 600))
    }
    classes = [pixels(images) for images in (shown[:20], drawings[""][:64])]
    found = train_discriminator(*classes, Encoder("pixels", classes[0].shape[1], 64, 64))
    rows = {
        "real pictures": shown[20:],
        "base with the LoRA": drawings["frame"],
        "with another LoRA": drawings["slant"],
        "base alone": drawings[""][64:],
    }
    sheet = canvas.figure(WIDTH, 280)
    axes = sheet.add_axes((0.27, 0.2, 0.7, 0.66))
    for position, images in enumerate(reversed(rows.values())):
        like, heights = found.likeness(pixels(images)).numpy(), np.linspace(position + 0.25, position - 0.25, 32)
        for part, colour in ((like >= 0.5, BLUE), (like < 0.5, ORANGE)):
            axes.scatter(like[part], heights[part], s=24, color=colour, edgecolor="white", linewidth=0.5)
    axes.axvline(0.5, color=canvas.INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xlim(0, 1)
    axes.set_yticks(range(len(rows)), list(reversed(rows)))
    axes.set_xlabel("likeness to the real pictures", **canvas.text_style(10))
    axes.tick_params(labelsize=10, labelfontfamily=canvas.FONT, colors=canvas.INK)
    sheet.text(0.27, 0.92, "Accepted (blue) and rejected (orange) by a discriminator", **canvas.text_style(11))
    return canvas.pixels(sheet)


PICTURES = {
    "icon.png": icon,
    "banner.png": banner,
    "load_lora.jpg": load_lora,
    "apply_lora.jpg": apply_lora,
    "save_lora.jpg": save_lora,
    "similarity.png": similarity,
    "transfer.jpg": transferred,
    "lego_merge.png": lego,
    "merge_loras.jpg": merges,
    "resize_lora.jpg": resized,
    "synthetic_dataset.png": actions,
    "picture_dataset.jpg": from_pictures,
    "train_discriminator.png": likenesses,
    "save_dataset.jpg": saved_dataset,
    "load_dataset.jpg": learnt_again,
    "distill.jpg": distilled,
    "loss_curve.png": learning,
    "match_strength.jpg": matched,
}


if __name__ == "__main__":
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        FILES = materialize.materialize(folder, text_encoder=False)
        for name in sys.argv[1:] or PICTURES:
            path = (HERE if name in ("icon.png", "banner.png") else HELP) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(PICTURES[name]())
            if path.suffix == ".png":
                picture = picture.quantize(256, dither=Image.Dither.NONE) if path.parent == HELP else picture
            picture.save(path, optimize=True, quality=88)
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
