"""LoRA Graft as an extension of Automatic1111, Forge and Forge Neo: its tab, its routes, its settings."""
# pyright: reportMissingImports=false

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..choices import Page
from .a1111 import A1111, allowed
from .desk import Desk

NAME, IDENTIFIER = "LoRA Graft", "lora_graft"
SECTION = (IDENTIFIER, NAME)


@lru_cache(maxsize=1)
def desk() -> Desk:
    """The one queue of this process: jobs go on when the host builds its page again."""
    return Desk(A1111())


def register() -> None:
    """Tell the host what to call; once each time it loads its extensions."""
    from modules import script_callbacks

    script_callbacks.on_ui_tabs(tabs)
    script_callbacks.on_app_started(routes)
    script_callbacks.on_ui_settings(settings)


def tabs() -> list[tuple[Any, str, str]]:
    from .page import build

    return [(build(desk()), NAME, IDENTIFIER)]


def routes(demo: Any, app: Any) -> None:
    """The API, where the host has one (``--api``), and under the same password."""
    from modules import shared

    from .api import register as add

    if not getattr(shared.cmd_opts, "api", False):
        return
    credentials = getattr(shared.cmd_opts, "api_auth", None)
    add(app, desk(), *([allowed(credentials)] if credentials else []))


def settings() -> None:
    import gradio as gr
    from modules import shared

    def radio(name: str, text: str, choices: list[str]) -> None:
        info = shared.OptionInfo("auto", text, gr.Radio, {"choices": choices}, section=SECTION)
        shared.opts.add_option(name, info)

    radio("lora_graft_language", "Language of the tab (auto: the host's; after Reload UI)", list(Page.languages))
    radio("lora_graft_device", "Device for jobs on auto", ["auto", "cpu"])
    folder = shared.OptionInfo("", "Folder for results inside the LoRA folder (empty: that folder)", section=SECTION)
    shared.opts.add_option("lora_graft_folder", folder)
