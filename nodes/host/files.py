"""ComfyUI's LoRA loader and its folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


def apply(model, clip, state: Mapping[str, Tensor], strength_model: float, strength_clip: float) -> tuple:
    """(MODEL, CLIP) with the LoRA on them, exactly as the host's own loader puts it there; None stays None."""
    import comfy.sd

    metadata = getattr(state, "metadata", None)
    patched = comfy.sd.load_lora_for_models(model, clip, dict(state), strength_model, strength_clip)
    for patcher in (patched[0], getattr(patched[1], "patcher", None)):
        if patcher is not None and metadata:
            patcher.set_attachments("lora_metadata", metadata)
    return patched


DISCRIMINATOR = "_discriminator"  # in the name of a file that lies beside a LoRA and is none


def lora_files() -> list[str]:
    """Names of the files in models/loras and output/loras, as the host lists them, without discriminators."""
    import folder_paths

    return [name for name in folder_paths.get_filename_list("loras") if DISCRIMINATOR not in Path(name).name]


def lora_path(name: str) -> Path | None:
    """Full path of one of :func:`lora_files`, or None when it is gone."""
    import folder_paths

    found = folder_paths.get_full_path("loras", name)
    return Path(found) if found else None


def save_folder(kind: str) -> Path:
    """Where LoRAs are saved: kind "models" → the first folder of models/loras, "output" → output/loras."""
    import folder_paths

    if kind == "models":
        return Path(folder_paths.get_folder_paths("loras")[0])
    return Path(folder_paths.get_output_directory()) / "loras"


def checkpoint_folder() -> Path:
    """Where runs that take minutes keep what they have reached: output/lora_graft_checkpoints."""
    import folder_paths

    return Path(folder_paths.get_output_directory()) / "lora_graft_checkpoints"


def dataset_folder() -> Path:
    """Where datasets are saved: output/datasets."""
    import folder_paths

    return Path(folder_paths.get_output_directory()) / "datasets"


def dataset_files() -> list[str]:
    """Names of the datasets in output/datasets and input, newest first; those in input begin with ``input/``."""
    import folder_paths

    folders = {"": dataset_folder(), "input/": Path(folder_paths.get_input_directory())}
    found = [
        (path.stat().st_mtime, prefix + path.relative_to(folder).as_posix())
        for prefix, folder in folders.items()
        if folder.is_dir()
        for path in folder.rglob("*.safetensors")
    ]
    return [name for _, name in sorted(found, reverse=True)]


def dataset_path(name: str) -> Path:
    """Full path of one of :func:`dataset_files`."""
    import folder_paths

    if name.startswith("input/"):
        return Path(folder_paths.get_input_directory()) / name.removeprefix("input/")
    return dataset_folder() / name


def input_path(text: str) -> Path:
    """A path as the user writes or pastes it; one that is not full lies in the host's input folder."""
    import folder_paths

    return Path(folder_paths.get_input_directory()) / Path(text.strip().strip("\"'")).expanduser()


def discriminator_files() -> list[str]:
    """Names of the discriminators beside LoRAs and in the input folder; the latter begin with ``input/``."""
    import folder_paths

    beside = [name for name in folder_paths.get_filename_list("loras") if DISCRIMINATOR in Path(name).name]
    root = Path(folder_paths.get_input_directory())
    given = [path for path in root.rglob("*.safetensors") if DISCRIMINATOR in path.name] if root.is_dir() else []
    return sorted(beside) + sorted(f"input/{path.relative_to(root).as_posix()}" for path in given)


def discriminator_path(name: str) -> Path | None:
    """Full path of one of :func:`discriminator_files`, or None when it is gone."""
    import folder_paths

    if name.startswith("input/"):
        found = Path(folder_paths.get_input_directory()) / name.removeprefix("input/")
        return found if found.is_file() else None
    return lora_path(name)
