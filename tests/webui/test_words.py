"""The page in two languages: complete, and of today's fields."""

from __future__ import annotations

import json
import re

import pytest
from lora_graft.webui.fields import JOBS
from lora_graft.webui.words import ENGLISH, LANGUAGES, LOCALES, label, language_of, word

OTHERS = [language for language in LANGUAGES if language != "en"]


def test_the_languages_are_the_folders():
    assert sorted(folder.name for folder in LOCALES.iterdir() if folder.is_dir()) == sorted(LANGUAGES)


@pytest.mark.parametrize("language", OTHERS)
def test_every_word_and_every_field_is_translated(language):
    stored = json.loads((LOCALES / language / "webui.json").read_text(encoding="utf-8"))
    assert stored["words"].keys() == ENGLISH.keys()
    for name, english in ENGLISH.items():
        assert word(language, name) != english and word(language, name).count("{}") == english.count("{}"), name
    used = set()
    for kind, fields in JOBS.items():
        for field in fields:
            own, common = f"{kind}.{field.name}", field.name
            used.add(own if own in stored["fields"] else common)
            name, help = label(language, kind, field)
            assert (own in stored["fields"] or common in stored["fields"]) and name, own
            assert bool(help) == bool(field.help), own
    assert used == stored["fields"].keys(), "nothing is left over"


def test_one_translation_serves_fields_that_say_the_same_in_english():
    for language in OTHERS:
        said: dict[tuple[str, str], set] = {}
        for kind, fields in JOBS.items():
            for field in fields:
                said.setdefault(label(language, kind, field), set()).add((field.label, field.help))
        assert [texts for texts in said.values() if len(texts) > 1] == []


def test_chinese_is_chinese():
    stored = json.loads((LOCALES / "zh" / "webui.json").read_text(encoding="utf-8"))
    for name, entry in stored["fields"].items():
        tooltip = entry.get("tooltip", "")
        assert not tooltip or (re.search(r"[\u4e00-\u9fff]", tooltip) and tooltip.endswith("。")), name
        assert not re.search(r"[\u4e00-\u9fff][,;:!?]|[,;:!?][\u4e00-\u9fff]", tooltip.replace("<lora:名称:", "")), name


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("zh_CN.UTF-8", "zh"),
        ("zh-Hans (Stable)", "zh"),
        ("chinese-all-0313", "zh"),
        ("de_DE", "en"),
        ("None", "en"),
        ("", "en"),
    ],
)
def test_names_of_languages(name, language):
    assert language_of(name) == language
