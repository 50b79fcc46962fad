"""A field of the table as a component of Gradio; only what 3.41, 4.40 and 6 have in common."""
# pyright: reportMissingImports=false, reportArgumentType=false
# Gradio's annotations are the installed version's; three of them take these arguments.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from .fields import EXISTING, Field
from .host import Host
from .prompt import tag
from .words import label, word

NUMBERS = ("number", "whole")
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_name": False}  # of events


class Form:
    """The components of one sub-tab.

    boxes: field → component. lists: (component, kind) of those that list files. typed: numbers that may be left out,
    which are texts on the page: older Gradios take an empty number box for 0.
    """

    def __init__(self, kind: str, fields: Sequence[Field], host: Host):
        self.kind, self.host = kind, host
        self.boxes: dict[str, Any] = {}
        self.lists: list[tuple[Any, str]] = []
        self.typed = [f.name for f in fields if f.kind in NUMBERS and f.default is None]
        for field in (field for field in fields if not field.more):
            self._add(field)
        folded = [field for field in fields if field.more]
        if folded:
            with gr.Accordion(word(host.language, "more"), open=False, elem_id=f"lora_graft_{kind}_more"):
                for field in folded:
                    self._add(field)

    def given(self, values: Sequence[Any]) -> Mapping[str, Any]:
        """What the components hold, by field."""
        held = dict(zip(self.boxes, values, strict=True))
        return held | {name: number(held[name]) for name in self.typed}

    def _add(self, field: Field) -> None:
        name, help = label(self.host.language, self.kind, field)
        how = {"label": name, "info": help or None, "elem_id": f"lora_graft_{self.kind}_{field.name}"}
        if field.kind in EXISTING:
            box = gr.Dropdown(choices=names(self.host, field.kind), value=None, **how)
            self.lists.append((box, field.kind))
        elif field.kind == "shelf":
            box = gr.Dropdown(choices=names(self.host, "lora"), value=[], multiselect=True, **how)
            self.lists.append((box, "lora"))
        elif field.kind == "choice":
            box = gr.Dropdown(choices=list(field.choices), value=field.default, **how)
        elif field.kind == "flag":
            box = gr.Checkbox(value=field.default, **how)
        elif field.kind in NUMBERS and field.default is not None:
            box = gr.Number(value=field.default, precision=0 if field.kind == "whole" else None, **how)
        elif field.kind in ("loras", "lines"):
            box = gr.Textbox(value="", lines=3, max_lines=12, **how)
        else:
            box = gr.Textbox(value=field.default or "", lines=1, max_lines=1, **how)
        self.boxes[field.name] = box
        if field.kind == "loras":
            self._adder(box)

    def _adder(self, box: Any) -> None:
        """A list of LoRAs from which tags are put into the text."""
        adder = gr.Dropdown(
            choices=names(self.host, "lora"),
            value=None,
            label=word(self.host.language, "add"),
            elem_id=f"lora_graft_{self.kind}_add",
        )
        self.lists.append((adder, "lora"))

        def add(text: str, name: str | None):
            if not name:
                return text, gr.update()
            return f"{text or ''} {tag(name)}".strip(), gr.update(value=None)

        adder.input(add, [box, adder], [box, adder], **QUIET)


def number(text: str | None) -> Any:
    """The number in a text; None for none, and the text where it is no number."""
    try:
        return float(text) if text and text.strip() else None
    except ValueError:
        return text


def names(host: Host, kind: str) -> list[str]:
    """What a list offers: bases or LoRAs."""
    return list(host.bases() if kind == "base" else host.loras())
