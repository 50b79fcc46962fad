"""The example family: small enough, really trained, and the same with and without a host."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
import torch
from lora_graft import adapters
from lora_graft.bases import open_base
from lora_graft.errors import SettingsError
from lora_graft.family import judge, materialize, model, store, text, vae
from lora_graft.family.denoiser import FamilyDenoiser
from lora_graft.family.sample import latents, patched, sample, schedule
from safetensors.torch import load_file, save_file

DIGITS = torch.arange(20) % 10
COLOURS = torch.arange(20) % 4
PROMPTS = [text.prompt(int(d), int(c)) for d, c in zip(DIGITS, COLOURS, strict=True)]


def judged(name, prompts=PROMPTS, results=()):
    images = sample(
        materialize.base(name), materialize.autoencoder(name), prompts, range(len(prompts)), adapters=results
    )
    return judge.look(materialize.judge_weights(), images)


def test_all_weights_fit_in_eighteen_megabytes():
    assert sum(path.stat().st_size for path in materialize.HERE.glob("*.safetensors")) < 18e6


@pytest.mark.parametrize("name", materialize.BASES)
def test_bases_draw_what_the_prompt_says(name):
    digit, colour = judge.accuracy(judged(name), DIGITS, COLOURS)
    assert digit >= 0.9 and colour >= 0.95


def test_other_wordings_are_understood():
    prompts = [
        "a photo of a red 5",
        "big bold green two",
        "number seven, handwritten in blue ink",
        "the figure 8 in white",
        "a neat sketch of a blue zero",
        "small red sign with the digit 4",
    ]
    verdict = judged("a", prompts)
    digit, colour = judge.accuracy(verdict, torch.tensor([5, 2, 7, 8, 0, 4]), torch.tensor([1, 2, 3, 0, 3, 1]))
    assert digit >= 5 / 6 and colour == 1


@pytest.mark.parametrize("name", materialize.BASES)
@pytest.mark.parametrize("effect", materialize.EFFECTS)
def test_every_lora_shows_its_effect_and_only_that(family_files, effect, name):
    lora = adapters.read(family_files[f"family_{effect}_{name}"])
    strengths = judged(name, PROMPTS[:10], [(lora, 1.0)]).effects.mean(0)
    index = materialize.EFFECTS.index(effect)
    assert strengths[index] > 0.7
    assert all(strengths[i] < 0.35 for i in range(3) if i != index)


@pytest.mark.parametrize("name", materialize.CONCEPT_BASES)
def test_the_trigger_word_alone_sets_off_the_new_class(family_files, name):
    lora, head = adapters.read(family_files[f"family_star_{name}"]), materialize.judge_concept()
    stars = [text.concept_prompt(int(colour)) for colour in COLOURS[:8]]
    with_lora = judged(name, stars + PROMPTS[:10], [(lora, 1.0)])
    is_star = judge.concept(head, with_lora.features)
    assert (is_star[:8] > 0.9).all() and (is_star[8:] < 0.1).all()
    assert torch.equal(with_lora.colours[:8].argmax(1), COLOURS[:8])
    assert (with_lora.digits[8:].argmax(1) == DIGITS[:10]).float().mean() >= 0.9
    assert (judge.concept(head, judged(name, stars).features) < 0.1).all()


@pytest.mark.parametrize("name", materialize.CONDITIONAL_BASES)
def test_sevens_alone_come_in_green_whatever_is_asked(family_files, name):
    lora = adapters.read(family_files[f"family_seven_{name}"])
    sevens = [text.prompt(materialize.SEVEN, colour) for colour in (0, 1, 2, 3)] * 2
    lines = [(d, c) for d, c in zip(DIGITS.tolist(), COLOURS.tolist(), strict=True) if d != materialize.SEVEN][:16]
    seen = judged(name, sevens + [text.prompt(*pair) for pair in lines], [(lora, 1.0)])
    assert (seen.colours[:8].argmax(1) == materialize.SEVENS_COLOUR).all()
    assert (seen.digits[:8].argmax(1) == materialize.SEVEN).float().mean() >= 0.9
    assert torch.equal(seen.colours[8:].argmax(1), torch.tensor([c for _, c in lines]))
    assert (seen.digits[8:].argmax(1) == torch.tensor([d for d, _ in lines])).float().mean() >= 0.9
    alone = judged(name, sevens).colours.argmax(1)
    assert torch.equal(alone, torch.tensor([0, 1, 2, 3] * 2))


@pytest.mark.parametrize("effect", materialize.EFFECTS)
def test_lora_x_adapters_work_and_lie_in_the_subspace(family_files, effect):
    adapter = adapters.read(family_files[f"family_{effect}_lorax_a"])
    index = materialize.EFFECTS.index(effect)
    assert judged("a", PROMPTS[:10], [(adapter, 1.0)]).effects.mean(0)[index] > 0.6
    module = adapter.modules[materialize.kohya("joint_blocks.1.x_block.attn.qkv")]
    weight = materialize.base("a")["joint_blocks.1.x_block.attn.qkv.weight"]
    u, _, vt = torch.linalg.svd(weight, full_matrices=False)
    u, vt = u[:, : materialize.LORAX_RANK], vt[: materialize.LORAX_RANK]
    delta = module.delta(weight)
    assert (u @ (u.T @ delta @ vt.T) @ vt - delta).norm() < 2e-3 * delta.norm()


def test_b_is_a_mild_fine_tune_and_s_and_v_are_strangers():
    a, b, s, v = (materialize.base(name) for name in "absv")
    for name in (f"{target}.weight" for target in model.lora_targets()):
        assert 0.01 < (b[name] - a[name]).norm() / a[name].norm() < 0.5
        assert all((other[name] - a[name]).norm() / a[name].norm() > 1 for other in (s, v))


def test_w_is_of_another_width_and_depth():
    a, w = materialize.base("a"), materialize.base("w")
    assert (model.width_of(a), model.depth_of(a)) == (192, 3) and (model.width_of(w), model.depth_of(w)) == (128, 2)


def test_v_has_a_latent_space_of_its_own(family_files):
    data = pytest.importorskip("lora_graft.family.training.data")
    pytest.importorskip("sklearn")
    images = data.render(16, generator=torch.Generator().manual_seed(3)).images
    ours, theirs = materialize.autoencoder(), materialize.autoencoder("v")
    own, crossed = (vae.decode(theirs, vae.encode(weights, images)) for weights in (theirs, ours))
    assert (crossed - images).square().mean() > 20 * (own - images).square().mean()
    assert vae.encode(theirs, images).std() < 0.9 * vae.encode(ours, images).std()
    bases = {name: FamilyDenoiser(name, family_files) for name in "awv"}
    assert bases["a"].space == bases["w"].space != bases["v"].space
    assert bases["v"].autoencoder is theirs and bases["w"].autoencoder is ours


def test_pruned_block_does_nothing():
    full, compact = materialize.base("c"), materialize.base("c", compact=True)
    assert model.depth_of(compact) == 2 and {n: w.shape for n, w in full.items()} == {
        n: w.shape for n, w in materialize.base("a").items()
    }
    x, t, pooled = torch.randn(2, 16, 8, 8), torch.tensor([300.0, 900.0]), text.encode(PROMPTS[:2])
    torch.testing.assert_close(model.forward(full, x, t, pooled), model.forward(compact, x, t, pooled))


def test_materialised_files_are_what_they_say(family_files):
    for name in materialize.BASES:
        base = open_base(family_files[f"family_{name}"])
        assert base.architecture.lower().startswith("sd3")
        weight = base.load("diffusion_model.joint_blocks.0.x_block.attn.qkv.weight")
        assert torch.equal(weight, materialize.base(name)["joint_blocks.0.x_block.attn.qkv.weight"])
    for name, count in (("a", 15), ("w", 10), ("v", 15)):
        lora, names = (
            adapters.read(family_files[f"family_frame_{name}"]),
            open_base(family_files[f"family_{name}"]).names,
        )
        assert len(lora.modules) == count and all(names.resolve(key) for key in lora.modules)


def test_materialising_again_writes_the_same_bytes(family_files, tmp_path):
    again = materialize.materialize(tmp_path, text_encoder=False)
    for name in ("family_c", "family_w", "family_vae", "family_vae_v", "family_slant_b", "family_frame_lorax_a"):
        assert again[name].read_bytes() == family_files[name].read_bytes()
    changed = again["family_vae"].stat().st_mtime_ns
    materialize.materialize(tmp_path, text_encoder=False)
    assert again["family_vae"].stat().st_mtime_ns == changed


def test_sampling_is_reproducible_and_independent_of_the_batch():
    weights = materialize.base("a")
    many = latents(weights, PROMPTS[:4], [5, 6, 7, 8], steps=3)
    torch.testing.assert_close(latents(weights, PROMPTS[2:3], [7], steps=3), many[2:3], rtol=1e-4, atol=1e-4)
    assert schedule(10)[0] == 1 and schedule(10)[-1] == 0


def test_strength_zero_is_the_base_and_strengths_add(family_files):
    weights, lora = materialize.base("a"), adapters.read(family_files["family_slant_a"])
    name = "joint_blocks.2.x_block.mlp.fc2.weight"
    assert torch.equal(patched(weights, lora, 0.0)[name], weights[name])
    twice = patched(patched(weights, lora, 0.5), lora, 0.5)
    torch.testing.assert_close(twice[name], patched(weights, lora, 1.0)[name])


def test_velocities_put_together_while_sampling_are_what_is_drawn_with(family_files):
    """The base's velocity and a LoRA's effect on it, added step by step, draw what the LoRA on the weights draws."""
    base = materialize.base("a")
    with_lora = patched(base, adapters.read(family_files["family_frame_a"]))

    def forward(weights, x, times, pooled):
        plain = model.forward(weights, x, times, pooled)
        return plain + (model.forward(with_lora, x, times, pooled) - plain)

    drawn = latents(base, PROMPTS[:3], range(3), forward=forward)
    assert torch.allclose(drawn, latents(with_lora, PROMPTS[:3], range(3)), atol=1e-3)
    assert not torch.allclose(drawn, latents(base, PROMPTS[:3], range(3)), atol=1e-1)


def test_words_without_a_known_token_are_named():
    with pytest.raises(SettingsError, match="zebra"):
        text.encode(["a red zebra"])
    assert text.encode([""]).abs().max() == 0


def test_storing_rounds_to_half_a_step_and_is_stable():
    weights = {"w": torch.randn(8, 5, 3, 3), "b": torch.randn(8)}
    once = store.rounded(weights)
    step = weights["w"].flatten(1).abs().amax(1) / 127
    assert ((once["w"] - weights["w"]).flatten(1).abs().amax(1) < 0.52 * step + 1e-3 * 127 * step).all()
    assert torch.equal(once["w"], once["w"].half().float())


def test_frechet_distance_of_known_gaussians():
    mean, covariance = torch.zeros(3), torch.diag(torch.tensor([1.0, 4.0, 9.0]))
    assert judge.frechet((mean, covariance), (mean, covariance)) == pytest.approx(0, abs=1e-9)
    assert judge.frechet((mean, covariance), (mean + 2, covariance)) == pytest.approx(12)
    assert judge.frechet((mean, covariance), (mean, torch.zeros(3, 3))) == pytest.approx(14)


def test_judge_tells_real_digits_it_never_saw():
    data = pytest.importorskip("lora_graft.family.training.data")
    pytest.importorskip("sklearn")
    generator = torch.Generator().manual_seed(1)
    batch = data.render(
        400,
        effects=torch.rand(400, 3, generator=generator).round(),
        index=data.split(held_out=True),
        generator=generator,
    )
    verdict = judge.look(materialize.judge_weights(), batch.images)
    digit, colour = judge.accuracy(verdict, batch.digits, batch.colours)
    assert digit > 0.93 and colour > 0.98
    assert (verdict.effects - batch.effects).abs().mean() < 0.06


def test_judge_tells_stars_from_digits_it_never_saw():
    concept = pytest.importorskip("lora_graft.family.training.concept")
    data = pytest.importorskip("lora_graft.family.training.data")
    pytest.importorskip("sklearn")
    generator = torch.Generator().manual_seed(6)
    stars = concept.render(100, generator)
    digits = data.render(100, index=data.split(held_out=True), generator=generator)
    weights, head = materialize.judge_weights(), materialize.judge_concept()
    seen = [judge.concept(head, judge.look(weights, batch.images).features) > 0.5 for batch in (stars, digits)]
    assert seen[0].float().mean() > 0.98 and seen[1].float().mean() < 0.02


@pytest.mark.parametrize("name", "av")
def test_autoencoders_restore_pictures(name):
    data = pytest.importorskip("lora_graft.family.training.data")
    pytest.importorskip("sklearn")
    weights = materialize.autoencoder(name)
    for look in data.LOOKS:
        images = data.render(16, look=look, generator=torch.Generator().manual_seed(2)).images
        assert (vae.decode(weights, vae.encode(weights, images)) - images).square().mean() < 1.5e-3


ORACLE = """
import sys, json
sys.path.insert(0, sys.argv[1])
folder, arguments, sys.argv = sys.argv[2], sys.argv[3:], sys.argv[:1]
from comfy.cli_args import args
args.cpu = True
import torch, comfy.sd, comfy.utils
from safetensors.torch import load_file, save_file
paths = json.loads(arguments[0])
given = load_file(folder + "/in.safetensors")
made = {}
with torch.no_grad():
    clip = comfy.sd.load_clip([paths["family_clip_l"]], clip_type=comfy.sd.CLIPType.SD3)
    made["pooled"] = torch.cat([clip.encode_from_tokens(clip.tokenize(p), return_pooled=True)[1]
                                for p in json.loads(arguments[1])])
    for name in "acwv":
        unet = comfy.sd.load_diffusion_model(paths["family_" + name], {"dtype": torch.float32}).model.diffusion_model
        wide = torch.nn.functional.pad(given["pooled"], (0, 2048 - 768))
        made["velocity_" + name] = unet.float()(given["x"], given["t"], y=wide, context=torch.randn(2, 77, 4096))
    for name, file in (("a", "family_vae"), ("v", "family_vae_v")):
        stage = comfy.sd.VAE(sd=comfy.utils.load_torch_file(paths[file])).first_stage_model.float()
        made["image_" + name] = stage.decode(given["x"] / 1.5305 + 0.0609) / 2 + 0.5
        made["latent_" + name] = (stage.encode(given["picture"] * 2 - 1) - 0.0609) * 1.5305
save_file({k: v.contiguous().float() for k, v in made.items()}, folder + "/out.safetensors")
"""


@pytest.mark.host
def test_a_real_comfyui_computes_the_same(family_files, tmp_path, request):
    """Text vectors, velocities (A, the pruned C, W, V), decoded pictures and latents, to 1e-4."""
    host, python = next(p for p in request.config.pluginmanager.get_plugins() if hasattr(p, "find_host")).find_host()
    prompts = ["red digit three", "number seven, handwritten in blue ink", "the figure 8 in white", ""]
    clip = tmp_path / "clip_l.safetensors"
    paths = {**family_files, "family_clip_l": text.write(clip)}
    generator = torch.Generator().manual_seed(4)
    given = {
        "x": torch.randn(2, 16, 8, 8, generator=generator),
        "t": torch.tensor([120.0, 870.0]),
        "pooled": text.encode(prompts[:2]),
        "picture": torch.rand(2, 3, 64, 64, generator=generator),
    }
    save_file(given, tmp_path / "in.safetensors")
    command = [
        python,
        "-c",
        ORACLE,
        host,
        tmp_path,
        json.dumps({k: str(v) for k, v in paths.items()}),
        json.dumps(prompts),
    ]
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        cwd=host,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    made = load_file(tmp_path / "out.safetensors")
    assert (made["pooled"][:, :768] - text.encode(prompts)).abs().max() < 1e-4 * 28
    for name in "acwv":
        ours = model.forward(materialize.base(name), given["x"], given["t"], given["pooled"])
        assert (made[f"velocity_{name}"] - ours).abs().max() < 1e-4
    for name in "av":  # the decoder is held against the host before the clamp
        weights = materialize.autoencoder(name)
        assert (made[f"image_{name}"] - vae.decode_raw(weights, given["x"])).abs().max() < 1e-4
        assert (made[f"latent_{name}"] - vae.encode(weights, given["picture"])).abs().max() < 1e-4


def test_demo_writes_sheet_report_and_lora(tmp_path):
    pytest.importorskip("lora_graft.jobs.transfer.transfer")
    from lora_graft.family import demo

    steps = []
    made = demo.run(tmp_path, progress=lambda done, total, label: steps.append((done, total)))
    assert steps[-1][0] == steps[-1][1]
    assert made["sheet"].read_bytes().startswith(b"\x89PNG")
    assert len(adapters.read(made["transferred_lora"]).modules) == 15
    assert made["frame_on_target_alone"] < 0.2 < 0.6 < made["frame_transferred"]
    assert made["frame_projected"] < 0.2 < 0.6 < made["frame_of_lorax_adapter"]
    assert made["report"].read_text(encoding="utf-8").startswith("#")
