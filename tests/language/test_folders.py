"""Folders as inputs and outputs: what is refused and how, what is never overwritten, the commands."""

import json
import shutil

import pytest
import torch
from language_models import DENSE, LAYOUTS, PREFIX, adapted, loaded, predicted, relative_of, save
from lora_graft import adapters
from lora_graft.bases import open_base
from lora_graft.cli.app import app
from lora_graft.errors import AdapterError, BaseModelError
from lora_graft.io import folders
from lora_graft.jobs.inspect import inspect
from safetensors.torch import load_file
from typer.testing import CliRunner

CLOSE = dict(atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Two models in folders ``old`` and ``new``, and two adapters ``a`` (rsLoRA, rank 4) and ``b`` (rank 2) for old."""
    folder = tmp_path_factory.mktemp("shelf")
    old = LAYOUTS["llama"].model()
    new = relative_of(old)
    save(old, folder / "old")
    save(new, folder / "new")
    adapted(old, 1, target_modules=DENSE, r=4, lora_alpha=16, use_rslora=True).save_pretrained(folder / "a")
    adapted(old, 2, target_modules="all-linear", r=2, lora_alpha=3).save_pretrained(folder / "b")
    return folder, old, new


@pytest.fixture
def copy_of(shelf, tmp_path):
    def copied(name):
        return shutil.copytree(shelf[0] / name, tmp_path / name)

    return copied


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.output


def change(folder, **fields):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING, which learns prompts"),
        ({"peft_type": "VERA"}, "VERA, which is not supported"),
        ({"peft_type": None}, "does not say its peft_type"),
        ({"alora_invocation_tokens": [1, 2]}, "Activated LoRA"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "replicated layers"),
        ({"init_lora_weights": "pissa_niter_4"}, "begun by pissa_niter_4"),
        ({"target_parameters": 5}, "target_parameters is not what PEFT writes"),
        ({"modules_to_save": [None]}, "modules_to_save is not what PEFT writes"),
        ({"rank_pattern": 7}, "rank_pattern is not what PEFT writes"),
    ],
)
def test_what_is_more_than_a_change_of_weights_is_refused_by_name(copy_of, fields, said):
    with pytest.raises(AdapterError, match=said) as caught:
        adapters.read(change(copy_of("a"), **fields))
    assert "adapter_config.json" in str(caught.value)


def test_missing_and_broken_files(copy_of, shelf, tmp_path):
    folder = copy_of("a")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match="has no adapter_config.json"):
        adapters.read(folder)
    (folder / "adapter_config.json").write_text("[1, 2")
    with pytest.raises(AdapterError, match="configuration cannot be read"):
        adapters.read(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match="is a pickle"):
        adapters.read(folder)
    with pytest.raises(AdapterError, match="it holds a model"):
        adapters.read(shelf[0] / "old")
    with pytest.raises(AdapterError, match="folders in it have one: a, b"):
        adapters.read(shelf[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match="no PEFT adapter in this folder"):
        adapters.read(tmp_path / "empty")


def test_bases_that_cannot_be_read(shelf, tmp_path):
    model = shutil.copytree(shelf[0] / "old", tmp_path / "model")
    shard = sorted(model.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(BaseModelError, match=shard.name):
        open_base(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(BaseModelError, match=r"quantised \(gptq\)"):
        open_base(model)


def test_what_is_not_peft_is_no_folder(shelf, tmp_path):
    adapter = adapters.read(shelf[0] / "a")
    with pytest.raises(AdapterError, match="A folder is PEFT's form"):
        adapters.write(adapter, tmp_path / "out", layout="kohya", names=open_base(shelf[0] / "old").names)
    kohya = adapters.from_state_dict(
        {"lora_unet_x.lora_up.weight": torch.ones(4, 2), "lora_unet_x.lora_down.weight": torch.ones(2, 4)}
    )
    with pytest.raises(AdapterError, match="safetensors only"):
        adapters.write(kohya, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_unchanged_folders_keep_their_configuration(shelf, tmp_path):
    """rsLoRA and patterns that are still true are kept as they were written; what began the training is over."""
    for name in ("a", "b"):
        before = config_of(shelf[0] / name)
        after = config_of(adapters.write(adapters.read(shelf[0] / name), tmp_path / name))
        assert {k: v for k, v in after.items() if before[k] != v} == {"init_lora_weights": True}
        old, new = (load_file(one / name / "adapter_model.safetensors") for one in (shelf[0], tmp_path))
        assert old.keys() == new.keys() and all(torch.equal(old[k], new[k]) for k in old)


def test_targets_are_exact(shelf, tmp_path):
    """A module that is left out stays out, whatever the pattern was that named it."""
    folder, old, _ = shelf
    adapter = adapters.read(folder / "b")
    kept = {key: module for key, module in adapter.modules.items() if "layers.1" not in key or "q_proj" in key}
    fewer = adapter.with_modules(kept)
    written = adapters.write(fewer, tmp_path / "fewer")
    assert config_of(written)["target_modules"] == sorted(key.removeprefix(PREFIX) for key in kept)
    torch.testing.assert_close(loaded(old, written), predicted(old, fewer), **CLOSE)


def test_an_existing_folder_stays(copy_of, tmp_path):
    adapter, there = adapters.read(copy_of("a")), copy_of("b")
    (there / "README.md").write_text("mine")
    before = {file.name: file.read_bytes() for file in there.iterdir()}
    with pytest.raises(AdapterError, match="exists already"):
        adapters.write(adapter, there)
    assert {file.name: file.read_bytes() for file in there.iterdir()} == before
    adapters.write(adapter, there, overwrite=True)
    assert (there / "README.md").read_text() == "mine"
    assert adapters.read(there).modules.keys() == adapter.modules.keys()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(AdapterError, match="exists already"):
        adapters.write(adapter, tmp_path / "file", overwrite=True)
    assert {file.name for file in there.iterdir()} == set(before) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("existing", [False, True])
def test_whole_or_not_at_all(tmp_path, existing):
    """A block that fails in the second file, and a file that cannot be moved in, leave what was there before."""

    def broken():
        yield b"half"
        raise OSError(28, "No space left on device")

    folder = tmp_path / "out"
    if existing:
        folder.mkdir()
        (folder / "one").write_bytes(b"old")
    with pytest.raises(OSError, match="No space"):
        folders.write_folder(folder, {"one": [b"new"], "two": broken()}, overwrite=True)
    if existing:
        (folder / "two").mkdir()  # a file cannot take its place
        (folder / "two" / "more").write_bytes(b"x")
        with pytest.raises(OSError):
            folders.write_folder(folder, {"one": [b"new"], "two": [b"new"]}, overwrite=True)
        assert sorted(file.name for file in folder.iterdir()) == ["one", "two"]
        assert (folder / "one").read_bytes() == b"old" and (folder / "two" / "more").exists()
    else:
        assert not list(tmp_path.iterdir())


def test_commands(shelf, tmp_path):
    """Every command from folder to folder; what they write acts in PEFT as we predict."""
    folder, old, new = shelf
    a, b, source, target = (folder / name for name in ("a", "b", "old", "new"))
    commands = {
        "copied": (new, "transfer", a, "--source", source, "--target", target, "--method", "copy"),
        "rotated": (new, "transfer", a, "--source", source, "--target", target, "--method", "rotate", "--no-cache"),
        "merged": (old, "merge", f"{a}:0.8", f"{b}:-0.3"),
        "summed": (old, "merge", a, b, "--method", "concat"),
        "small": (old, "resize", a, "--rank", 2),
        "half": (old, "convert", a, "--layout", "peft", "--dtype", "bf16"),
    }
    for name, (model, *command) in commands.items():
        code, output = run(*command, "-o", tmp_path / name)
        assert code == 0, output
        result = adapters.read(tmp_path / name)
        torch.testing.assert_close(loaded(model, tmp_path / name), predicted(model, result), **CLOSE)
    assert config_of(tmp_path / "copied")["use_rslora"] and not config_of(tmp_path / "rotated")["use_rslora"]
    assert {str(t.dtype) for t in load_file(tmp_path / "half" / "adapter_model.safetensors").values()} == {
        "torch.bfloat16"
    }
    assert not list(tmp_path.glob(".*"))
    before = (tmp_path / "small" / "adapter_model.safetensors").read_bytes()
    code, output = run("resize", a, "--rank", 1, "-o", tmp_path / "small")
    assert code == 1 and "exists already" in output
    assert (tmp_path / "small" / "adapter_model.safetensors").read_bytes() == before
    code, output = run("resize", a, "--rank", 1, "-o", tmp_path / "small", "--force")
    assert code == 0 and config_of(tmp_path / "small")["r"] == 1
    code, output = run("resize", a, "--rank", 1, "-o", a, "--force")
    assert code == 1 and "overwrite an input" in output
    code, output = run("similarity", source, target, "--lora", a, "--no-cache")
    assert code == 0 and "relatives" in output
    code, output = run(
        "transfer", a, "--source", source, "--target", target, "--strength", 0.5, "-o", tmp_path / "x.safetensors"
    )
    assert code == 0 and (tmp_path / "x.safetensors").is_file()


def test_rotate_acts_once(shelf, tmp_path):
    """With the scale in the factors, alpha 16 at rank 8 from the old configuration would act a second time."""
    folder, old, _ = shelf
    adapted(old, 3, target_modules=["q_proj"], r=8, lora_alpha=16).save_pretrained(tmp_path / "a")
    code, output = run(
        "transfer",
        tmp_path / "a",
        "--source",
        folder / "old",
        "--target",
        folder / "new",
        "--method",
        "rotate",
        "-o",
        tmp_path / "b",
    )
    assert code == 0, output
    one, two = adapters.read(tmp_path / "a"), adapters.read(tmp_path / "b")
    for key, module in one.modules.items():
        assert two.modules[key].norm() == pytest.approx(module.norm(), rel=1e-3)


def test_inspect(shelf):
    found = inspect(shelf[0] / "a")
    assert found.architecture == "language model" and found.size and not found.unknown_keys
    assert found.ranks == {4: 14} and found.no_alpha == 0
    assert "PEFT: LORA, r 4, lora_alpha 16, rsLoRA, CAUSAL_LM" in found.to_text()
    code, output = run("inspect", shelf[0] / "a")
    assert code == 0 and "rsLoRA" in output and "a (" in output


def test_many_folders_at_once(shelf, tmp_path, crews):
    """``--all`` makes of each folder what ``transfer`` makes of it, with a report beside it, and nothing twice."""
    many = tmp_path / "adapters"
    for name, new in (("a", "first.v1"), ("b", "second")):
        shutil.copytree(shelf[0] / name, many / new)
    bases = ("--source", shelf[0] / "old", "--target", shelf[0] / "new", "--method", "copy")
    words = ("transfer", "--all", many / "*", *bases, "-o", tmp_path / "moved", "--reports", "md")
    code, told = run(*words)
    assert code == 0 and "2 transferred, 0 failed." in told, told
    assert sorted(p.name for p in (tmp_path / "moved").iterdir()) == ["first.v1", "first.v1.md", "second", "second.md"]
    assert run("transfer", many / "first.v1", *bases, "-o", tmp_path / "single")[0] == 0
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "single" / file).read_bytes() == (tmp_path / "moved" / "first.v1" / file).read_bytes()
    assert "2 were there already" in run(*words)[1]
