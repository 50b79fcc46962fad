"""Names lead to files of the chosen folders and nowhere else; new files are new."""

from __future__ import annotations

import sys

import pytest
from lora_graft.errors import GraftError, SettingsError
from lora_graft.webui.paths import adapters_in, bases_in, found, new_file, new_folder, plain_name

SECRET = "secret.safetensors"


@pytest.fixture
def shelf(tmp_path):
    """A folder with two LoRAs, a hidden one and something else; beside it a file that is nobody's business."""
    folder = tmp_path / "loras"
    (folder / "styles").mkdir(parents=True)
    for name in ("frame.safetensors", "styles/slant.safetensors", ".hidden.safetensors", "notes.txt", "old.ckpt"):
        (folder / name).write_bytes(b"")
    (tmp_path / SECRET).write_bytes(b"")
    return folder


def test_names_are_paths_below_the_folder_without_their_ending(shelf):
    assert list(adapters_in([shelf])) == ["frame", "styles/slant"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_that_lead_out_are_not_listed(shelf, tmp_path):
    (shelf / "out.safetensors").symlink_to(tmp_path / SECRET)
    (shelf / "away").symlink_to(tmp_path)
    (shelf / "round").symlink_to(shelf / "round")
    (shelf / "in.safetensors").symlink_to(shelf / "frame.safetensors")
    assert list(adapters_in([shelf])) == ["frame", "in", "styles/slant"]
    linked = tmp_path / "elsewhere"
    linked.symlink_to(shelf)
    assert "frame" in adapters_in([linked]), "the chosen folder itself may be a link"


def test_the_same_name_in_two_folders_is_told_apart(shelf, tmp_path):
    other = tmp_path / "more"
    other.mkdir()
    (other / "frame.safetensors").write_bytes(b"")
    known = adapters_in([shelf, other])
    assert known["frame"] == shelf / "frame.safetensors" and known["more/frame"] == other / "frame.safetensors"


def test_checkpoints_and_model_folders_are_bases(tmp_path):
    for name in ("a.safetensors", "b.gguf", "c.ckpt", "d/model_index.json", "d/unet/e.safetensors", "f/g.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list(bases_in([tmp_path])) == ["a.safetensors", "b.gguf", "d", "f/g.safetensors"]


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "styles/../../secret",
        "..\\secret",
        "/etc/passwd",
        "C:\\secret",
        "~/secret",
        "frame.safetensors",
        "fra\0me",
        "con",
        "styles",
        "",
        ".hidden",
    ],
)
def test_only_listed_names_lead_anywhere(shelf, name):
    with pytest.raises(SettingsError, match="there is no LoRA"):
        found(name, adapters_in([shelf]), "LoRA")


def test_a_last_part_is_enough_where_it_is_ones_alone(shelf):
    assert found("slant", adapters_in([shelf]), "LoRA") == shelf / "styles" / "slant.safetensors"
    (shelf / "other").mkdir()
    (shelf / "other" / "slant.safetensors").write_bytes(b"")
    with pytest.raises(SettingsError, match="several"):
        found("slant", adapters_in([shelf]), "LoRA")


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", ".", "..", "../x", "a/b", "a\\b", "/x", "C:x", "a\0b", "a\nb", "con", "NUL", "com1.x", "a.", ".a"),
        *("a<b", "a>b", "a:b", 'a"b', "a|b", "a?b", "a*b", "a,b", "x" * 121, "é" * 101, "a\u202eb", ".safetensors"),
    ],
)
def test_a_new_file_has_a_plain_name(shelf, name):
    with pytest.raises(SettingsError):
        plain_name(name)
    if name.strip():
        with pytest.raises(SettingsError):
            new_file(shelf, name, "made-up")


def test_a_plain_name_may_have_spaces_letters_of_any_script_and_the_ending(shelf):
    assert new_file(shelf, " 画框 v2 (b).safetensors ", "").name == "画框 v2 (b).safetensors"


def test_nothing_is_overwritten(shelf, tmp_path):
    with pytest.raises(GraftError, match="exists already"):
        new_file(shelf, "frame", "")
    assert new_file(shelf, "", "frame").name == "frame-2.safetensors"
    assert new_file(shelf, "", "../a:b").parent == shelf
    if sys.platform != "win32":
        (shelf / "broken.safetensors").symlink_to(tmp_path / "nowhere")
        with pytest.raises(GraftError, match="exists already"):
            new_file(shelf, "broken", "")


def test_a_folder_for_results_stays_inside(shelf, tmp_path):
    assert new_folder(shelf, "styles") == shelf / "styles"
    with pytest.raises(SettingsError):
        new_folder(shelf, "../out")
    if sys.platform != "win32":
        (shelf / "away").symlink_to(tmp_path)
        with pytest.raises(SettingsError, match="leads out"):
            new_folder(shelf, "away")
