"""Every bad input ends in one clean message that names file and key, status 1, and nothing written."""

import shutil
import sys

import pytest
import torch
from lora_graft.errors import GraftError
from safetensors.torch import save, save_file

Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def change(tensors, **by_suffix):
    """The LoRA with some of the tensors of one module replaced (None: left out)."""
    out = dict(tensors)
    for suffix, value in by_suffix.items():
        key = f"{Q}.{suffix.replace('__', '.')}"
        out[key] = value
        if value is None:
            del out[key]
    return out


def wider(tensors):
    """An adapter whose modules fit no weight of the base."""
    return change(tensors, lora_down__weight=torch.ones(4, 50), lora_up__weight=torch.ones(50, 4))


# name: (file's bytes from the good tensors, what the message must say, whether it names the key)
CASES = {
    "truncated": (lambda t: save(t)[:-200], "truncated", False),
    "cut in the header": (lambda t: save(t)[:90], "truncated", False),
    "empty": (lambda t: b"", "empty", False),
    "not safetensors": (lambda t: b"this is a text file, and a long one" * 4, "safetensors", False),
    "a web page": (lambda t: b"<!DOCTYPE html><html></html>" * 4, "web page", False),
    "pickle": (lambda t: b"\x80\x02}q\x00." + b"\0" * 64, "pickle", False),
    "torch zip": (lambda t: b"PK\x03\x04" + b"\0" * 64, "pickle", False),
    "NaN": (lambda t: save(change(t, lora_up__weight=torch.full((48, 4), torch.nan))), "NaN", True),
    "Inf": (lambda t: save(change(t, lora_up__weight=torch.full((48, 4), torch.inf))), "Inf", True),
    "half a pair": (lambda t: save(change(t, lora_up__weight=None)), "missing", True),
    "zero rank": (
        lambda t: save(change(t, lora_down__weight=torch.ones(0, 48), lora_up__weight=torch.ones(48, 0))),
        "Zero rank",
        True,
    ),
    "ranks differ": (lambda t: save(change(t, lora_down__weight=torch.ones(3, 48))), "Rank mismatch", True),
    "no such shape": (lambda t: save(wider(t)), "50×50", True),
}


def arguments(shelf, lora, out, *more):
    return (
        "transfer",
        lora,
        "--source",
        shelf / "a.safetensors",
        "--target",
        shelf / "b.safetensors",
        "-o",
        out,
        "--no-cache",
        *more,
    )


def complaint(result, *texts):
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ") and "Traceback" not in result.stderr
    for words in texts:
        assert str(words) in result.stderr


@pytest.mark.parametrize("case", CASES)
def test_bad_adapter(case, cli, shelf, lora_tensors, tmp_path, listing):
    make, message, names_key = CASES[case]
    lora = tmp_path / "bad.safetensors"
    lora.write_bytes(make(lora_tensors))
    out = tmp_path / "out"
    more = ("--report", out / "r.json", "--plot", out / "p.png")
    result = cli(*arguments(shelf, lora, out / "x.safetensors", *more))
    complaint(result, message, lora, *([Q] if names_key else []))
    assert listing() == []


def test_missing_adapter(cli, shelf, tmp_path, listing):
    complaint(cli(*arguments(shelf, tmp_path / "none.safetensors", tmp_path / "out/x.safetensors")), "none.safetensors")
    assert listing() == []


@pytest.mark.parametrize("role", ["--source", "--target"])
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"not safetensors at all, " * 9, "safetensors"), ("cut", "truncated")],
    ids=["missing", "not safetensors", "truncated"],
)
def test_bad_base(role, content, message, cli, shelf, tmp_path, listing):
    base = tmp_path / "base.safetensors"
    if content is not None:
        base.write_bytes((shelf / "a.safetensors").read_bytes()[:-500] if content == "cut" else content)
    chosen = {"--source": shelf / "a.safetensors", "--target": shelf / "b.safetensors"} | {role: base}
    options = [part for pair in chosen.items() for part in pair]
    result = cli("transfer", shelf / "lora.safetensors", *options, "-o", tmp_path / "out/x.safetensors")
    complaint(result, message, base)
    assert listing() == []


def test_nan_in_a_base_names_the_weight(cli, shelf, tmp_path, listing):
    from safetensors.torch import load_file

    tensors = load_file(shelf / "b.safetensors")
    name = "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    tensors[f"model.diffusion_model.{name}"][0, 0] = torch.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    result = cli(
        "transfer",
        shelf / "lora.safetensors",
        "--source",
        shelf / "a.safetensors",
        "--target",
        tmp_path / "nan.safetensors",
        "-o",
        tmp_path / "out/x.safetensors",
        "--no-cache",
    )
    complaint(result, "NaN", tmp_path / "nan.safetensors", name)
    assert listing() == []


def test_adapter_for_another_architecture_says_which(cli, shelf, tmp_path, listing):
    """An SDXL-like adapter on an SD 1.5 base, and a Flux one whose keys the base does not have at all."""
    result = cli(
        "transfer",
        shelf / "lora.safetensors",
        "--source",
        shelf / "other.safetensors",
        "--target",
        shelf / "other.safetensors",
        "-o",
        tmp_path / "out/x.safetensors",
        "--no-cache",
    )
    complaint(result, "SD 1.5", "SDXL", shelf / "lora.safetensors", "attn2_to_k")
    key = "lora_unet_double_blocks_0_img_attn_proj"
    flux = {f"{key}.lora_down.weight": torch.ones(4, 3072), f"{key}.lora_up.weight": torch.ones(3072, 4)}
    save_file(flux, tmp_path / "flux.safetensors")
    result = cli(*arguments(shelf, tmp_path / "flux.safetensors", tmp_path / "out/x.safetensors"))
    complaint(result, "looks like one for Flux", tmp_path / "flux.safetensors", key)
    assert listing() == []


def test_a_checkpoint_given_as_the_adapter(cli, shelf, tmp_path, listing):
    complaint(cli(*arguments(shelf, shelf / "a.safetensors", tmp_path / "out/x.safetensors")), "full model checkpoint")
    assert listing() == []


def test_existing_output_is_left_alone(cli, shelf, tmp_path, listing):
    for name in ("x.safetensors", "r.md", "p.png"):
        taken = tmp_path / "out" / name
        taken.write_bytes(b"mine")
        more = ("--report", tmp_path / "out/r.md", "--plot", tmp_path / "out/p.png")
        result = cli(*arguments(shelf, shelf / "lora.safetensors", tmp_path / "out/x.safetensors", *more))
        complaint(result, "exists already", taken, "--force")
        assert taken.read_bytes() == b"mine" and listing() == [name]
        taken.unlink()


def test_an_input_is_never_overwritten(cli, shelf, tmp_path):
    mine = tmp_path / "lora.safetensors"
    shutil.copy(shelf / "lora.safetensors", mine)
    before = mine.read_bytes()
    complaint(cli(*arguments(shelf, mine, mine, "--force")), "overwrite an input", mine)
    complaint(cli("convert", mine, "--layout", "comfy", "-o", mine, "--force"), "overwrite an input")
    assert mine.read_bytes() == before


def test_output_folder_must_exist(cli, shelf, tmp_path):
    complaint(cli(*arguments(shelf, shelf / "lora.safetensors", tmp_path / "no/x.safetensors")), "folder", "no")


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX thing")
def test_full_disk_leaves_nothing(script, shelf, tmp_path, listing):
    """The kernel refuses to let any file grow beyond 60 kB: enough for report and picture, not for the adapter."""
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    out = tmp_path / "out"
    more = ("--method", "copy", "--report", out / "r.json")
    result = script(*arguments(shelf, shelf / "lora.safetensors", out / "x.safetensors", *more), preexec_fn=limit)
    assert result.returncode == 1, result.stderr
    assert "Error: " in result.stderr and "x.safetensors" in result.stderr and "Traceback" not in result.stderr
    assert listing() == []


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX thing")
def test_full_disk_at_the_report_leaves_no_adapter(script, shelf, tmp_path, listing):
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))

    out = tmp_path / "out"
    more = ("--method", "copy", "--report", out / "r.md")
    result = script(*arguments(shelf, shelf / "lora.safetensors", out / "x.safetensors", *more), preexec_fn=limit)
    assert result.returncode == 1, result.stderr
    assert "Error: " in result.stderr and "r.md" in result.stderr and "Traceback" not in result.stderr
    assert listing() == []


def test_debug_shows_the_error_itself(cli, shelf, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"")
    result = cli("inspect", tmp_path / "bad.safetensors", "--debug")
    assert result.exit_code == 1 and isinstance(result.exception, GraftError)


def test_debug_prints_a_traceback(script, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"")
    result = script("inspect", tmp_path / "bad.safetensors", "--debug")
    assert result.returncode == 1 and "Traceback" in result.stderr
