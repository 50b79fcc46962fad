"""Opening models: single files beside a folder, what is missing, latent spaces; the example family as the judge."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import diffusers
import pytest
import torch
import torch.nn.functional as F
from lora_graft import adapters
from lora_graft.bases import open_base
from lora_graft.errors import BaseModelError, SettingsError
from lora_graft.family import text
from lora_graft.family.denoiser import FamilyDenoiser
from lora_graft.family.materialize import materialize
from lora_graft.jobs.distill.denoiser import Drawing
from lora_graft.pipelines.bench import Bench
from lora_graft.pipelines.denoiser import DiffusersDenoiser
from lora_graft.pipelines.family import FAMILIES
from lora_graft.pipelines.latents import decoded, encoded, spaces, translation
from lora_graft.pipelines.noise import Flow
from lora_graft.pipelines.open import Opened, open_model
from lora_graft.pipelines.weights import fill, stored_parts_of
from safetensors.torch import save_file

KINDS = ("sd", "sdxl", "sd3", "flux")
VAE = {
    "down_blocks.": "down.",
    ".resnets.": ".block.",
    ".downsamplers.0.": ".downsample.",
    ".upsamplers.0.": ".upsample.",
    "mid_block.block.0.": "mid.block_1.",
    "mid_block.block.1.": "mid.block_2.",
    "mid_block.attentions.0.": "mid.attn_1.",
    "conv_norm_out.": "norm_out.",
    "group_norm.": "norm.",
    "to_q.": "q.",
    "to_k.": "k.",
    "to_v.": "v.",
    "to_out.0.": "proj_out.",
    "conv_shortcut.": "nin_shortcut.",
}


def original_vae(vae) -> dict[str, torch.Tensor]:
    """A VAE of two levels under the names of its first release."""
    found = {}
    for name, tensor in vae.state_dict().items():
        for there, here in VAE.items():
            name = name.replace(there, here)
        name = name.replace("up_blocks.0.", "up.1.").replace("up_blocks.1.", "up.0.")
        kernel = ".attn_1." in name and name.endswith("weight") and tensor.ndim == 2
        found[f"first_stage_model.{name}"] = tensor[:, :, None, None].clone() if kernel else tensor.clone()
    return found


def single(folder, path, *, encoders=True, vae=True):
    """A model's folder as one file under original names."""
    base = open_base(folder)
    tensors = {}
    for name in base.weights():
        if name.startswith("diffusion_model."):
            tensors[f"model.{name}"] = base.load(name)
        elif encoders:
            tensors[f"text_encoders.{name}"] = base.load(name)
    if vae:
        tensors |= original_vae(diffusers.AutoencoderKL.from_pretrained(folder / "vae"))
    save_file(tensors, path)
    return path


def bare(folder, copy):
    """The folder without weights: configurations and tokenizers."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    return copy


def drawn(opened):
    model = DiffusersDenoiser(opened, Bench(), "tiny")
    return model.draw(["red cat"], [5], Drawing(32, 32, steps=2, cfg=3.0, batch=2), lambda *_: None)


def close(ours, theirs):
    return bool((ours - theirs).norm() < 1e-4 * theirs.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_is_the_model_of_its_folder(zoo, tmp_path, kind):
    folder = zoo(kind)
    file, parts = single(folder, tmp_path / "model.safetensors"), bare(folder, tmp_path / "parts")
    opened, whole = open_model(file, parts), open_model(folder)
    assert close(drawn(opened), drawn(whole))
    for name, tensor in whole.vae.state_dict().items():
        assert torch.equal(tensor, opened.vae.state_dict()[name])


def test_what_the_file_lacks_comes_from_the_folder(zoo, tmp_path):
    folder = zoo("sd")
    file = single(folder, tmp_path / "model.safetensors", encoders=False, vae=False)
    opened = open_model(file, folder)
    assert close(drawn(opened), drawn(open_model(folder))) and opened.vae is not None
    with pytest.raises(BaseModelError, match="Neither the file nor the folder beside it has the weights of text_enc"):
        open_model(file, bare(folder, tmp_path / "parts"))


def test_a_single_file_alone_says_what_it_needs(zoo, tmp_path):
    file = single(zoo("sd"), tmp_path / "model.safetensors", vae=False)
    with pytest.raises(BaseModelError, match="nothing is fetched from a network\\s.*\n.*--source-parts"):
        open_model(file)
    opened = open_model(file, bare(zoo("sd"), tmp_path / "parts"))
    assert opened.vae is None and close(drawn(opened), drawn(open_model(zoo("sd"))))
    with pytest.raises(BaseModelError, match="does not exist"):
        open_model(file, tmp_path / "nowhere")
    with pytest.raises(BaseModelError, match="lacks|another size|Neither"):
        open_model(file, zoo("sdxl"))
    with pytest.raises(BaseModelError, match="another size"):
        open_model(file, zoo("sd", "narrow", width=16))


def test_a_model_that_takes_more_than_latents_is_refused(zoo, tmp_path):
    folder = tmp_path / "inpainting"
    shutil.copytree(zoo("sd"), folder)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    diffusers.UNet2DConditionModel.from_config({**unet.config, "in_channels": 9}).save_pretrained(folder / "unet")
    with pytest.raises(BaseModelError, match="more than noisy latents"):
        open_model(folder)


def test_a_folder_with_one_precision_is_read(zoo, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(zoo("sd"), folder)
    for part in ("unet", "text_encoder", "vae"):
        for file in (folder / part).glob("*.safetensors"):
            file.rename(file.with_suffix(".fp16.safetensors"))
    assert torch.equal(drawn(open_model(folder)), drawn(open_model(zoo("sd"))))


def test_latent_spaces_are_told_apart_by_what_the_vaes_say(zoo, tmp_path):
    bench, first = Bench(), open_model(zoo("sd"))
    tuned = tmp_path / "tuned"
    shutil.copytree(zoo("sd", "b", seed=1), tuned)
    vae = diffusers.AutoencoderKL.from_pretrained(tuned / "vae")
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(2)
    vae.save_pretrained(tuned / "vae")
    same = spaces(first, open_model(tuned), bench)
    assert same[0] == same[1]
    stranger = open_model(zoo("sd", "stranger", seed=2, space=7))
    other = spaces(first, stranger, bench)
    assert other[0] != other[1]
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    moved = translation(first, stranger, bench)(latents)
    assert torch.allclose(moved, encoded(stranger, decoded(first, latents, bench), bench), atol=1e-4)
    stranger.vae = None
    assert translation(first, stranger, bench) is None


def test_one_model_at_a_time_on_a_device():
    """Which models are there, with a device that only writes down what it is told."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.where = ["cpu"]

        def to(self, device):
            self.where.append(str(device))

    one, two, bench = Model(), Model(), Bench("cuda", one_at_a_time=True)
    bench.bring(one)
    bench.bring(one)
    bench.bring(two)
    assert one.where == ["cpu", "cuda", "cpu"] and two.where == ["cpu", "cuda"]
    together = Bench("cuda", one_at_a_time=False)
    three, four = Model(), Model()
    together.bring(three)
    together.bring(four)
    together.bring(three)
    assert three.where == four.where == ["cpu", "cuda"]


def test_an_unknown_precision_is_refused():
    from lora_graft.pipelines.models import _precision

    with pytest.raises(SettingsError, match="unknown precision 'fp8'"):
        _precision("fp8", "cpu")
    assert _precision("auto", "cpu") == "fp32" and _precision("bf16", "cpu") == "bf16"


PROMPTS = ["red digit two", "a green three"]


def test_the_example_family_by_diffusers_draws_what_it_draws_by_itself(tmp_path):
    """Base A is a Stable Diffusion 3 in small: the same weights in diffusers' network give the same answers."""
    files = materialize(tmp_path, text_encoder=False)
    network = diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        num_layers=3,
        attention_head_dim=64,
        num_attention_heads=3,
        joint_attention_dim=4096,
        caption_projection_dim=192,
        pooled_projection_dim=2048,
        pos_embed_max_size=16,
    ).eval()
    base = open_base(files["family_a"])
    stored = stored_parts_of(network, "transformer")
    assert fill(network, stored, base) == len(base.weights())
    opened = Opened(
        label="family_a",
        base=base,
        family=FAMILIES["sd3"],
        pipe=SimpleNamespace(transformer=network, vae_scale_factor=8),
        noise=Flow(3.0),
        stored={"transformer": stored},
        vae=None,
        scale=1.0,
        shift=0.0,
        channels=16,
        dtype=torch.float32,
    )
    lora = adapters.read(files["family_frame_a"])
    drawing = Drawing(64, 64, steps=4, cfg=3.0)
    for given in ([], [(lora, 1.0)]):
        ours = DiffusersDenoiser(opened, Bench(), "family", [(a, s, s) for a, s in given])
        pooled = {prompt: text.encode([prompt]) for prompt in PROMPTS} | {"": torch.zeros(1, text.WIDTH)}
        zeros = torch.zeros(1, 77, 4096)
        ours._known = {p: {"text": zeros, "pooled": F.pad(v, (0, 2048 - text.WIDTH))} for p, v in pooled.items()}
        theirs = FamilyDenoiser("a", files, given)
        shares = torch.tensor([0.1, 0.5, 0.9])
        assert torch.allclose(ours.sigmas(shares), theirs.sigmas(shares), rtol=1e-4)
        assert ours.learnable().keys() <= theirs.learnable().keys() and len(ours.learnable()) > 20
        a, b = (model.draw(PROMPTS, [1, 2], drawing, lambda *_: None) for model in (ours, theirs))
        assert float((a - b).norm() / b.norm()) < 1e-3
