"""Translations: complete, of today's nodes, and served by ComfyUI."""

from __future__ import annotations

import json
import re

import pytest
import translations

pytestmark = pytest.mark.host
LANGUAGES = ["en", "zh"]
AGAIN = "run tests/host/translations.py"


@pytest.fixture(scope="module")
def wanted(host) -> dict:
    return translations.english(json.loads(host.get("/object_info")))


@pytest.fixture(scope="module")
def served(host) -> dict:
    return json.loads(host.get("/i18n"))


def test_the_languages_are_the_folders():
    assert sorted(folder.name for folder in translations.LOCALES.iterdir() if folder.is_dir()) == LANGUAGES


def test_english_is_what_the_nodes_say(wanted):
    assert translations.stored("en") == wanted, AGAIN


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_input_and_output_is_translated(wanted, served, language):
    have = served[language]["nodeDefs"]
    assert translations.missing(wanted, have) == {}, AGAIN
    assert translations.stale(wanted, have) == [], AGAIN


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_category_is_translated(host, served, language):
    nodes = [n for name, n in json.loads(host.get("/object_info")).items() if name.startswith(translations.PREFIX)]
    parts = {part for node in nodes for part in node["category"].split("/")}
    assert set(served[language]["nodeCategories"]) == parts


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_taken_for_a_placeholder(served, language):
    """The graph editor reads braces, @ and | in some of these texts as its own syntax."""
    for path, text in translations.leaves(served[language]):
        assert not re.search(r"[{}@|]", text), ".".join(path)


def test_chinese_is_chinese(served):
    texts = dict(translations.leaves(served["zh"]["nodeDefs"]))
    for path, text in texts.items():
        if path[-1] in ("tooltip", "description"):
            assert re.search(r"[\u4e00-\u9fff]{2}", text) and text.endswith("。"), ".".join(path)
            assert not re.search(r"[\u4e00-\u9fff][,;:!?]|[,;:!?][\u4e00-\u9fff]", text), ".".join(path)
