"""LoRAs out of a pasted prompt, and out of what a script sends."""

from __future__ import annotations

import pytest
from lora_graft.errors import SettingsError
from lora_graft.webui.prompt import listed, tag, tags


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a cat <lora:frame:0.8>, oil", [("frame", 0.8, 0.8)]),
        ("<lora:frame>", [("frame", 1.0, 1.0)]),
        ("<lora:frame:0.8:0.6>", [("frame", 0.6, 0.8)]),
        ("<lora:frame:te=0.2:unet=-0.5>", [("frame", -0.5, 0.2)]),
        ("<lora:frame:unet=0.5>", [("frame", 0.5, 1.0)]),
        (
            "<LoRA:a/b c (1):.5>\n<lora:frame:-1><lora:frame:2>",
            [("a/b c (1)", 0.5, 0.5), ("frame", -1, -1), ("frame", 2, 2)],
        ),
        ("<lyco:frame:1> (cat:1.2) <lora:>"[:26], []),
        ("", []),
    ],
)
def test_tags_of_a_prompt(text, found):
    assert tags(text) == found


@pytest.mark.parametrize("text", ["<lora: :1>", "<lora:a:x>", "<lora:a:nan>", "<lora:a:1e9>", "<lora:a>" * 51])
def test_tags_that_mean_nothing_are_refused(text):
    with pytest.raises(SettingsError):
        tags(text)


def test_a_script_may_send_names_or_objects():
    sent = ["a", {"name": "b", "strength": 0.5}, {"name": "c", "strength": 1, "strength_clip": 0}]
    assert listed(sent) == [("a", 1, 1), ("b", 0.5, 0.5), ("c", 1, 0)]


@pytest.mark.parametrize(
    "sent", ["a", 3, [3], [{"strength": 1}], [{"name": "a", "scale": 1}], [{"name": "a", "strength": True}], [["a", 1]]]
)
def test_anything_else_a_script_sends_is_refused(sent):
    with pytest.raises(SettingsError):
        listed(sent)


def test_a_tag_is_read_as_it_was_written():
    assert tags(tag("frame-b", 0.75)) == [("frame-b", 0.75, 0.75)]
