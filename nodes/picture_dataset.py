"""Picture Dataset: the user's own pictures and captions, for an adapter that has no teacher."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..choices import Dataset
from . import host
from .common import CATEGORY, shown
from .distilling import DATASET, SHOWN, drawing_inputs, learning


class PictureDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoraGraft_PictureDataset",
            display_name="Picture Dataset",
            category=CATEGORY,
            description="Your own pictures and captions, from which Distill Adapter trains a LoRA or a LoRA-X adapter "
            "without source and LoRAs. Each picture is scaled to cover the size and cropped in the middle. Files are "
            "only read.",
            search_aliases=["train lora from pictures", "image dataset", "training images", "captions", "lora-x"],
            is_input_list=True,  # so that pictures of several sizes arrive together
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="A folder of png, jpg or webp pictures; without a full path, one in ComfyUI's input "
                    "folder. Beside each picture a text file of its name may hold the caption. Empty with images.",
                ),
                io.String.Input(
                    "captions",
                    multiline=True,
                    default="",
                    tooltip="One caption a line in the order of the pictures, or a single one for all. Empty: the text "
                    "files beside the pictures.",
                ),
                io.Vae.Input("vae", tooltip="The VAE of the base that will learn."),
                *drawing_inputs(folded=True),
                io.Int.Input(
                    "seed",
                    default=Dataset.seed,
                    min=0,
                    max=2**32 - 1,
                    advanced=True,
                    control_after_generate="fixed",
                    tooltip="Seed of the pictures that Distill Adapter draws for comparison.",
                ),
                io.Image.Input("images", optional=True, tooltip="The pictures, in place of a folder."),
            ],
            outputs=[
                DATASET.Output("dataset", display_name="dataset", tooltip="For Distill Adapter and Save Dataset."),
                io.Image.Output("previews", display_name="previews", tooltip="The pictures as they will be learnt."),
                io.String.Output("report", display_name="report", tooltip="What was read and how, in Markdown."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder=("",), **_):
        """Pictures and captions may change while the path stays."""
        path = host.input_path(folder[0]) if folder[0].strip() else None
        try:
            files = sorted(path.iterdir()) if path is not None else []
            return [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files]
        except OSError:
            return []

    @classmethod
    def execute(cls, folder, captions, vae, images=(), **how) -> io.NodeOutput:
        from ..jobs.distill.denoiser import Drawing
        from ..jobs.distill.generate import account
        from ..jobs.distill.pictures import one_size, picture_dataset
        from .host.denoiser import mark_of

        how = {name: values[0] for name, values in how.items()}
        seed, progress = how.pop("seed"), host.Progress(spoken=True)
        drawing = Drawing(sampler=how.pop("sampler_name"), **how)
        with learning():
            pictures, names, texts, notes = _gathered(folder[0], captions, list(images))
            fitted, changes = one_size(pictures, names, drawing.width, drawing.height)
            dataset = picture_dataset(
                fitted,
                texts,
                lambda picture: _encoded(vae[0], picture),
                drawing=drawing,
                seed=seed,
                names=names,
                notes=[*changes, *notes],
                vae=mark_of(vae[0]),
                progress=progress,
            )
        text = account(dataset)
        return io.NodeOutput(dataset, fitted, text, ui=shown(text, fitted[:SHOWN], cls))


def _gathered(folder: str, captions: list[str], images: list) -> tuple[list, list[str], list[str], list[str]]:
    """(pictures (h, w, 3), their names, their captions, sentences on what was passed over).

    Raises:
        SettingsError: no pictures or two sources of them, a picture or caption that is missing or cannot be read.
    """
    from ..errors import SettingsError
    from ..jobs.distill.picture_files import open_folder, read_picture
    from ..jobs.distill.pictures import captions_for

    lines = captions[0].splitlines() if len(captions) == 1 else [" ".join(text.split()) for text in captions]
    written = any(line.strip() for line in lines)
    if images and folder.strip():
        raise SettingsError("Pictures come from the input images and from a folder", hint="Choose one of them.")
    if images:
        pictures = [picture[..., :3] for batch in images for picture in batch]
        return pictures, [f"image {i + 1}" for i in range(len(pictures))], captions_for(lines, len(pictures)), []
    if not folder.strip():
        hint = "Connect images, or give a folder."
        raise SettingsError("There are captions but no pictures" if written else "There are no pictures", hint=hint)
    found = open_folder(host.input_path(folder))
    texts = captions_for(lines, len(found.pictures)) if written else found.captions()
    pictures = []
    for file in found.pictures:
        host.check_cancelled()
        pictures.append(read_picture(file))
    return pictures, [file.name for file in found.pictures], texts, found.notes(texts_used=not written)


def _encoded(vae, picture: torch.Tensor) -> torch.Tensor:
    host.check_cancelled()
    with torch.no_grad():
        return vae.encode(picture)
