"""A diffusers model as a Denoiser, with diffusers itself as the judge: pictures, LoRAs, gradients, exported files."""

from __future__ import annotations

import diffusers
import pytest
import torch
from lora_graft import adapters
from lora_graft.jobs.distill.denoiser import Drawing
from lora_graft.jobs.distill.distill import Distillation, build, export
from lora_graft.jobs.distill.schedule import Training
from lora_graft.pipelines.bench import Bench
from lora_graft.pipelines.denoiser import DiffusersDenoiser
from lora_graft.pipelines.open import open_model

KINDS = ("sd", "sdxl", "sd3", "flux")
DRAWING = Drawing(32, 32, steps=4, cfg=3.0, batch=2)
PROMPTS = ["red cat", "two"]


def denoiser(folder, adapters=()):
    return DiffusersDenoiser(open_model(folder), Bench(), "tiny", adapters)


def drawn(model, how=DRAWING):
    return model.draw(PROMPTS, [5, 6], how, lambda *_: None)


def oracle(folder, kind, *, lora=None, weight_name=None):
    """The same pictures by diffusers' own pipeline, as latents in the VAE's scale."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        pipe.load_lora_weights(lora.parent, weight_name=lora.name)
    noise = torch.cat([torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(s)) for s in (5, 6)])
    how = {"prompt": PROMPTS, "num_inference_steps": 4, "width": 32, "height": 32, "output_type": "latent"}
    if kind in ("sd", "sdxl"):
        pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(
            pipe.scheduler.config, timestep_spacing="trailing"
        )
        top = ((1 - pipe.scheduler.alphas_cumprod[-1]) / pipe.scheduler.alphas_cumprod[-1]).sqrt()
        how |= {"latents": noise * (1 + top**2).sqrt() / top, "guidance_scale": 3.0, "negative_prompt": ["", ""]}
    elif kind == "sd3":
        times = [1000 * 3 * u / (1 + 2 * u) / 1000 for u in (1, 0.75, 0.5, 0.25)]
        pipe.scheduler.set_shift(1.0)  # the times are shifted already
        how |= {"latents": noise, "guidance_scale": 3.0, "negative_prompt": ["", ""], "sigmas": times}
    else:
        packed = pipe._pack_latents(noise, 2, 4, 16, 16)
        how |= {"latents": packed, "true_cfg_scale": 3.0, "negative_prompt": ["", ""], "guidance_scale": 3.5}
    latents = pipe(**how).images
    if kind == "flux":
        latents = pipe._unpack_latents(latents, 32, 32, pipe.vae_scale_factor)
    return latents / pipe.vae.config.scaling_factor + (pipe.vae.config.shift_factor or 0)


def close(ours, theirs, tolerance=1e-4):
    assert ours.shape == theirs.shape
    assert float((ours - theirs).norm() / theirs.norm()) < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_those_of_diffusers(zoo, kind):
    close(drawn(denoiser(zoo(kind))), oracle(zoo(kind), kind))


def test_a_model_that_predicts_velocity(zoo):
    folder = zoo("sd", "v", prediction="v_prediction")
    close(drawn(denoiser(folder)), oracle(folder, "sd"))


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_belong_to_their_noise(zoo, kind):
    """At hardly any noise the answer is the latent; far from it, not; it is the same alone and in a batch."""
    model = denoiser(zoo(kind))
    clean, noise = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    sigma = model.sigmas(torch.tensor([1e-6, 0.5, 1 - 1e-6]))
    assert (sigma.diff() > 0).all() and 0 < sigma[0] < 0.1 < 10 < sigma[2] <= 999
    given = model.encode(["red cat", "", "two"])
    with model.loaded((3, 4, 16, 16)), torch.no_grad():
        said = model.predict(clean, noise, sigma, given)
        alone = model.predict(clean[1:2], noise[1:2], sigma[1:2], given[1:2])
    assert said.dtype == torch.float32
    close(said[0], clean[0], 0.1)
    close(alone, said[1:2], 1e-4)
    assert float((said[2] - clean[2]).norm() / clean[2].norm()) > 0.5


def students_of(model, kind="lora", rank=4, only=None):
    names = [n for n in model.learnable() if only is None or only in n]
    made = build(model, names, Distillation(kind=kind, rank=rank, training=Training(seed=3)), {}, "cpu")
    dice = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for one in made.values():
            for value in one.params.values():
                value += 0.05 * torch.randn(value.shape, generator=dice)
    return made


def asked(model):
    clean, noise = torch.randn(2, 2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    return clean, noise, model.sigmas(torch.tensor([0.3, 0.7])), model.encode(PROMPTS)


@pytest.mark.parametrize("student", ["lora", "dora", "lokr"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_file_is_the_student_in_training(zoo, tmp_path, kind, student):
    """Every learnable weight at once: fused and swapped rows, convolutions, embeddings of time."""
    model = denoiser(zoo(kind))
    plain = drawn(model)
    made = students_of(model, student)
    with model.training(made, checkpointing=False):
        learnt = drawn(model)
    assert float((learnt - plain).norm() / plain.norm()) > 1e-3
    close(drawn(model), plain, 1e-7)  # the hooks are gone
    file = adapters.write(export(made, model, []), tmp_path / "student.safetensors")
    close(drawn(denoiser(zoo(kind), [(adapters.read(file), 1.0, 1.0)])), learnt)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_loads_the_exported_file(zoo, tmp_path, kind):
    model = denoiser(zoo(kind))
    made = students_of(model, only="attn")
    with model.training(made, checkpointing=False):
        learnt = drawn(model)
    file = tmp_path / "student.safetensors"
    adapters.write(export(made, model, []), file, layout="diffusers", names=model.base.names)
    close(oracle(zoo(kind), kind, lora=file), learnt)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(zoo, kind, checkpointing):
    model = denoiser(zoo(kind))
    made = students_of(model)
    params = [value for one in made.values() for value in one.params.values()]
    with model.loaded((2, 4, 16, 16)), model.training(made, checkpointing=checkpointing):
        given = asked(model)

        def loss():
            return model.predict(*given).square().mean()

        loss().backward()
        grads = [value.grad.clone() for value in params]
        assert all(torch.isfinite(grad).all() for grad in grads)
        assert sum(bool(grad.any()) for grad in grads) > 0.9 * len(grads)
        dice = torch.Generator().manual_seed(2)
        for _ in range(2):
            along = [torch.randn(value.shape, generator=dice) * value.detach().abs().mean() for value in params]
            expected = sum(float((grad.double() * way).sum()) for grad, way in zip(grads, along, strict=True))
            step, ends = 2e-3, []
            with torch.no_grad():
                for sign in (1, -2, 1):
                    for value, way in zip(params, along, strict=True):
                        value += sign * step * way
                    ends.append(float(loss().double()))
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(expected, rel=0.03, abs=1e-4 * abs(ends[2]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_lora_on_the_teacher_is_that_of_diffusers_and_comes_off_again(zoo, tmp_path, kind):
    folder = zoo(kind)
    model = denoiser(folder)
    before = {key: tensor.clone() for key, tensor in model.network.state_dict().items()}
    file = tmp_path / "lora.safetensors"
    adapters.write(export(students_of(model, only="attn"), model, []), file, layout="diffusers", names=model.base.names)
    teacher = DiffusersDenoiser(model.opened, Bench(), "tiny", [(adapters.read(file), 1.0, 1.0)])
    close(drawn(teacher), oracle(folder, kind, lora=file))
    half = DiffusersDenoiser(model.opened, Bench(), "tiny", [(adapters.read(file), 0.5, 1.0)])
    twice = DiffusersDenoiser(model.opened, Bench(), "tiny", [(adapters.read(file), 0.5, 1.0)] * 2)
    close(drawn(twice), drawn(teacher))
    assert float((drawn(half) - drawn(teacher)).norm()) > 0
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.network.state_dict().items())


def test_a_lora_on_the_text_encoder_acts_with_its_own_strength(zoo, tmp_path):
    folder = zoo("sd")
    dice = torch.Generator().manual_seed(4)
    key = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    tensors = {
        f"{key}.lora_up.weight": torch.randn(48, 2, generator=dice) / 5,
        f"{key}.lora_down.weight": torch.randn(2, 768, generator=dice) / 5,
        f"{key}.alpha": torch.tensor(2.0),
    }
    lora = adapters.from_state_dict(tensors)
    file = adapters.write(lora, tmp_path / "te.safetensors")
    base = denoiser(folder)
    close(drawn(denoiser(folder, [(lora, 1.0, 1.0)])), oracle(folder, "sd", lora=file))
    assert float((drawn(denoiser(folder, [(lora, 1.0, 1.0)])) - drawn(base)).norm()) > 0
    close(drawn(denoiser(folder, [(lora, 1.0, 0.0)])), drawn(base), 1e-7)
