"""CONTRIBUTING.md's recipes, followed to the letter in a copy of the pack."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parent.parent
FLOORS = [file.parent.name for file in PACK.glob("*/__init__.py") if file.parent.name != "family"]
BLOCKS = re.findall(r"```(python|diff)\n(.*?)```", (PACK / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.S)
CHECK = """
import torch
from lora_graft import adapters
from lora_graft.adapters import from_state_dict
from lora_graft import choices
from lora_graft.kernels import merge, transfer
from lora_graft.kernels.distill.students import STUDENTS
from lora_graft.kernels.lowrank import LowRank, norm
from lora_graft.kernels.spectral import subspace

assert adapters.__file__.startswith({folder!r})
draw = torch.Generator().manual_seed(1)
def random(*shape):
    return torch.randn(*shape, generator=draw)

# a format: read, understood, written without loss
key = "lora_unet_down_blocks_0_attentions_0_proj_in"
tensors = {{f"{{key}}.rank_one_up": random(6), f"{{key}}.rank_one_down": random(5)}}
adapter = from_state_dict(dict(tensors))
assert adapter.kinds == {{"rank-one": 1}}
torch.testing.assert_close(adapter.modules[key].delta(), torch.outer(*tensors.values()))
adapters.write(adapter, {folder!r} + "/again.safetensors")
again = adapters.to_state_dict(adapters.read({folder!r} + "/again.safetensors"))
assert all(torch.equal(again[k], t) for k, t in tensors.items()) and not adapter.extras

# a transfer method: in the menu, and a projection
assert transfer.METHODS["left"].display == "Left projection" and tuple(transfer.METHODS) == choices.Transfer.methods
update, base = LowRank(random(8, 2), random(2, 6)), subspace(random(8, 6), 3)
once = transfer.METHODS["left"].run(update, base, base)
twice = transfer.METHODS["left"].run(once, base, base)
torch.testing.assert_close(once.dense(), twice.dense())
assert 0 < norm(once) < norm(update)

# a merge method: in the menu, and the strongest wins
assert "strongest" in merge.METHODS and tuple(merge.METHODS) == choices.Merge.methods
weak = LowRank(update.up * 0.1, update.down.flip(1))
torch.testing.assert_close(merge.METHODS["strongest"].run([weak, update], 2).update.dense(), update.dense())

# a student: nothing at first, only its own parameter learns, and its file is a LoRA
assert tuple(STUDENTS) == choices.Distill.kinds
made = STUDENTS["lora-fa"].create((6, 5), 2, None, draw)
assert list(made.params) == ["lora_up"] and not made.change().up.any()
change = made.change()
(change.up @ change.down - random(6, 5)).square().sum().backward()
assert made.params["lora_up"].grad.any()
assert from_state_dict({{key + s: t for s, t in made.tensors().items()}}).kinds == {{"lora": 1}}
"""


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Path:
    """A copy of the pack to which every recipe was applied."""
    copy = tmp_path_factory.mktemp("recipes") / "lora_graft"
    for name in FLOORS:
        shutil.copytree(PACK / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in PACK.glob("*.py"):
        shutil.copy(file, copy)
    for kind, text in BLOCKS:
        first, rest = text.split("\n", 1)
        if kind == "python":
            path = copy / first.removeprefix("# ")
            assert not path.exists()
            path.write_text(rest, encoding="utf-8")
        else:
            apply(copy / first, rest)
    return copy


def apply(path: Path, changes: str) -> None:
    """Lines with - are beginnings of lines that give way to the lines with + after them."""
    text = path.read_text(encoding="utf-8")
    for old, new in re.findall(r"^-(.*)\n((?:\+.*\n)+)", changes, re.M):
        assert len(re.findall(f"^{re.escape(old)}", text, re.M)) == 1, f"{path.name} has no line {old!r}"
        text = text.replace(old, re.sub(r"^\+", "", new, flags=re.M).rstrip("\n"))
    path.write_text(text, encoding="utf-8")


def test_there_is_a_recipe_for_each_kind_of_addition():
    files = [text.split("\n", 1)[0].removeprefix("# ") for kind, text in BLOCKS if kind == "python"]
    assert [str(Path(file).parent) for file in files] == [
        "adapters",
        "kernels/transfer",
        "kernels/merge",
        "kernels/distill/students",
    ]
    assert all(len(text.splitlines()) < 40 for _, text in BLOCKS)


def test_the_recipes_do_what_they_say(changed):
    env = {**os.environ, "PYTHONPATH": str(changed.parent), "OMP_NUM_THREADS": "1"}
    script = CHECK.format(folder=str(changed))
    done = subprocess.run([sys.executable, "-c", script], env=env, cwd=changed.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_recipes_are_in_style(changed):
    files = [str(changed / text.split("\n", 1)[0].removeprefix("# ")) for kind, text in BLOCKS if kind == "python"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", str(PACK / "pyproject.toml"), *files],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
