"""Where to compute: what a user asked for, as torch has it."""

from __future__ import annotations

from ..errors import SettingsError


def device_of(choice: str, *, hint: str = "Choose auto or cpu.") -> str:
    """``cpu`` or ``cuda`` for one of ``choices.Work.devices``.

    Raises:
        SettingsError: a GPU was asked for and there is none; with the hint.
    """
    import torch

    there = torch.cuda.is_available()
    if choice == "cuda" and not there:
        raise SettingsError("there is no CUDA GPU that torch can use", hint=hint)
    return "cuda" if choice != "cpu" and there else "cpu"
