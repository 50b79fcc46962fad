"""``lora-graft recipe``: checked whole before anything runs, done once, gone on with, estimated."""

from __future__ import annotations

import json
import re
import shutil
import sys

import pytest
from lora_graft import cli as package
from lora_graft.errors import SettingsError
from lora_graft.shelf import recipe as recipes
from lora_graft.shelf.estimate import Estimate
from safetensors.torch import load_file

TEXT = """
output: moved
cache: cache
bases:
  old: a.safetensors
  new: b.safetensors
transfers:
  - loras: loras/**/*.safetensors
    source: old
    targets: new
    methods: [copy, lora-x]
    k: 8
    report: md
merges:
  - name: mix
    loras:
      - moved/new/copy/one.safetensors
      - {file: loras/sub/two.safetensors, strength: 0.5}
    method: ties
    density: 0.4
"""


@pytest.fixture
def folder(shelf, tmp_path):
    """The bases, two LoRAs and a broken one, and a recipe."""
    for name in ("a", "b"):
        shutil.copy(shelf / f"{name}.safetensors", tmp_path)
    (tmp_path / "loras" / "sub").mkdir(parents=True)
    for name in ("one", "sub/two"):
        shutil.copy(shelf / "lora.safetensors", tmp_path / "loras" / f"{name}.safetensors")
    (tmp_path / "loras" / "broken.safetensors").write_bytes(b"none")
    (tmp_path / "recipe.yaml").write_text(TEXT)
    return tmp_path


def made(folder):
    return {p.relative_to(folder / "moved").as_posix() for p in (folder / "moved").rglob("*") if p.is_file()}


def events(folder):
    return [json.loads(line) for line in (folder / "moved" / "manifest.jsonl").read_text("utf-8").splitlines()]


def test_a_shelf_is_made_once_and_gone_on_with(cli, folder, crews):
    """Two methods, a merge of what is made and what was there; the broken file is named and is all that is left."""
    first = cli("recipe", folder / "recipe.yaml", "--jobs", 1)
    assert first.exit_code == 1 and "5 made, 2 failed." in first.output, first.output
    assert "Failed: new/lora-x/broken.safetensors: " in first.output
    outputs = {f"new/{way}/{name}" for way in ("copy", "lora-x") for name in ("one", "sub/two")}
    files = {f"{name}.{end}" for name in outputs for end in ("safetensors", "md")}
    assert made(folder) == files | {"merged/mix.safetensors", "manifest.jsonl"}
    single = folder / "single.safetensors"
    bases = ("--source", folder / "a.safetensors", "--target", folder / "b.safetensors")
    cli("transfer", folder / "loras/one.safetensors", *bases, "--method", "lora-x", "--k", 8, "-o", single)
    assert single.read_bytes() == (folder / "moved/new/lora-x/one.safetensors").read_bytes()
    mixed = folder / "mixed.safetensors"
    parts = (folder / "moved/new/copy/one.safetensors", f"{folder / 'loras/sub/two.safetensors'}:0.5")
    cli("merge", *parts, "--method", "ties", "--density", 0.4, "-o", mixed)
    assert mixed.read_bytes() == (folder / "moved/merged/mix.safetensors").read_bytes()

    before = {name: (folder / "moved" / name).stat().st_mtime_ns for name in files}
    shutil.copy(folder / "loras/one.safetensors", folder / "loras/broken.safetensors")
    (folder / "moved/new/copy/sub/two.safetensors").unlink()
    (folder / "moved/new/copy/sub/two.md").unlink()
    again = cli("recipe", folder / "recipe.yaml", "--jobs", 1)
    assert again.exit_code == 0 and "3 made, 4 were there already, 0 failed." in again.output, again.output
    kept = files - {"new/copy/sub/two.safetensors", "new/copy/sub/two.md"}
    assert all((folder / "moved" / name).stat().st_mtime_ns == before[name] for name in kept)
    assert [e["files"] for e in events(folder) if e["event"] == "done"].count(["new/lora-x/one.safetensors"]) == 1
    assert sum(e["event"] == "failed" for e in events(folder)) == 2
    assert all(load_file(folder / "moved" / name) for name in made(folder) if name.endswith(".safetensors"))


def test_what_was_made_from_something_else_is_not_taken_for_the_result(cli, folder, crews):
    (folder / "loras" / "broken.safetensors").unlink()
    only = TEXT.replace("[copy, lora-x]", "copy").split("merges:")[0]
    (folder / "recipe.yaml").write_text(only)
    assert cli("recipe", folder / "recipe.yaml", "--jobs", 1).exit_code == 0
    before = made(folder)
    (folder / "recipe.yaml").write_text(only + "    strength: 0.5\n")
    for more in ([], ["--dry-run"]):
        result = cli("recipe", folder / "recipe.yaml", *more)
        assert result.exit_code == 1 and "2 outputs are there that the recipe, as it stood before" in result.output
        assert "new/copy/one.safetensors" in result.output and made(folder) == before


def test_a_dry_run_measures_the_first_items_and_writes_nothing(cli, folder):
    before = {p for p in folder.rglob("*") if "cache" not in p.parts}
    result = cli("recipe", folder / "recipe.yaml", "--dry-run")
    assert result.exit_code == 0, result.output
    assert {p for p in folder.rglob("*") if "cache" not in p.parts} == before
    shown = result.output.splitlines()
    for way in ("copy", "lora-x"):
        (line,) = [line for line in shown if line.startswith(f"old → new, {way}: 3 in all, 3 to do; first ")]
        assert re.search(
            r"; first [\d.]+ s, each other [\d.]+ s, all [\d.]+ s; read 2.\d* MB, written \d+ kB$", line
        ), line
    assert "merges: 1 in all, 1 to do; not measured" in shown
    assert "one that was tried failed" in result.output and "broken.safetensors" in result.output
    assert "An estimate from 4 items that were done on this machine just now" in result.output
    assert "Stages without a measured item are not in it." in result.output, "the merge waits for a transfer"


def test_an_estimate_is_the_first_item_and_the_others():
    assert Estimate("x", 10, 4, measured=2, first=5.0, other=0.5).seconds == 5.0 + 3 * 0.5
    assert Estimate("x", 10, 0, measured=0).seconds == 0


MISTAKES = """output: moved
bases:
  old: a.safetensors
  gone: nowhere.safetensors
  "../up": b.safetensors
transfers:
  - loras: [nothing*.safetensors, ~nobody-of-that-name/x.safetensors]
    source: old
    targets: old
    rank: 0
  - loras: loras/one.safetensors
    source: older
    targets: [old]
    methods: [copi]
    threshold: high
    treshold: 0.5
    layouts: [kohya, 3]
  - loras: loras/one.safetensors
    source: old
    targets: old
    k: 3
    k_share: 0.5
merges:
  - name: a/b
    loras: [loras/none.safetensors, {file: loras/one.safetensors, strength: .inf}]
    density: 2.0
  - loras: []
"""


def test_every_mistake_is_told_with_its_line_before_anything_is_done(cli, folder):
    (folder / "recipe.yaml").write_text(MISTAKES)
    result = cli("recipe", folder / "recipe.yaml")
    assert result.exit_code == 1 and not (folder / "moved").exists()
    for told in (
        "line 4, bases.gone: The base model does not exist",
        "line 5, bases.../up: '../up' cannot be a file's name",
        "line 7, transfers[0].loras[0]: 'nothing*.safetensors' matches no .safetensors file",
        "line 7, transfers[0].loras[1]: ",
        "line 10, transfers[0].rank: the rank must be at least 1, got 0",
        "line 12, transfers[1].source: unknown source 'older'. Did you mean old?",
        "line 14, transfers[1].methods[0]: unknown method 'copi'. Did you mean copy?",
        "line 15, transfers[1].threshold: this must be a number, not 'high'",
        "line 16, transfers[1].treshold: there is no such field. Did you mean threshold?",
        "line 17, transfers[1].layouts[1]: this must be a text, not 3",
        "line 18, transfers[2]: choose one of k, share and energy",
        "line 24, merges[0].name: 'a/b' cannot be a file's name",
        "line 25, merges[0].loras[0]: there is no such file, and nothing in this recipe makes it",
        "line 25, merges[0].loras[1]: a strength must be a finite number",
        "line 26, merges[0].density: ",
        "line 27, merges[1]: name is missing",
        "line 27, merges[1].loras: the list is empty",
    ):
        assert told in result.output, (told, result.output)
    assert "has 17 mistakes; nothing was begun" in result.output


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the recipe is empty"),
        ("output: moved", "there is nothing to do"),
        ("- a\n- b", "line 1: this must be a mapping"),
        ("output: [\n", "line 2: this is no YAML"),
        ("a: &x [1]\nb: *x", "line 2: anchors and aliases"),
        ("output: a\noutput: b", "line 2: output is there twice"),
        ("a: " + "[" * 2000, "line 1: nested deeper than 12 levels"),
        ("output: !!python/name:os.system x", "line 1: this is no YAML: could not determine a constructor"),
        ("output: !!python/object/apply:os.system [ls]", "line 1, output: this must be a text, not a list"),
        ('output: "a\\0b"', "line 1, output: a character that no file name"),
        ('a:\n- "\\uD800"', "line 2, a[0]: a character that no file name"),
        ("k: " + "1" * 9000, "the recipe is no YAML: Exceeds the limit"),
        ("output: 2001-13-45", "the recipe is no YAML: month must be in 1..12"),
        ("\xff\x00", "this is no YAML|the recipe is no"),
    ],
)
def test_what_is_no_recipe(tmp_path, text, told):
    (tmp_path / "recipe.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(Exception, match=told.replace(".", r"\.").replace("[0]", r"\[0\]")) as caught:
        recipes.read(tmp_path / "recipe.yaml")
    assert isinstance(caught.value, ValueError) and "Traceback" not in str(caught.value)


def test_two_outputs_of_one_name_are_refused(folder):
    again = TEXT.split("transfers:")[1].split("merges:")[0]
    text = TEXT.replace("merges:", again.strip("\n") + "\nmerges:")
    (folder / "recipe.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"line 14, transfers\[1\]: two outputs would be new/copy/broken"):
        recipes.read(folder / "recipe.yaml")
    (folder / "recipe.yaml").write_text(text.replace("report: md\n  -", "report: md\n  - name: again\n   ", 1))
    found = recipes.read(folder / "recipe.yaml")
    assert len(found.stages) == 4 and len(found.ids) == 13 == len(set(found.ids.values())) + 6


def test_ids_are_those_of_the_content_not_of_the_place(folder):
    """The same folder elsewhere, or another device or cache, is the same work; another setting is another."""
    ids = recipes.read(folder / "recipe.yaml").ids
    (folder / "moved").mkdir()
    other = folder / "elsewhere"
    other.mkdir()
    for name in ("a.safetensors", "b.safetensors", "loras", "recipe.yaml"):
        shutil.move(folder / name, other / name)
    (other / "recipe.yaml").write_text(TEXT.replace("cache: cache", "cache: another"))
    found = recipes.read(other / "recipe.yaml", device="cuda")
    assert {found.name(o): i for o, i in found.ids.items()} == {
        o.relative_to(folder / "moved").as_posix(): i for o, i in ids.items()
    }
    (other / "recipe.yaml").write_text(TEXT.replace("density: 0.4", "density: 0.3").replace("k: 8", "k: 9"))
    assert not set(recipes.read(other / "recipe.yaml").ids.values()) & set(ids.values())


def test_a_recipe_alone_is_a_command(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lora-graft", str(folder / "none.yaml")])
    with pytest.raises(SystemExit) as ended:
        package.main()
    assert ended.value.code == 1 and "none.yaml" in capsys.readouterr().err


def test_wrong_usage(cli, folder):
    for more in (
        ["--address", "auto"],
        ["--gpus-per-task", "1"],
        ["--engine", "ray", "--jobs", "2"],
        ["--engine", "ray", "--device", "cuda"],
    ):
        result = cli("recipe", folder / "recipe.yaml", *more)
        assert result.exit_code == 2, result.output
    bases = ("--source", folder / "a.safetensors", "--target", folder / "b.safetensors", "-o", folder / "x.safetensors")
    assert cli("transfer", folder / "loras/one.safetensors", *bases, "--engine", "ray").exit_code == 2
