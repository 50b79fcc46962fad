"""``lora-graft merge`` from files to file."""

import json

import pytest
import torch
from lora_graft.choices import Merge
from lora_graft.cli.menus import MergeMethod
from lora_graft.cli.merge import rank_of, weighted
from lora_graft.jobs.merge.report import MergeReport
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer import BadParameter

Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="session")
def pair(shelf, lora_tensors):
    """A second LoRA for the same base with rank 6, no text encoder, in fp16."""
    g = torch.Generator().manual_seed(8)
    tensors = {}
    for key, old in lora_tensors.items():
        if key.startswith("lora_te") or key.endswith(".alpha"):
            continue
        at = 1 if "lora_up" in key else 0
        shape = [6 if i == at else n for i, n in enumerate(old.shape)]
        tensors[key] = (torch.randn(shape, generator=g) / 10).half()
    save_file(tensors, shelf / "second.safetensors", {"ss_tag_frequency": json.dumps({"5_x": {"blue": 2}})})
    return shelf / "lora.safetensors", shelf / "second.safetensors"


def updates_in(path):
    tensors, found = load_file(path), {}
    for key in sorted({k.split(".lora_")[0] for k in tensors if ".lora_" in k}):
        up, down = (tensors[f"{key}.lora_{way}.weight"].double().flatten(1) for way in ("up", "down"))
        found[key] = up @ down * float(tensors.get(f"{key}.alpha", up.shape[1])) / up.shape[1]
    return found


@pytest.fixture
def merge(cli, tmp_path):
    (tmp_path / "out").mkdir(exist_ok=True)

    def run(*arguments, name="x.safetensors"):
        return cli("merge", *arguments, "-o", tmp_path / "out" / name), tmp_path / "out" / name

    return run


def test_concat_is_the_weighted_sum(merge, pair):
    a, b = pair
    result, out = merge(f"{a}:0.8", f"{b}:-0.3", "--method", "concat", "--dtype", "fp32")
    assert result.exit_code == 0, result.output
    first, second, mixed = updates_in(a), updates_in(b), updates_in(out)
    assert mixed.keys() == first.keys()
    for key, got in mixed.items():
        want = 0.8 * first[key] - (0.3 * second[key] if key in second else 0)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    assert "lora.safetensors × 0.8" in result.stdout and f"Wrote {out}" in result.stdout
    assert "1 modules are in lora.safetensors alone" in result.stdout


def test_strength_of_the_text_encoder(merge, pair):
    _, out = merge(f"{pair[0]}:0.5:2", pair[1], "--method", "concat", "--dtype", "fp32")
    key = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    torch.testing.assert_close(updates_in(out)[key], 2 * updates_in(pair[0])[key], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", [m.value for m in MergeMethod])
def test_every_method_at_a_rank(merge, pair, method):
    result, out = merge(*pair, "--method", method, "--rank", "5", "--json", "--seed", "3")
    assert result.exit_code == 0, result.output
    report = MergeReport.from_json(result.stdout)
    assert report.method == method and report.settings["rank"] == 5
    assert report.settings.get("seed") == (3 if method in Merge.readers["seed"] else None)
    downs = {t.shape[0] for k, t in load_file(out).items() if k.endswith("lora_down.weight")}
    assert max(downs) == 5


def test_report_picture_and_provenance(merge, pair, tmp_path):
    out = tmp_path / "out"
    result, path = merge(*pair, "--rank", "max", "--report", out / "r.md", "--plot", out / "p.png")
    assert result.exit_code == 0, result.output
    assert (out / "r.md").read_text("utf-8").startswith("# lora.safetensors + second.safetensors merged")
    assert (out / "p.png").read_bytes().startswith(b"\x89PNG")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["lora_graft.method"] == "lego" and len(json.loads(metadata["lora_graft.loras"])) == 2
    assert {"red frame", "blue"} <= {t for f in json.loads(metadata["ss_tag_frequency"]).values() for t in f}


def test_the_same_inputs_give_the_same_file(merge, pair):
    first = merge(*pair, "--rank", "6")[1].read_bytes()
    assert merge(*pair, "--rank", "6", "--force")[1].read_bytes() == first
    assert merge(*pair, "--rank", "6", "--force", "--units", "paper")[1].read_bytes() != first


@pytest.mark.parametrize("layout", ["diffusers", "comfy"])
def test_layouts_and_bases(merge, pair, shelf, layout, cli, tmp_path):
    """The second LoRA under other names: with the base it merges to the same."""
    base = ("--base", shelf / "a.safetensors")
    other = tmp_path / "other.safetensors"
    assert cli("convert", pair[1], "--layout", layout, "-o", other, *base).exit_code == 0
    result, out = merge(pair[0], f"{other}:0.5", "--method", "concat", "--dtype", "fp32", *base)
    assert result.exit_code == 0, result.output
    _, plain = merge(pair[0], f"{pair[1]}:0.5", "--method", "concat", "--dtype", "fp32", name="y.safetensors")
    mixed, same = updates_in(out), updates_in(plain)
    assert mixed.keys() == same.keys()
    for key in same:
        torch.testing.assert_close(mixed[key], same[key], rtol=2e-3, atol=1e-5)
    assert merge(*pair, "--layout", layout, *base, name="z.safetensors")[0].exit_code == 0
    written = load_file(tmp_path / "out" / "z.safetensors")
    assert not any(key.startswith("lora_unet_") for key in written)


def test_one_lora_is_pruned(merge, pair):
    result, out = merge(pair[1], "--rank", "2")
    assert result.exit_code == 0, result.output
    assert {t.shape[0] for k, t in load_file(out).items() if k.endswith("lora_down.weight")} == {2}
    assert "became a LoRA of rank 2" in result.stdout


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a.safetensors", ("a.safetensors", 1.0, 1.0)),
        ("a.safetensors:0.8", ("a.safetensors", 0.8, 0.8)),
        ("a.safetensors:-0.3", ("a.safetensors", -0.3, -0.3)),
        ("a.safetensors:1:0", ("a.safetensors", 1.0, 0.0)),
        (r"C:\x.safetensors", (r"C:\x.safetensors", 1.0, 1.0)),
        (r"C:\x y.safetensors:0.8", (r"C:\x y.safetensors", 0.8, 0.8)),
        ("C:/x.safetensors:.5:1e-1", ("C:/x.safetensors", 0.5, 0.1)),
    ],
)
def test_files_with_strengths(text, want):
    path, *strengths = weighted(text)
    assert (str(path), *strengths) == want


def test_a_file_name_with_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x:2").touch()
    assert weighted("x:2") == (weighted("x:2:3")[0], 1.0, 1.0) and weighted("x:2:3")[1] == 3.0


@pytest.mark.parametrize("text", ["a.safetensors:much", "a.safetensors:nan", "a.safetensors:inf:1"])
def test_no_strengths(text):
    with pytest.raises(BadParameter):
        weighted(text)


def test_ranks():
    assert [rank_of(t) for t in ("auto", "max", "sum", "32")] == ["auto", "max", "sum", 32]
    for text in ("0", "-1", "2.5", "all"):
        with pytest.raises(BadParameter):
            rank_of(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.safetensors"],
        ["-o", "x.safetensors"],
        ["a", "-o", "x.ckpt"],
        ["a", "-o", "x.safetensors", "--rank", "0"],
        ["a", "-o", "x.safetensors", "--method", "magic"],
        ["a", "-o", "x.safetensors", "--plot", "p.jpg"],
        ["a.safetensors:x", "-o", "x.safetensors"],
    ],
)
def test_wrong_usage_is_status_2(cli, arguments):
    assert cli("merge", *arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["A:0", "B:0"], ["all strengths are 0"]),
        (["A", "B", "--rank", "99"], ["above the possible", "10"]),
        (["A", "B", "--density", "0"], ["density"]),
        (["A", "F"], ["different architectures", "lora.safetensors", "flux.safetensors"]),
        (["A", "W"], ["48×48", "50×48", "wide.safetensors", Q]),
        (["A", "N"], ["NaN", "nan.safetensors", Q]),
        (["A", "B", "--base", "O"], ["other"]),
        (["A", "gone.safetensors:0.5"], ["gone.safetensors"]),
    ],
)
def test_bad_input_writes_nothing(listing, merge, pair, shelf, lora_tensors, arguments, words, tmp_path):
    key = f"{Q}.lora_up.weight"
    save_file(
        {
            "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": torch.ones(30, 2),
            "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.ones(2, 10),
        },
        tmp_path / "flux.safetensors",
    )
    save_file({**lora_tensors, key: torch.ones(50, 4)}, tmp_path / "wide.safetensors")
    save_file({**lora_tensors, key: torch.full((48, 4), torch.nan)}, tmp_path / "nan.safetensors")
    files = {
        "A": pair[0],
        "B": pair[1],
        "F": tmp_path / "flux.safetensors",
        "W": tmp_path / "wide.safetensors",
        "N": tmp_path / "nan.safetensors",
        "O": shelf / "other.safetensors",
    }
    filled = [str(files.get(a.split(":")[0], a.split(":")[0])) + a[len(a.split(":")[0]) :] for a in arguments]
    out = tmp_path / "out"
    result, _ = merge(*filled, "--report", out / "r.json", "--plot", out / "p.png")
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: ") and result.stdout == ""
    for word in words:
        assert word in result.stderr
    assert listing() == []


def test_never_writes_over_a_file(merge, pair):
    assert merge(*pair)[0].exit_code == 0
    result, out = merge(*pair)
    assert result.exit_code == 1 and "exists already" in result.stderr
    assert merge(*pair, name="../out/x.safetensors")[0].exit_code == 1
    assert out.is_file()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_device_arrives(merge, pair, monkeypatch, device):
    from lora_graft.jobs.merge import merge as job

    seen, run = [], job.merge
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(job, "merge", lambda *a, device, **k: seen.append(device) or run(*a, **k))
    result, _ = merge(*pair, "--method", "concat", "--device", device)
    assert result.exit_code == 0 and seen == [device], result.output


def test_the_device_arrives_at_lego_in_resize(cli, pair, tmp_path, monkeypatch):
    from lora_graft.jobs.merge import merge as job

    seen, run = [], job.merge
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(job, "merge", lambda *a, device, **k: seen.append(device) or run(*a, **k))
    for number, more in enumerate(([], ["--device", "cpu"])):
        arguments = ("resize", pair[0], "--rank", 2, "--lego", "-o", tmp_path / f"{number}.safetensors", *more)
        assert cli(*arguments).exit_code == 0
    assert seen == ["cuda", "cpu"]
    result = cli("resize", pair[0], "--rank", 2, "-o", tmp_path / "x.safetensors", "--device", "cpu")
    assert result.exit_code == 2 and "--lego" in result.output
