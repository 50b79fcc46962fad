"""Save LoRA: an adapter as a new .safetensors file, with its metadata and where it came from."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

from comfy_api.latest import io

from ..choices import File
from . import host
from .common import CATEGORY, to_adapter

FOLDERS = {"output/loras": "output", "models/loras": "models"}


class SaveLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoraGraft_SaveLoRA",
            display_name="Save LoRA",
            category=CATEGORY,
            description="Writes a LoRA as .safetensors. Metadata survives, where it came from is added, and no file is "
            "ever overwritten: a counter is appended to the name.",
            search_aliases=["export lora", "write lora", "convert lora"],
            is_output_node=True,
            inputs=[
                io.LoraModel.Input("lora", tooltip="The LoRA to save."),
                io.String.Input(
                    "filename_prefix",
                    default="LoRA-Graft",
                    tooltip="Beginning of the file name, perhaps with subfolders. A counter and .safetensors follow.",
                ),
                io.Combo.Input(
                    "folder",
                    options=list(FOLDERS),
                    default="output/loras",
                    tooltip="Both folders are searched by ComfyUI's LoRA loaders.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["same", *File.dtypes],
                    default=File.dtype or "same",
                    tooltip="Number format; same: as the LoRA came in.",
                ),
                io.Combo.Input(
                    "layout",
                    options=["same", *File.layouts],
                    default=File.layout,
                    advanced=True,
                    tooltip="Whose key names to write; same: as they came in. Others need the model input where the "
                    "LoRA alone does not tell which model it is for.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    lazy=True,
                    tooltip="The model the LoRA is for; known ones are recognised without it. Evaluated only when "
                    "layout is not same.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    lazy=True,
                    tooltip="Its text encoder, for LoRAs that change it. Evaluated only when layout is not same.",
                ),
            ],
            outputs=[io.String.Output("path", display_name="path", tooltip="Full path of the new file.")],
        )

    @classmethod
    def check_lazy_status(cls, layout, **inputs):
        return [] if layout == "same" else [n for n in ("model", "clip") if n in inputs and inputs[n] is None]

    @classmethod
    def execute(cls, lora, filename_prefix, folder, dtype, layout, model=None, clip=None) -> io.NodeOutput:
        from .. import adapters
        from ..jobs.convert import convert
        from ..jobs.loaders import unread

        adapter, notes = to_adapter(lora), []
        if layout != "same":
            adapter = convert(adapter, layout, None if model is None else host.HostBase(model, clip))
            notes = unread(adapter)
        path = saved(
            host.save_folder(FOLDERS[folder]),
            filename_prefix,
            lambda path: adapters.write(adapter, path, dtype=dtype),
        )
        return io.NodeOutput(str(path), ui={"text": (f"Saved {path}", *notes)})


def saved(root: Path, prefix: str, write: Callable[[Path], object]) -> Path:
    """Write a new file below root under the next free number; its path.

    Raises:
        SettingsError, AdapterError: as :func:`free_paths` and `write` do.
    """
    from ..errors import AdapterError

    for path in free_paths(root, prefix):
        try:
            write(path)
            return path
        except AdapterError:
            if not path.exists():
                raise  # else another job took the number meanwhile
    raise AssertionError("there is always another number")


def free_paths(root: Path, prefix: str):
    """prefix_00001.safetensors and so on below root, from the first number above every one in use.

    Raises:
        SettingsError: the prefix is empty or leads out of the folder.
    """
    from ..errors import SettingsError

    target = (root / prefix).resolve()
    if not prefix.strip() or prefix.endswith(("/", "\\")) or not target.is_relative_to(root.resolve()):
        raise SettingsError(f"The file name prefix {prefix!r} does not name a file inside {root}")
    target.parent.mkdir(parents=True, exist_ok=True)
    pattern = re.compile(re.escape(target.name) + r"_(\d+)(?:_)?\.safetensors", re.IGNORECASE)
    used = [int(match[1]) for entry in target.parent.iterdir() if (match := pattern.fullmatch(entry.name))]
    for number in itertools.count(max(used, default=0) + 1):
        yield target.with_name(f"{target.name}_{number:05}.safetensors")
