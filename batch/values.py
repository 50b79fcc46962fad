"""What the right side of ``--set NODE.INPUT=VALUES`` means."""

from __future__ import annotations

import glob
import re
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import GraftError, SettingsError
from .catalogue import Spec

# Folders of a server whose files its menus list without the folder's name.
FOLDERS = {
    "loras",
    "checkpoints",
    "diffusion_models",
    "unet",
    "vae",
    "vae_approx",
    "text_encoders",
    "clip",
    "clip_vision",
    "controlnet",
    "embeddings",
    "upscale_models",
    "style_models",
    "gligen",
    "hypernetworks",
    "photomaker",
    "model_patches",
    "latent_upscale_models",
    "audio_encoders",
    "input",
}
TRUE, FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


def expand(text: str, spec: Spec, where: str) -> list:
    """The values that a text stands for, in order.

    ``@FILE`` gives the lines of a file, ``a|b`` alternatives (``\\|`` is a plain bar, ``\\@`` a plain @). In a menu of
    files each may be a glob.

    Args:
        where: the input as the user named it, for messages.

    Raises:
        SettingsError: a value that the input cannot take, or a glob that matches nothing.
        GraftError: a list file that is missing or empty.
    """
    if text.startswith("@"):
        texts = _lines(Path(text[1:]).expanduser())
    else:
        bare = text[1:] if text.startswith("\\@") else text
        texts = [part.replace("\\|", "|") for part in re.split(r"(?<!\\)\|", bare)]
    return [value for part in texts for value in _values(part, spec, where)]


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not a text in UTF-8"
        raise GraftError(f"the list of values cannot be read: {why}", file=path) from error
    lines = [line for line in lines if line]
    if not lines:
        raise GraftError("the list of values is empty", file=path)
    return lines


def _values(text: str, spec: Spec, where: str) -> list:
    kinds = spec.kind.split(",")
    if "COMBO" in kinds and spec.options:
        return _choices(text, spec.options, where)
    if "STRING" in kinds:
        return [text]
    plain = text.strip()
    if "BOOLEAN" in kinds and plain.lower() in TRUE | FALSE:
        return [plain.lower() in TRUE]
    if "INT" in kinds or "FLOAT" in kinds:
        return [_number(plain, spec, where)]
    if "COMBO" in kinds:
        if glob.has_magic(text):
            raise SettingsError(f"--set {where}: the server lists no files there that {text!r} could match")
        return [text]
    raise SettingsError(f"--set {where}: {text!r} is not true or false")


def _number(text: str, spec: Spec, where: str) -> int | float:
    whole = "FLOAT" not in spec.kind.split(",")
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        raise SettingsError(f"--set {where}: {text!r} is not a {'whole ' if whole else ''}number") from None
    low, high = spec.lowest, spec.highest
    if value != value or (low is not None and value < low) or (high is not None and value > high):
        raise SettingsError(f"--set {where}: {text} is not between {low} and {high}")
    return value


def _choices(text: str, options: tuple, where: str) -> list:
    """Entries of a menu that a text names: itself, a local file or glob, or a glob over the entries."""
    by_name = {str(option): option for option in options}
    if text in by_name:
        return [by_name[text]]
    here = sorted(Path(f) for f in glob.glob(str(Path(text).expanduser()), recursive=True) if Path(f).is_file())
    named = {file: _on_server(file, list(by_name), where) for file in here}
    missing = [str(file) for file, name in named.items() if name is None]
    if len(missing) < len(here):
        _all_there(missing, here, where)
        return [by_name[name] for name in dict.fromkeys(named.values()) if name is not None]
    for pattern in dict.fromkeys((_parts(text), _inside_folder(_parts(text)))):
        found = [name for name in by_name if _fits(_parts(name), pattern)]
        if found:
            return [by_name[name] for name in found]
    _all_there(missing, here, where)
    if not glob.has_magic(text):
        stem = "/".join(_inside_folder(_parts(text)))
        found = [name for name in by_name if "/".join(_parts(name)).rpartition(".")[0] == stem]
        if len(found) == 1:
            return [by_name[found[0]]]
        close = get_close_matches(text, list(by_name), 5, 0.4)
        raise SettingsError(
            f"--set {where}: {text!r} is none of the {len(options)} values that the server lists",
            hint=f"Did you mean {' or '.join(close)}?" if close else _some(by_name),
        )
    raise SettingsError(
        f"--set {where}: {text!r} matches no file here and none of the {len(options)} names that the server lists",
        hint=_some(by_name) + " `*` stays within a folder, `**/*` looks into subfolders.",
    )


def _on_server(file: Path, names: list[str], where: str) -> str | None:
    """The server's name of a local file: the one that shares the longest end of its path, at least the file's name."""
    parts = file.resolve().parts
    tails = {name: _parts(name) for name in names if _parts(name)[-1] == file.name}
    fitting = [name for name, tail in tails.items() if parts[-len(tail) :] == tail]
    if not fitting and len(tails) > 1:
        raise SettingsError(f"--set {where}: {file} may be any of {', '.join(tails)}", hint="Write one of them.")
    return max(fitting or tails, key=lambda name: len(tails[name]), default=None)


def _all_there(missing: list[str], files: list[Path], where: str) -> None:
    if missing:
        raise SettingsError(
            f"--set {where}: {len(missing)} of {len(files)} files here are not on the server: "
            + ", ".join(missing[:5])
            + (" …" if len(missing) > 5 else ""),
            hint="Copy them to the folder of models that the server reads (for LoRAs models/loras).",
        )


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.replace("\\", "/").split("/") if part not in ("", "."))


def _inside_folder(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Without a server's folder in front: ``loras/*`` and ``/comfyui/models/loras/*`` are ``*`` of its list."""
    edges = [i for i, part in enumerate(parts[:-1]) if part in FOLDERS]
    return parts[edges[-1] + 1 :] if edges else parts


def _fits(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_fits(path[i:], pattern[1:]) for i in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])


def _some(names) -> str:
    names = list(names)
    return "It lists " + ", ".join(names[:8]) + (" …" if len(names) > 8 else "") + "."
