"""Opening a model: a diffusers folder, or a single file beside a folder that has what the file lacks."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..bases import Base, open_base
from ..errors import BaseModelError, GraftError, SettingsError, lacks_memory
from ..untrusted import parse_json
from .family import FAMILIES, Family
from .noise import Discrete, Flow, noise_of
from .weights import StoredParts, fill, stored_parts_of

PARTS = (
    "Give a diffusers folder of the same kind of model beside it (--source-parts or --target-parts; from Python "
    "source_parts or target_parts). Its configurations and tokenizers are enough where the file holds the text "
    "encoders and the VAE; what the file lacks is taken from the folder too."
)
MISSING = 'pip install "lora-graft[distill]"'


@dataclass
class Opened:
    """A model, ready to compute.

    base: its weights by canonical names. pipe: diffusers' pipeline, for its prompts. stored: of each part, where
    canonical weights lie in it. vae: None where there are no weights for it.
    """

    label: str
    base: Base
    family: Family
    pipe: Any
    noise: Discrete | Flow
    stored: dict[str, StoredParts]
    vae: Any
    scale: float
    shift: float
    channels: int
    dtype: torch.dtype

    @property
    def network(self) -> nn.Module:
        return getattr(self.pipe, self.family.network)

    def encoders(self) -> dict[str, nn.Module]:
        """The text encoders that the model has, by the name of their part."""
        found = {name: getattr(self.pipe, name) for name in self.family.encoders}
        return {name: model for name, model in found.items() if model is not None}

    def models(self) -> list[nn.Module]:
        return [self.network, *self.encoders().values(), *([] if self.vae is None else [self.vae])]

    @property
    def pixels(self) -> int:
        """Pixels a side that one number of the latents stands for."""
        return self.pipe.vae_scale_factor


def open_model(path: str | Path, parts: str | Path | None = None, dtype: torch.dtype = torch.float32) -> Opened:
    """Open a model for drawing and learning.

    Args:
        path: a diffusers folder, or one ``.safetensors`` file under the original names.
        parts: for a file, the folder that has configurations, tokenizers and what else the file lacks.
        dtype: of the network and the text encoders; the VAE stays in fp32.

    Raises:
        SettingsError: diffusers or transformers is not installed.
        BaseModelError: no such model, or none that diffusers opens; the file is named.
    """
    path = Path(path).expanduser()
    base, folder = open_base(path), path
    libraries = _libraries()
    if not path.is_dir():
        if parts is None:
            raise BaseModelError(
                "A single file holds no tokenizer and no configuration, and nothing is fetched from a network",
                file=path,
                hint=PARTS,
            )
        folder = Path(parts).expanduser()
        if not folder.is_dir():
            raise BaseModelError("The folder with a model's parts does not exist", file=folder)
    family = recognise(folder)
    with _told(folder):
        opened = _assemble(libraries, path, folder, family, base, dtype)
    if opened.network.config.get("in_channels") not in (opened.channels, 4 * opened.channels):
        raise BaseModelError(
            "The model takes more than noisy latents (a mask or a depth map, say), which nothing here draws",
            file=path,
            hint="Give the text-to-image model.",
        )
    return opened


def recognise(folder: Path) -> Family:
    """The kind of model in a diffusers folder.

    Raises:
        BaseModelError: none of those that are known.
    """
    for name, family in FAMILIES.items():
        if not (folder / family.network / "config.json").is_file():
            continue
        kind = _config(folder / family.network / "config.json").get("_class_name")
        double = (folder / "text_encoder_2").is_dir()
        if kind == family.network_class and (family.network != "unet" or double == (name == "sdxl")):
            return family
    known = ", ".join(family.name for family in FAMILIES.values())
    found = "".join(
        f" Its {part} is a {_config(folder / part / 'config.json').get('_class_name')}."
        for part in ("unet", "transformer")
        if (folder / part / "config.json").is_file()
    )
    raise BaseModelError(
        f"This is not a diffusers folder of a model that can be distilled here.{found}",
        file=folder,
        hint=f"Known are {known}: folders with model_index.json, unet/ or transformer/, vae/, text_encoder/, "
        "tokenizer/ and scheduler/. For other models use the Distill Adapter node in ComfyUI.",
    )


def _config(file: Path) -> dict:
    try:
        found = parse_json(file.read_bytes())
    except (OSError, ValueError) as problem:
        raise BaseModelError(f"The configuration cannot be read: {problem}", file=file) from problem
    if not isinstance(found, dict):
        raise BaseModelError("The configuration is not one", file=file)
    return found


def _libraries() -> tuple[Any, Any]:
    try:
        diffusers, transformers = importlib.import_module("diffusers"), importlib.import_module("transformers")
    except ImportError as problem:
        raise SettingsError(
            f"Distilling outside ComfyUI needs diffusers and transformers: {problem}", hint=f"Install them: {MISSING}"
        ) from problem
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return diffusers, transformers


@contextmanager
def _told(folder: Path):
    """Whatever the two libraries say of files that they cannot take is told as an error of the model."""
    try:
        yield
    except Exception as problem:
        if isinstance(problem, GraftError) or lacks_memory(problem):
            raise
        lines = str(problem).strip().splitlines() or [type(problem).__name__]
        raise BaseModelError(
            f"diffusers cannot open this model: {lines[0][:300]}",
            file=folder,
            hint="Look whether the folder is complete, or download it again.",
        ) from problem


def _assemble(libraries: tuple, path: Path, folder: Path, family: Family, base: Base, dtype: torch.dtype) -> Opened:
    diffusers, transformers = libraries
    file = None if path == folder else base
    found: dict[str, Any] = dict(family.more)
    stored: dict[str, StoredParts] = {}
    found[family.network], stored[family.network] = _part(
        getattr(diffusers, family.network_class), folder, family.network, file, dtype, path
    )
    for name, kind in family.encoders.items():
        found[name] = None
        if name in family.optional and not (folder / name).is_dir():
            continue
        found[name], stored[name] = _part(getattr(transformers, kind), folder, name, file, dtype, path)
    for name, kind in family.tokenizers.items():
        found[name] = None
        if name not in family.optional or (folder / name).is_dir():
            _need(folder, name)
            found[name] = getattr(transformers, kind).from_pretrained(folder / name, local_files_only=True)
    vae, config = _vae(diffusers.AutoencoderKL, folder, None if file is None else path)
    _need(folder, "scheduler")
    scheduler = _scheduler(diffusers, folder)
    pipe = getattr(diffusers, family.pipeline)(
        **found, vae=vae or _shell(diffusers.AutoencoderKL, config), scheduler=scheduler
    )
    return Opened(
        label=base.label,
        base=base,
        family=family,
        pipe=pipe,
        noise=noise_of(scheduler),
        stored=stored,
        vae=vae,
        scale=float(config.get("scaling_factor") or 1.0),
        shift=float(config.get("shift_factor") or 0.0),
        channels=int(config["latent_channels"]),
        dtype=dtype,
    )


def _need(folder: Path, name: str) -> None:
    if not (folder / name).is_dir():
        raise BaseModelError(f"The folder has no {name}/", file=folder, hint="Download the model whole.")


def _part(
    kind: Any, folder: Path, name: str, file: Base | None, dtype: torch.dtype, path: Path
) -> tuple[nn.Module, StoredParts]:
    """A network or text encoder, from the single file where that has it, else from the folder."""
    _need(folder, name)
    if file is not None:
        model = _blank(kind, folder / name, dtype)
        stored = stored_parts_of(model, name)
        if fill(model, stored, file):
            return model.eval().requires_grad_(False), stored
        if not _weights(folder / name):
            raise BaseModelError(
                f"Neither the file nor the folder beside it has the weights of {name}",
                file=path,
                hint=f"Put the safetensors weights of {name} into {folder / name}.",
            )
    if not _weights(folder / name):
        pickled = any(f.suffix in (".bin", ".ckpt", ".pt") for f in (folder / name).iterdir())
        raise BaseModelError(
            f"The folder {name}/ holds no safetensors weights",
            file=folder / name,
            hint="Pickled models are refused; use the safetensors version." if pickled else "Download the model whole.",
        )
    more = {} if _weights(folder / name, plain=True) else {"variant": _weights(folder / name)[0].split(".")[1]}
    model = kind.from_pretrained(folder / name, use_safetensors=True, local_files_only=True, **more)
    return model.to(dtype).eval().requires_grad_(False), stored_parts_of(model, name)


def _blank(kind: Any, folder: Path, dtype: torch.dtype) -> nn.Module:
    """A model of a configuration, its weights yet to come."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        if hasattr(kind, "load_config"):
            return kind.from_config(kind.load_config(folder, local_files_only=True))
        return kind(kind.config_class.from_pretrained(folder, local_files_only=True)).to(dtype)
    finally:
        torch.set_default_dtype(before)


def _weights(folder: Path, *, plain: bool = False) -> list[str]:
    """Names of the weight files of a part; plain: those of no variant (fp16, say)."""
    names = sorted(f.name for f in folder.glob("*.safetensors")) if folder.is_dir() else []
    return [name for name in names if not plain or name.count(".") == 1]


def _vae(kind: Any, folder: Path, file: Path | None) -> tuple[Any, Mapping]:
    """(the VAE or None where its weights are nowhere, its configuration)."""
    _need(folder, "vae")
    config = _config(folder / "vae" / "config.json")
    if file is not None and _holds_vae(file):
        vae = kind.from_single_file(file, config=str(folder / "vae"), local_files_only=True)
    elif names := _weights(folder / "vae"):
        more = {} if _weights(folder / "vae", plain=True) else {"variant": names[0].split(".")[1]}
        vae = kind.from_pretrained(folder / "vae", use_safetensors=True, local_files_only=True, **more)
    else:
        return None, config
    return vae.to(torch.float32).eval().requires_grad_(False), config


def _holds_vae(file: Path) -> bool:
    from ..io.safetensors import TensorFile

    return any(name.startswith("first_stage_model.") for name in TensorFile(file).entries)


def _shell(kind: Any, config: Mapping) -> Any:
    """A VAE without weights, from which diffusers' pipelines read how large a picture is."""
    with torch.device("meta"):
        return kind.from_config(config)


def _scheduler(diffusers: Any, folder: Path) -> Any:
    """The scheduler, of which only the noise levels are used."""
    name = _config(folder / "scheduler" / "scheduler_config.json").get("_class_name")
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if kind is None or not issubclass(kind, diffusers.SchedulerMixin):
        raise BaseModelError(f"diffusers has no scheduler {name!r}", file=folder / "scheduler")
    return kind.from_pretrained(folder / "scheduler", local_files_only=True)
