"""Automatic1111, Forge and Forge Neo as hosts: their folders, their queue, their progress.

``modules`` is the hosts' own package. What only some of them have is asked for with a default.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import base64
import logging
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import GraftError
from .paths import CHECKPOINTS, adapters_in, bases_in, new_folder
from .words import language_of

log = logging.getLogger("lora_graft")


class A1111:
    """The host that runs, asked anew each time: its settings and lists change."""

    sends = True

    @property
    def lora_folder(self) -> Path:
        """The host's LoRA folder, or the folder in it that the settings name."""
        folder, wanted = Path(_options().lora_dir).absolute(), _setting("lora_graft_folder", "")
        if not wanted:
            return folder
        try:
            inner = new_folder(folder, wanted)
        except GraftError as error:
            log.warning("LoRA Graft: the setting for the folder of results is passed over: %s", error)
            return folder
        inner.mkdir(parents=True, exist_ok=True)
        return inner

    @property
    def device(self) -> str:
        import torch

        options, wanted = _options(), _setting("lora_graft_device", "auto")
        off = any(getattr(options, name, False) is True for name in ("always_cpu", "cpu"))
        off = off or "all" in (getattr(options, "use_cpu", None) or ())
        return "cuda" if torch.cuda.is_available() and wanted != "cpu" and not off else "cpu"

    @property
    def language(self) -> str:
        wanted = _setting("lora_graft_language", "auto")
        return language_of(_setting("localization", "") if wanted == "auto" else wanted)

    @property
    def origins(self) -> tuple[str, ...]:
        """Those to which the host opens its own routes by name."""
        named = getattr(_options(), "cors_allow_origins", None) or ""
        return tuple(origin.strip().rstrip("/") for origin in named.split(",") if "://" in origin)

    def bases(self) -> Mapping[str, Path]:
        """The host's own list of checkpoints, less the pickles, and models in folders beside them."""
        from modules import sd_models

        found = {info.name: Path(info.filename) for info in sd_models.checkpoints_list.values()}
        files = {name.replace("\\", "/"): p for name, p in found.items() if p.suffix.lower() in CHECKPOINTS}
        places = [getattr(sd_models, "model_path", None), getattr(_options(), "ckpt_dir", None)]
        beside = bases_in(dict.fromkeys(Path(place).absolute() for place in places if place))
        folders = {name: path for name, path in beside.items() if path.is_dir()}
        return dict(sorted({**folders, **files}.items()))

    def loras(self) -> Mapping[str, Path]:
        options = _options()
        folders = [options.lora_dir, *(getattr(options, "lora_dirs", None) or ())]
        return adapters_in(dict.fromkeys(Path(folder).absolute() for folder in folders))

    @contextmanager
    def working(self, title: str) -> Iterator[Interruptible]:
        """Behind the host's own generations, and shown and interrupted like one of them."""
        from modules import call_queue, shared

        with call_queue.queue_lock:
            shared.state.begin(job="lora_graft")
            shared.state.job_count = 1
            try:
                yield Interruptible(shared.state)
            finally:
                shared.state.end()

    def refreshed(self) -> None:
        """Prompts know the new LoRA at once; the host's cards show it after their refresh button."""
        networks = sys.modules.get("networks")  # of the host's own LoRA extension
        look = getattr(networks, "list_available_networks", None)
        if look is None:
            return
        try:
            look()
        except Exception as error:  # the result is written; that alone counts
            log.warning("LoRA Graft: the host could not list its LoRAs again: %s", error)


class Interruptible:
    """The host's state, as :class:`.host.Working`."""

    def __init__(self, state: Any):
        self.state = state

    def tell(self, done: int, total: int) -> None:
        self.state.sampling_steps, self.state.sampling_step = max(total, 1), done

    def interrupted(self) -> bool:
        return bool(self.state.interrupted or getattr(self.state, "stopping_generation", False))


def allowed(credentials: str) -> Callable[[Any], bool]:
    """Whether a request has one of the users and passwords of ``--api-auth`` (``user:password,…``)."""
    words = [f"Basic {base64.b64encode(pair.strip().encode()).decode()}" for pair in credentials.split(",") if pair]

    def check(request: Any) -> bool:
        given = request.headers.get("authorization", "").encode()
        return any([secrets.compare_digest(given, word.encode()) for word in words])

    return check


def _options() -> Any:
    from modules import shared

    return shared.cmd_opts


def _setting(name: str, default: str) -> str:
    """One of the host's settings, a text."""
    from modules import shared

    value = getattr(shared.opts, name, default)
    return value if isinstance(value, str) else default
