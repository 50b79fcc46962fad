"""`lora-graft distill` and `lora-graft dataset`: the whole way on tiny models of diffusers, and on the family."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from lora_graft import adapters
from lora_graft.adapters import metadata
from lora_graft.choices import Budget
from lora_graft.jobs.distill import dataset as datasets
from lora_graft.jobs.distill.noisy_latents import HELD_OUT

HERE = Path(__file__).parent
SMALL = ("--count", 4, "--width", 32, "--draw-steps", 2, "--noisy-latents", 8, "--batch", 4, "--accumulation", 1)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Two Stable Diffusions in small (a, b), one of another latent space (v), and a LoRA of a."""
    pytest.importorskip("diffusers")
    spec = importlib.util.spec_from_file_location("tiny_models", HERE.parent / "pipelines" / "tiny.py")
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    folder = tmp_path_factory.mktemp("zoo")
    for name, how in {"a": {}, "b": {"seed": 1}, "v": {"seed": 2, "space": 7}}.items():
        tiny.sd(folder / name, **how)
    dice, tensors = torch.Generator().manual_seed(5), {}
    for role in ("attn1_to_q", "attn1_to_out_0", "attn2_to_v"):
        key = f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_{role}"
        tensors[f"{key}.lora_up.weight"] = torch.randn(32, 4, generator=dice)
        tensors[f"{key}.lora_down.weight"] = torch.randn(4, 768 if role == "attn2_to_v" else 32, generator=dice) / 4
        tensors[f"{key}.alpha"] = torch.tensor(4.0)
    tags = {"ss_tag_frequency": '{"x": {"red": 5, "cat": 4}}'}
    adapters.write(adapters.from_state_dict(tensors, metadata=tags), folder / "lora.safetensors")
    (folder / "prompts.txt").write_text("red cat\n\ntwo\n", encoding="utf-8")
    return folder


def call(zoo, output, *more, target="b", prompts=True):
    words = ["distill", zoo / "lora.safetensors", "--source", zoo / "a", "--target", zoo / target, "-o", output]
    return [*words, *SMALL, *(("--prompts", zoo / "prompts.txt") if prompts else ()), *more]


def test_a_lora_is_taught_and_the_same_call_gives_the_same_file(cli, zoo, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    first = cli(
        *call(zoo, out / "new.safetensors", "--steps", 6, "--rank", 4),
        *("--report", out / "new.md", "--plot", out / "new.png"),
    )
    assert first.exit_code == 0, first.output
    assert sorted(path.name for path in out.iterdir()) == ["new.md", "new.png", "new.safetensors"]
    assert "was taught to b in 6 steps" in (out / "new.md").read_text() and "share of the effect" in first.output
    made = adapters.read(out / "new.safetensors")
    assert made.layout == "kohya" and made.modules.keys() == adapters.read(zoo / "lora.safetensors").modules.keys()
    assert "ss_tag_frequency" in made.metadata and metadata.history(made.metadata)
    again = cli(*call(zoo, tmp_path / "again.safetensors", "--steps", 6, "--rank", 4))
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again.safetensors").read_bytes() == (out / "new.safetensors").read_bytes()


def interrupting(monkeypatch, at):
    """Ctrl-C in a step of the learning."""
    from lora_graft.jobs.distill import train

    real = train._Run.step

    def step(self):
        if self.state.step == at:
            monkeypatch.setattr(train._Run, "step", real)
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(train._Run, "step", step)


def test_ctrl_c_keeps_the_best_and_the_same_call_goes_on(cli, zoo, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    how = ("--steps", 10, "--rank", 4, "--checkpoint-every", 2)
    assert cli(*call(zoo, whole, *how)).exit_code == 0
    interrupting(monkeypatch, 7)
    stopped = cli(*call(zoo, broken, *how))
    best = tmp_path / "broken.unfinished" / "best_so_far.safetensors"
    assert stopped.exit_code == 130 and str(best) in stopped.output and "goes on" in stopped.output
    assert adapters.read(best).modules and not broken.exists()
    mine = best.with_name("notes.txt")
    mine.write_text("mine")
    drawn = []
    from lora_graft.pipelines.denoiser import DiffusersDenoiser

    monkeypatch.setattr(DiffusersDenoiser, "draw", lambda *_: drawn.append(1))
    went_on = cli(*call(zoo, broken, *how, "--guards", 0, "--report", tmp_path / "broken.md"))
    assert went_on.exit_code == 0, went_on.output
    assert not drawn and "went on from its step 7" in (tmp_path / "broken.md").read_text()
    assert broken.read_bytes() == whole.read_bytes()
    assert [path.name for path in mine.parent.iterdir()] == ["notes.txt"]


def test_data_alone_is_the_data_that_distilling_draws(cli, zoo, tmp_path):
    words = ["dataset", zoo / "lora.safetensors", "--source", zoo / "a", "--target", zoo / "b"]
    words += ["--prompts", zoo / "prompts.txt", "--count", 4, "--width", 32, "--steps", 2]
    made = cli(*words, "-o", tmp_path / "data.safetensors", "--report", tmp_path / "data.md")
    assert made.exit_code == 0, made.output
    data = datasets.load(tmp_path / "data.safetensors")
    assert data.prompts == ["red cat", "two"] and data.taught.shape == data.target.shape == (2, 4, 16, 16)
    assert "2 samples of a with its LoRA" in (tmp_path / "data.md").read_text()
    direct = cli(*call(zoo, tmp_path / "direct.safetensors", "--steps", 2))
    stored = cli(
        *call(
            zoo,
            tmp_path / "stored.safetensors",
            "--steps",
            2,
            "--dataset",
            tmp_path / "data.safetensors",
            prompts=False,
        )
    )
    assert direct.exit_code == stored.exit_code == 0, stored.output
    files = [adapters.read(tmp_path / f"{name}.safetensors") for name in ("direct", "stored")]
    for key, module in files[0].modules.items():
        assert all(torch.equal(tensor, files[1].modules[key].tensors[s]) for s, tensor in module.tensors.items())


@pytest.mark.parametrize("start", ["copy", "lora.safetensors"])
def test_a_start_from_the_lora_itself_begins_with_its_effect(cli, zoo, tmp_path, start):
    """The target is the source: a copy is right from the beginning."""
    begin = start if start == "copy" else zoo / start
    done = cli(*call(zoo, tmp_path / "o.safetensors", "--steps", 1, "--rank", 4, "--start-from", begin, target="a"))
    assert done.exit_code == 0, done.output
    shares = [float(share) for share in re.findall(r"^\d+ +([\d.-]+)$", done.output, re.M)]
    assert shares[0] > 0.99


def test_another_latent_space_is_learnt_from_pictures(cli, zoo, tmp_path):
    done = cli(*call(zoo, tmp_path / "o.safetensors", "--steps", 2, target="v"))
    assert done.exit_code == 0 and "from pictures" in done.output, done.output
    refused = cli(*call(zoo, tmp_path / "p.safetensors", "--objective", "difference", target="v"))
    assert refused.exit_code == 1 and "one latent space" in refused.output


def test_prompts_come_from_the_loras_tags(cli, zoo, tmp_path):
    done = cli(*call(zoo, tmp_path / "o.safetensors", "--steps", 1, prompts=False))
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(("target", "start"), [("s", "nothing"), ("b", "an adapter (cut")])
def test_the_example_family_draws_with_its_own_networks(cli, family_models, tmp_path, monkeypatch, target, start):
    """Unasked, learning starts from a copy between relatives and from nothing between strangers."""
    monkeypatch.setitem(sys.modules, "diffusers", None)
    files = {file.stem: file for file in family_models.rglob("*.safetensors")}
    done = cli(
        *("distill", files["family_frame_a"], "--source", files["family_a"], "--target", files[f"family_{target}"]),
        *("--count", 4, "--draw-steps", 2, "--noisy-latents", 16, "--steps", 1, "--rank", 4, "--guards", 0),
        *("-o", tmp_path / "o.safetensors", "--report", tmp_path / "o.md"),
    )
    assert done.exit_code == 0, done.output
    assert len(adapters.read(tmp_path / "o.safetensors").modules) == 15
    text = (tmp_path / "o.md").read_text()
    assert f"Started from {start}" in text
    assert "Effort: normal, but for what was set by itself (steps, noisy latents)." in text


def test_an_effort_says_how_much_is_drawn_and_learnt(cli, zoo, tmp_path):
    words = ("distill", zoo / "lora.safetensors", "--source", zoo / "a", "--target", zoo / "b", "--width", 32)
    more = ("--prompts", zoo / "prompts.txt", "--draw-steps", 1, "--guards", 0, "--rank", 4, "--effort", "quick")
    done = cli(*words, *more, "-o", tmp_path / "o.safetensors", "--report", tmp_path / "o.json")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "o.json").read_text())
    assert (report["effort"], report["asked"]) == ("quick", Budget.steps["quick"])
    kept = report["evaluations"]["target"] - HELD_OUT
    assert kept == Budget.noisy_latents["quick"]


@pytest.fixture
def refusal(cli, zoo, tmp_path):
    def ask(*more, **how):
        done = cli(*call(zoo, tmp_path / "never.safetensors", "--steps", 1, *more, **how))
        assert done.exit_code == 1 and done.output.startswith("Error: ") and "Traceback" not in done.output
        assert not (tmp_path / "never.safetensors").exists()
        return done.output

    return ask


def test_without_diffusers_it_says_what_to_install(refusal, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert 'pip install "lora-graft[distill]"' in refusal()


def test_prompts_that_are_none(refusal, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    assert "holds no prompts" in refusal("--prompts", tmp_path / "empty.txt", prompts=False)
    assert "holds no seed prompts" in refusal("--seeds", tmp_path / "empty.txt", prompts=False)
    assert "not a text in UTF-8" in refusal("--prompts", tmp_path / "latin.txt", prompts=False)


def test_a_lora_for_another_base(cli, zoo, shelf, tmp_path):
    words = ["distill", shelf / "lora.safetensors", "--source", zoo / "a", "--target", zoo / "b"]
    done = cli(*words, "-o", tmp_path / "o.safetensors")
    assert done.exit_code == 1 and "base it was trained on" in done.output


def test_models_that_cannot_be_opened(cli, zoo, shelf, tmp_path):
    def ask(source, *more):
        words = ["distill", zoo / "lora.safetensors", "--source", source, "--target", zoo / "b"]
        done = cli(*words, "-o", tmp_path / "o.safetensors", *more)
        assert done.exit_code == 1 and "Traceback" not in done.output
        return done.output

    import shutil

    other = tmp_path / "other"
    shutil.copytree(zoo / "a", other)
    config = other / "unet" / "config.json"
    text = config.read_text()
    config.write_text(text.replace("UNet2DConditionModel", "UNet3DConditionModel"))
    assert "UNet3DConditionModel" in ask(other) and "ComfyUI" in ask(other)
    config.write_text("{" * 5000)
    assert "configuration cannot be read" in ask(other)
    config.write_text(text.replace('"layers_per_block": 1', '"layers_per_block": "many"'))
    assert "cannot open this model" in ask(other)
    config.write_text(text)
    (other / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "AutoencoderKL"}')
    assert "no scheduler" in ask(other)
    (other / "text_encoder" / "model.safetensors").rename(other / "text_encoder" / "pytorch_model.bin")
    assert "safetensors" in ask(other)


def test_too_little_memory_names_the_ways_out(refusal, monkeypatch):
    from lora_graft.pipelines.denoiser import DiffusersDenoiser

    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DiffusersDenoiser, "predict", full)
    assert "--offload" in refusal() and "--batch" in refusal()


def test_what_does_not_go_together(cli, zoo, tmp_path):
    both = cli(*call(zoo, tmp_path / "o.safetensors", "--dataset", zoo / "lora.safetensors"))
    assert both.exit_code == 2
    bad = cli(*call(zoo, tmp_path / "o.safetensors", "--dataset", zoo / "lora.safetensors", prompts=False))
    assert bad.exit_code == 1 and "not a dataset" in bad.output
    odd = cli(*call(zoo, tmp_path / "o.safetensors", "--height", 33))
    assert odd.exit_code == 1 and "multiple of 16" in odd.output
