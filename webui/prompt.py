"""LoRAs with their strengths as prompts of these hosts name them: ``<lora:name:0.8>``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from ..errors import SettingsError

Weighted = tuple[str, float, float]  # name, strength on the model, strength on the text encoder
MOST = 50  # LoRAs of one job
_TAG = re.compile(r"<lora:([^<>]*)>", re.IGNORECASE)


def tags(text: str) -> list[Weighted]:
    """The LoRAs that a text names, in order; everything else in it is passed over.

    Numbers mean what they mean in Automatic1111 and Forge: none is 1, one is for all, and of two the first is for the
    text encoder and the second for the model. ``te=`` and ``unet=`` may say so by name.

    Raises:
        SettingsError: a strength is no finite number, or there are too many LoRAs.
    """
    return _few([_weighted(*inside.split(":")) for inside in _TAG.findall(text)])


def listed(entries: Any) -> list[Weighted]:
    """The same from what a script sends: names, or objects with name, strength and strength_clip.

    Raises:
        SettingsError: an entry is of another form.
    """
    if not isinstance(entries, (list, tuple)):
        raise SettingsError("loras is a text with <lora:name:0.8> tags, or a list")
    return _few([_entry(entry) for entry in entries])


def tag(name: str, strength: float = 1.0) -> str:
    """What a prompt says to use a LoRA."""
    return f"<lora:{name}:{strength:g}>"


def _entry(entry: Any) -> Weighted:
    if isinstance(entry, str):
        return entry, 1.0, 1.0
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or entry.keys() - _KEYS:
        raise SettingsError(f"{str(entry)[:80]} is no LoRA", hint="Give a name, or {name, strength, strength_clip}.")
    model = _number(entry["name"], entry.get("strength", 1.0))
    return entry["name"], model, _number(entry["name"], entry.get("strength_clip", model))


_KEYS = {"name", "strength", "strength_clip"}


def _weighted(name: str, *numbers: str) -> Weighted:
    if not name.strip():
        raise SettingsError("a <lora:…> tag has no name")
    named = dict(number.split("=", 1) for number in numbers if "=" in number)
    plain = [number for number in numbers if "=" not in number]
    clip = _number(name, named.get("te", plain[0] if plain else 1.0))
    return name.strip(), _number(name, named.get("unet", plain[1] if len(plain) > 1 else clip)), clip


def _number(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or abs(number) > 1e6:
        raise SettingsError(f"the strength of {name[:80]} is {str(value)[:40]!r}", hint="A strength is a number.")
    return number


def _few(found: Sequence[Weighted]) -> list[Weighted]:
    if len(found) > MOST:
        raise SettingsError(f"{len(found)} LoRAs are too many at once", hint=f"Take at most {MOST}.")
    return list(found)
