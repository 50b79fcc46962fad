"""``distillations`` of a recipe: what ``lora-graft distill`` makes of each LoRA, once, and merges of that."""

from __future__ import annotations

import json
import shutil

import pytest

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"count": 4, "draw_steps": 2, "noisy_latents": 8, "batch": 4, "accumulation": 1, "steps": 3, "rank": 4}
TEXT = """
output: moved
bases: {old: family_a.safetensors, new: family_b.safetensors}
distillations:
  - loras: loras/*.safetensors
    source: old
    targets: [new]
    prompts: [a red two, a blue seven]
    start_from: copy
    report: md
    SMALL
merges:
  - name: both
    loras: [moved/new/distilled/frame.safetensors, moved/new/distilled/slant.safetensors]
    method: svd
"""


@pytest.fixture
def folder(family_files, tmp_path):
    """Two bases, two LoRAs, and a recipe."""
    (tmp_path / "loras").mkdir()
    for name in ("a", "b"):
        shutil.copy(family_files[f"family_{name}"], tmp_path)
    for name in ("frame", "slant"):
        shutil.copy(family_files[f"family_{name}_a"], tmp_path / "loras" / f"{name}.safetensors")
    lines = "\n    ".join(f"{name}: {value}" for name, value in SMALL.items())
    (tmp_path / "recipe.yaml").write_text(TEXT.replace("SMALL", lines))
    return tmp_path


def test_each_lora_is_taught_as_by_distill_and_then_merged(cli, folder, crews):
    (folder / "loras" / "broken.safetensors").write_bytes(b"none")
    run = cli("recipe", folder / "recipe.yaml")
    assert run.exit_code == 1 and "3 made, 1 failed." in run.output, run.output
    assert "Failed: new/distilled/broken.safetensors: " in run.output
    names = {f"new/distilled/{name}.{end}" for name in ("frame", "slant") for end in ("safetensors", "md")}
    found = {p.relative_to(folder / "moved").as_posix() for p in (folder / "moved").rglob("*") if p.is_file()}
    assert found == names | {"merged/both.safetensors", "manifest.jsonl"}
    assert crews == [1, None]  # models of two bases are held by one process at a time

    (folder / "prompts.txt").write_text("a red two\na blue seven\n")
    options = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", value)]
    bases = ("--source", folder / "family_a.safetensors", "--target", folder / "family_b.safetensors")
    words = ("--prompts", folder / "prompts.txt", "--start-from", "copy", "-o", folder / "single.safetensors")
    single = cli("distill", folder / "loras" / "frame.safetensors", *bases, *options, *words)
    assert single.exit_code == 0, single.output
    assert (folder / "single.safetensors").read_bytes() == (
        folder / "moved/new/distilled/frame.safetensors"
    ).read_bytes()

    (folder / "loras" / "broken.safetensors").unlink()
    again = cli("recipe", folder / "recipe.yaml")
    assert again.exit_code == 0 and "0 made, 3 were there already, 0 failed." in again.output, again.output


def test_a_dry_run_counts_them(cli, folder, crews):
    run = cli("recipe", folder / "recipe.yaml", "--dry-run")
    assert run.exit_code == 0, run.output
    assert "distillations: 2 in all, 2 to do; not measured" in run.output
    assert not (folder / "moved").exists() and not crews


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("prompts: none.txt", "No such file"),
        ("prompts: []", "the list is empty"),
        ("rank: 0", "the rank must be at least 1"),
        ("steps: 0", "steps must be at least 1"),
        ("kind: lroa", "unknown kind of adapter"),
        ("modules: atention", "Did you mean attention?"),
        ("start_from: coppy", "Did you mean copy?"),
        ("targets: [newer]", "Did you mean new?"),
        ("stesp: 4", "Did you mean steps?"),
    ],
)
def test_mistakes_are_told_with_their_line(cli, folder, line, told):
    name = line.partition(":")[0]
    kept = [one for one in (folder / "recipe.yaml").read_text().splitlines() if not one.strip().startswith(f"{name}:")]
    at = next(i for i, one in enumerate(kept) if "source: old" in one) + 1
    (folder / "recipe.yaml").write_text("\n".join([*kept[:at], f"    {line}", *kept[at:]]))
    run = cli("recipe", folder / "recipe.yaml")
    assert run.exit_code == 1 and told in run.output and f"line {at + 1}" in run.output, run.output
    assert not (folder / "moved").exists()


def test_language_models_are_another_command_s(cli, folder):
    model = folder / "text"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    shutil.copy(folder / "family_b.safetensors", model / "model.safetensors")
    text = (folder / "recipe.yaml").read_text().replace("family_b.safetensors", "text")
    (folder / "recipe.yaml").write_text(text)
    run = cli("recipe", folder / "recipe.yaml")
    assert run.exit_code == 1 and "new is a language model" in run.output, run.output
