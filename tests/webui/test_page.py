"""The page as Gradio sees it: every field has its box, what boxes hold reaches the job, other sites do not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="gradio is not installed")
import gradio as gr
from lora_graft.webui import distilling, page
from lora_graft.webui.fields import JOBS
from lora_graft.webui.form import number

pytestmark = pytest.mark.usefixtures("one_thread")
HERE = SimpleNamespace(headers={"Host": "127.0.0.1:1", "Origin": "http://127.0.0.1:1"})


def parts(desk):
    """(forms, shown) of a page that is built as `page.build` does."""
    with gr.Blocks():
        forms, _ = page._tabs(desk)
        return forms, page._jobs(desk)


def test_every_field_of_every_job_has_a_box(desk):
    forms, _ = parts(desk)
    assert list(forms) == [kind for kind in JOBS if kind != "distill" or distilling.available()]
    for kind, form in forms.items():
        assert list(form.boxes) == [
            *(field.name for field in JOBS[kind] if not field.more),
            *(field.name for field in JOBS[kind] if field.more),
        ]
        for field in JOBS[kind]:
            box = form.boxes[field.name]
            assert box.label == field.label and box.elem_id == f"lora_graft_{kind}_{field.name}"


def test_without_diffusers_there_is_no_such_tab(desk, monkeypatch):
    monkeypatch.setattr(page, "available", lambda: False)
    assert "distill" not in parts(desk)[0]


def test_boxes_as_they_are_hold_the_defaults(desk, host):
    from lora_graft.webui.check import checked

    given = {"lora": "frame", "source": "base_a.safetensors", "target": "base_b.safetensors", "loras": "<lora:frame>"}
    for kind, form in parts(desk)[0].items():
        held = form.given([box.value for box in form.boxes.values()])
        needed = {field.name: given[field.name] for field in JOBS[kind] if field.needed}
        assert checked(kind, {**held, **needed}) == checked(kind, needed), kind


def test_an_empty_number_is_none_and_nonsense_is_told():
    assert [number(text) for text in ("", " ", None, "8", "0.5", "eight")] == [None, None, None, 8, 0.5, "eight"]


def test_start_lines_a_job_up_and_shows_it(desk):
    forms, shown = parts(desk)
    form = forms["resize"]
    start = page._starter(desk, "resize", form, shown)
    values = {name: box.value for name, box in form.boxes.items()}
    notice, picked, *_ = start(HERE, *values.values(), "", "")
    assert "lora is missing" in notice and 'role="alert"' in notice and picked == "" and desk.queue.jobs() == []
    given = {**values, "lora": "frame", "amount": 2}
    notice, picked, listing, chosen, result, seen = start(HERE, *given.values(), "", "")
    assert "Job 1 is lined up" in notice and "frame" in listing and seen
    desk.queue.wait(1, 600)
    assert picked == "1: Resize, frame"
    listing, chosen, result, now = shown.look(picked, seen)
    assert "done" in listing and "&lt;lora:frame-rank-2:1&gt;" in result and now != seen
    again = shown.look(picked, now)
    assert again[3] == now and "value" not in str(again[2]), "what a person reads is left alone"


def test_an_old_answer_that_comes_late_does_not_hide_the_job_just_started(desk):
    """The look of a page that has just opened may arrive after the answer to its first start."""
    forms, shown = parts(desk)
    start = page._starter(desk, "inspect", forms["inspect"], shown)
    boxes = {**{name: box.value for name, box in forms["inspect"].boxes.items()}, "lora": "frame"}
    start(HERE, *boxes.values(), "", "")
    desk.queue.wait(1, 600)
    old = shown.look("", "")
    _, picked, *new = start(HERE, *boxes.values(), "", "")
    desk.queue.wait(2, 600)
    assert new[1]["value"] == picked == "2: Inspect, frame" and old[1]["value"] == "1: Inspect, frame"
    _, job, result, _ = shown.look(picked, old[3])  # `seen` is the old answer's, as it came last
    assert job["value"] == picked and "2: Inspect, frame: done" in result
    assert shown.look(old[1]["value"], "")[1]["value"] == "1: Inspect, frame", "a job that a person chooses stays"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "127.0.0.1:1", "Origin": "https://evil.example"},
        {"host": "127.0.0.1:1", "origin": "null"},
        {"Host": "127.0.0.1:1", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_another_site_starts_nothing_through_gradios_own_routes(desk, headers):
    forms, shown = parts(desk)
    form = forms["resize"]
    values = {**{name: box.value for name, box in form.boxes.items()}, "lora": "frame"}
    start = page._starter(desk, "resize", form, shown)
    notice, *_ = start(SimpleNamespace(headers=headers), *values.values(), "", "")
    assert "Another site" in notice and desk.queue.jobs() == []


def test_lists_are_fresh(desk, host):
    forms, _ = parts(desk)
    (host.lora_folder / "new.safetensors").write_bytes(b"")
    updates = page._lister(desk, forms["convert"].lists)()
    assert "new" in str(updates)


def test_a_host_puts_it_into_its_own_page_again_and_again(desk):
    """As its list of tabs does, also after Reload UI."""
    for _ in range(2):
        inner = page.build(desk)
        with gr.Blocks() as outer, gr.Tabs(), gr.TabItem("LoRA Graft"):
            inner.render()
        identifiers = [getattr(block, "elem_id", None) for block in outer.blocks.values()]
        assert {"lora_graft_page", "lora_graft_jobs", "lora_graft_transfer_start"} <= set(identifiers)
