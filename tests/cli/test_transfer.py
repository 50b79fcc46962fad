"""``lora-graft transfer`` and ``convert``, from file to file."""

import json

import pytest
import torch
from lora_graft.jobs.transfer.report import Report
from safetensors import safe_open
from safetensors.torch import load_file, save_file


@pytest.fixture
def transfer(cli, shelf, tmp_path):
    (tmp_path / "out").mkdir(exist_ok=True)

    def run(*more, source="a", target="b", name="x.safetensors", lora=None):
        out = tmp_path / "out" / name
        result = cli(
            "transfer",
            lora or shelf / "lora.safetensors",
            "--source",
            shelf / f"{source}.safetensors",
            "--target",
            shelf / f"{target}.safetensors",
            "-o",
            out,
            *more,
        )
        return result, out

    return run


def deltas(tensors):
    keys = sorted({k.split(".lora_")[0] for k in tensors if ".lora_" in k})
    found = {}
    for key in keys:
        up, down = (tensors[f"{key}.lora_{way}.weight"].float().flatten(1) for way in ("up", "down"))
        found[key] = up @ down * float(tensors.get(f"{key}.alpha", up.shape[1])) / up.shape[1]
    return found


def test_copy_between_relatives(transfer, lora_tensors):
    result, out = transfer("--method", "copy")
    assert result.exit_code == 0, result.output
    assert str(out) in result.stdout and "copy" in result.stdout
    before, after = deltas(lora_tensors), deltas(load_file(out))
    assert before.keys() == after.keys()
    for key in before:
        torch.testing.assert_close(after[key], before[key], rtol=1e-5, atol=1e-7)


def test_auto_between_relatives_chooses_and_says_why(transfer):
    result, out = transfer("--json")
    assert result.exit_code == 0, result.output
    report = Report.from_json(result.stdout)
    assert report.method_asked == "auto" and report.method == "copy" and report.advice_reason
    assert len(report.modules) == 28 and out.is_file()


def test_projection_lies_in_the_targets_subspace(transfer, shelf):
    """What lora-x writes is left unchanged by the projectors of the target's top k singular vectors."""
    result, out = transfer("--method", "lora-x", "--k", "8")
    assert result.exit_code == 0, result.output
    role = "transformer_blocks_0_attn1_to_q"
    update = deltas(load_file(out))[f"lora_unet_down_blocks_0_attentions_0_{role}"]
    base = load_file(shelf / "b.safetensors")
    u, _, v = torch.linalg.svd(base["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"])
    projected = u[:, :8] @ u[:, :8].T @ update @ v[:8].T @ v[:8]
    assert (projected - update).norm() < 1e-3 * update.norm()


def test_strangers_get_the_plain_advice_to_distil(transfer):
    result, _ = transfer("--json", target="stranger")
    assert result.exit_code == 0, result.output
    assert Report.from_json(result.stdout).advice == "distil"


def test_the_same_base_gives_the_unchanged_adapter_and_says_so(transfer, lora_tensors):
    result, out = transfer(target="a")
    assert result.exit_code == 0, result.output
    assert "same" in result.stdout or "identical" in result.stdout
    written = load_file(out)
    assert written.keys() == lora_tensors.keys()
    assert all(torch.equal(written[k], lora_tensors[k]) for k in lora_tensors)


def test_blocks_of_a_deeper_target_that_receive_nothing_are_printed(transfer, shelf, tmp_path):
    """A target with one more block of the kind that the adapter changes."""
    deep = load_file(shelf / "b.safetensors")
    mark = "output_blocks.0."
    deep |= {k.replace(mark, "output_blocks.1."): t.flip(0).contiguous() for k, t in deep.items() if mark in k}
    save_file(deep, shelf / "deep.safetensors")
    report = tmp_path / "out" / "r.json"
    result, _ = transfer("--method", "copy", "--report", report, target="deep")
    assert result.exit_code == 0, result.output
    empty = json.loads(report.read_text("utf-8"))["empty_blocks"]
    assert empty and all(block.startswith("output_blocks.") for block in empty)
    assert "receive nothing" in result.stdout and empty[0].rpartition(".")[0] in result.stdout
    before = load_file(tmp_path / "out" / "x.safetensors")
    result, out = transfer("--method", "copy", "--fill", "nearest", "--report", report, "--force", target="deep")
    assert result.exit_code == 0, result.output
    found = json.loads(report.read_text("utf-8"))
    assert found["filled_blocks"].keys() == set(empty) and found["empty_blocks"] == []
    assert "take the update of the most similar block" in result.stdout
    after = load_file(out)
    assert before.keys() < after.keys() and all(torch.equal(after[key], before[key]) for key in before)


def test_weights_below_the_threshold_are_left_out_or_copied(transfer, lora_tensors, tmp_path):
    plain, _ = transfer("--method", "lora-x", "--k", "8", "--json")
    alike = {m.key: (m.phi_left + m.phi_right) / 2 for m in Report.from_json(plain.stdout).modules}
    level = sorted(alike.values())[len(alike) // 2]
    under = {key for key, phi in alike.items() if phi < level}
    asked = ("--method", "lora-x", "--k", "8", "--threshold", str(level), "--force")

    result, out = transfer(*asked)
    assert result.exit_code == 0 and f"{len(under)} modules are left out" in result.stdout, result.output
    assert deltas(load_file(out)).keys() == alike.keys() - under
    result, out = transfer(*asked, "--below-threshold", "copy")
    assert result.exit_code == 0 and "left out" not in result.stdout, result.output
    before, after = deltas(lora_tensors), deltas(load_file(out))
    for key in under:
        torch.testing.assert_close(after[key], before[key], rtol=1e-5, atol=1e-7)

    result, out = transfer("--method", "lora-x", "--k", "8", "--threshold", "1", name="none.safetensors")
    assert result.exit_code == 1 and "leaves out everything" in result.output and "Lower the threshold" in result.output
    assert not out.exists()


def test_metadata_survives_and_provenance_is_added(transfer):
    _, out = transfer("--method", "rotate", "--k", "6")
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_base_model_version"] == "sd_v1" and metadata["modelspec.trigger_phrase"] == "red frame"
    ours = " ".join(f"{k}={v}" for k, v in metadata.items() if k.startswith("lora_graft."))
    assert "rotate" in ours and "6" in ours


def test_report_and_picture(transfer, tmp_path):
    from matplotlib.image import imread

    out = tmp_path / "out"
    result, _ = transfer("--report", out / "r.json", "--plot", out / "p.png")
    assert result.exit_code == 0, result.output
    report = Report.from_json((out / "r.json").read_text("utf-8"))
    assert report.job == "transfer" and all(m.similarity > 0.3 for m in report.modules if m.similarity is not None)
    assert imread(out / "p.png").shape[1] == 1024
    result, _ = transfer("--report", out / "r.md", "--force")
    assert result.exit_code == 0 and (out / "r.md").read_text("utf-8").startswith("# ")


@pytest.mark.parametrize(("dtype", "wanted"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_dtype(transfer, dtype, wanted):
    _, out = transfer("--method", "copy", "--dtype", dtype)
    found = load_file(out)
    assert {t.dtype for k, t in found.items() if not k.endswith(".alpha")} == {wanted}


def test_strength_and_rank(transfer, lora_tensors):
    _, out = transfer("--method", "copy", "--strength", "-0.5", "--rank", "2")
    before, after = deltas(lora_tensors), load_file(out)
    assert all(t.shape[0] == 2 for k, t in after.items() if k.endswith("lora_down.weight"))
    for key, update in deltas(after).items():
        u, s, v = torch.linalg.svd(before[key] * -0.5, full_matrices=False)
        torch.testing.assert_close(update, (u[:, :2] * s[:2]) @ v[:2], rtol=1e-3, atol=1e-5)


def test_the_same_inputs_give_the_same_file(transfer):
    first = transfer("--method", "lora-x", "--k", "8")[1].read_bytes()
    again = transfer("--method", "lora-x", "--k", "8", "--no-cache", "--force")[1].read_bytes()
    assert first == again


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "peft", "comfy"])
def test_layouts_there_and_back(cli, transfer, shelf, tmp_path, layout, lora_tensors):
    out, back = tmp_path / "out" / "there.safetensors", tmp_path / "out" / "back.safetensors"
    base = ("--base", shelf / "a.safetensors")
    result = cli("convert", shelf / "lora.safetensors", "--layout", layout, "-o", out, *base)
    assert result.exit_code == 0, result.output
    assert cli("convert", out, "--layout", "kohya", "-o", back, *base).exit_code == 0
    before, after = deltas(lora_tensors), deltas(load_file(back))
    assert before.keys() == after.keys()
    for key in before:
        torch.testing.assert_close(after[key], before[key], rtol=1e-5, atol=1e-7)
    moved, path = transfer("--method", "copy", "--layout", layout)
    assert moved.exit_code == 0, moved.output
    assert load_file(path).keys() == load_file(out).keys()


def test_convert_never_writes_over_a_file(cli, shelf, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"mine")
    options = ("--layout", "comfy", "-o", tmp_path / "x.safetensors", "--base", shelf / "a.safetensors")
    result = cli("convert", shelf / "lora.safetensors", *options)
    assert result.exit_code == 1 and "exists already" in result.stderr
    assert (tmp_path / "x.safetensors").read_bytes() == b"mine"
    assert cli("convert", shelf / "lora.safetensors", *options, "--force").exit_code == 0
    assert len(load_file(tmp_path / "x.safetensors")) == 84


def test_similarity_of_relatives_and_strangers(cli, shelf, tmp_path):
    means = {}
    for other in ("a", "b", "stranger"):
        result = cli("similarity", shelf / "a.safetensors", shelf / f"{other}.safetensors", "--json", "-")
        assert result.exit_code == 0, result.output
        report = Report.from_json(result.stdout)
        assert report.job == "compare"
        means[other] = report.totals["mean_similarity"]
    assert means["a"] == pytest.approx(1, abs=1e-4)
    assert 0.5 < means["b"] < 1 and abs(means["stranger"]) < 0.2


def test_similarity_of_a_loras_weights_with_files(cli, shelf, tmp_path):
    result = cli(
        "similarity",
        shelf / "a.safetensors",
        shelf / "b.safetensors",
        "--lora",
        shelf / "lora.safetensors",
        "--k",
        "8",
        "--json",
        tmp_path / "s.json",
        "--plot",
        tmp_path / "s.png",
    )
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "s.json").read_text("utf-8"))
    assert data["totals"]["modules"] == 28 and {m["k"] for m in data["modules"]} == {8}
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert "similarity" in result.stdout
