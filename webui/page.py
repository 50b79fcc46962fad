"""The page itself: sub-tabs from the table of fields, and beside them the jobs and what they brought.

It asks Gradio only for what 3.41 (Automatic1111), 4.40 (Forge, Forge Neo) and 6 (alone) have in common.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from ..errors import GraftError
from . import panel
from .desk import Desk
from .distilling import available
from .fields import JOBS
from .form import QUIET, Form, names
from .sites import cross_site
from .words import word

EVERY = 1.0  # seconds between looks at the jobs
PRESS = f"""() => {{
  clearInterval(window.lora_graft_timer);
  window.lora_graft_timer = setInterval(() => {{
    if (document.getElementById("lora_graft_page")?.offsetParent) document.getElementById("lora_graft_look")?.click();
  }}, {1000 * EVERY:.0f});
}}"""


def build(desk: Desk) -> gr.Blocks:
    """The page for one host."""
    with gr.Blocks(title="LoRA Graft", analytics_enabled=False) as blocks:
        gr.HTML(value=panel.STYLE, elem_id="lora_graft_style")
        with gr.Row(elem_id="lora_graft_page"):
            with gr.Column(scale=1, min_width=320):
                forms, starts = _tabs(desk)
            with gr.Column(scale=1, min_width=320):
                shown = _jobs(desk)
        for (kind, form), (button, refresh, notice) in zip(forms.items(), starts, strict=True):
            inputs, outputs = [*form.boxes.values(), shown.picked, shown.seen], [notice, shown.picked, *shown.outputs]
            button.click(_starter(desk, kind, form, shown), inputs, outputs, **QUIET)
            refresh.click(_lister(desk, form.lists), None, [box for box, _ in form.lists], **QUIET)
        lists = [entry for form in forms.values() for entry in form.lists]
        blocks.load(_lister(desk, lists), None, [box for box, _ in lists], **QUIET)  # the files of today
        _every(blocks, shown.look, [shown.picked, shown.seen], shown.outputs)
    return blocks


def _tabs(desk: Desk) -> tuple[dict[str, Form], list[tuple[Any, Any, Any]]]:
    """Per kind of job its form, and (start, refresh, notice)."""
    language, forms, starts = desk.host.language, {}, []
    with gr.Tabs(elem_id="lora_graft_tabs"):
        for kind, fields in JOBS.items():
            if kind == "distill" and not available():
                continue
            with gr.Tab(label=word(language, kind), elem_id=f"lora_graft_tab_{kind}"):
                gr.HTML(value=f"<p>{word(language, f'about {kind}')}</p>")
                forms[kind] = Form(kind, fields, desk.host)
                with gr.Row():
                    button = gr.Button(word(language, "start"), variant="primary", elem_id=f"lora_graft_{kind}_start")
                    refresh = gr.Button(word(language, "refresh"), elem_id=f"lora_graft_{kind}_refresh")
                starts.append((button, refresh, gr.HTML(value="", elem_id=f"lora_graft_{kind}_notice")))
    return forms, starts


class Shown:
    """The components that show jobs, and what keeps them fresh.

    picked: the job that a person chose or started last, else "". Looks read it and never write it: answers overtake
    each other, and an old look that arrives after a start is put right by the next one. seen: the signature of what
    the page shows. look: a callback that returns news for `outputs`.
    """

    def __init__(self, desk: Desk, listing: Any, job: Any, result: Any, picked: Any, seen: Any):
        self.desk, self.picked, self.seen = desk, picked, seen
        self.outputs = [listing, job, result, seen]

    def look(self, picked: str, seen: str | None):
        """News for the outputs; nothing where nothing changed, so that what a person reads stays still."""
        listing, now = panel.listed(self.desk), panel.signature(self.desk)
        if now == seen:
            return listing, gr.update(), gr.update(), seen
        offered = panel.choices(self.desk)
        shown = picked if picked in offered else next(iter(offered), None)
        return listing, gr.update(choices=offered, value=shown), self.brought(shown), now

    def chosen(self, chosen: str) -> tuple[Any, ...]:
        """The same, with another job chosen."""
        offered = panel.choices(self.desk)
        job = gr.update(choices=offered, value=chosen)
        return panel.listed(self.desk), job, self.brought(chosen), panel.signature(self.desk)

    def brought(self, chosen: str | None) -> str:
        number = panel.number_of(chosen)
        return panel.result(self.desk, None if number is None else self.desk.queue.job(number))


def _jobs(desk: Desk) -> Shown:
    language = desk.host.language
    gr.HTML(value=f"<h2>{word(language, 'jobs')}</h2>")
    listing = gr.HTML(value=panel.listed(desk), elem_id="lora_graft_jobs")
    job = gr.Dropdown(choices=panel.choices(desk), value=None, label=word(language, "show"), elem_id="lora_graft_job")
    stop = gr.Button(word(language, "stop"), variant="stop", elem_id="lora_graft_stop")
    result = gr.HTML(value="", elem_id="lora_graft_result")
    picked, seen = gr.State(""), gr.State("")
    shown = Shown(desk, listing, job, result, picked, seen)
    job.input(lambda chosen: (chosen or "", shown.brought(chosen)), [job], [picked, result], **QUIET)

    def end(request: gr.Request, chosen: str | None):
        number = panel.number_of(chosen)
        if number is not None and not cross_site(_headers(request), desk.host.origins):
            desk.queue.stop(number)
        return panel.listed(desk)

    stop.click(end, [job], [listing], **QUIET)
    return shown


def _starter(desk: Desk, kind: str, form: Form, shown: Shown) -> Callable[..., tuple[Any, ...]]:
    """Lines a job up and shows it; else says what is wrong."""

    def start(request: gr.Request, *values: Any):
        *given, picked, seen = values
        unchanged = picked, gr.update(), gr.update(), gr.update(), seen
        if cross_site(_headers(request), desk.host.origins):
            return panel.alert(word(desk.host.language, "refused")), *unchanged
        try:
            job = desk.start(kind, form.given(given))
        except GraftError as error:
            return panel.alert(str(error)), *unchanged
        message = word(desk.host.language, "lined up").format(job.number)
        chosen = panel.named(job, desk.host.language)
        return panel.said(message), chosen, *shown.chosen(chosen)

    return start


def _headers(request: gr.Request) -> dict[str, str]:
    """The headers with names in lower case; none where Gradio has none to tell."""
    try:
        return {str(name).lower(): str(value) for name, value in dict(request.headers).items()}
    except (AttributeError, TypeError, ValueError):
        return {}


def _lister(desk: Desk, lists: Sequence[tuple[Any, str]]) -> Callable[[], Any]:
    """Fresh lists of files, for (component, kind)."""

    def fresh():
        found = {kind: names(desk.host, kind) for kind in ("base", "lora")}
        updates = [gr.update(choices=found[kind]) for _, kind in lists]
        return updates if len(updates) != 1 else updates[0]

    return fresh


def _every(blocks: gr.Blocks, look: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
    """Call `look` again and again while the page is open.

    Gradio 3 has no timer, and its `every` keeps a line open for whose end Automatic1111's *Reload UI* waits for ever.
    """
    if hasattr(gr, "Timer"):
        gr.Timer(EVERY).tick(look, inputs, outputs, **QUIET)
    else:
        button = gr.Button(visible=False, elem_id="lora_graft_look")
        button.click(look, inputs, outputs, **QUIET)
        blocks.load(None, None, None, _js=PRESS)  # pyright: ignore[reportCallIssue]
