"""Discriminators as files and as judges of datasets; what hostile files and embeddings do to them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from lora_graft import adapters
from lora_graft.errors import AdapterError, SettingsError
from lora_graft.io import safetensors
from lora_graft.jobs.distill.denoiser import Drawing, Teacher
from lora_graft.jobs.distill.discriminator import KIND, Encoder, load, report, save, train_discriminator
from lora_graft.jobs.distill.generate import Generation, account, generate

QUICK = Drawing(64, 64, steps=4, cfg=1.0)
ENCODER = Encoder("clip_vision", 16, fingerprint=torch.arange(8.0))


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trained(real=8, shift=1.5, **more):
    return train_discriminator(draw(real, 16, seed=1) + shift, draw(40, 16, seed=2), ENCODER, **more)


def test_a_file_holds_all_of_it(tmp_path):
    found = trained(lora="frame", lora_digest="ab" * 32)
    path = save(found, tmp_path / "frame_discriminator.safetensors")
    again = load(path)
    seen = draw(30, 16, seed=3)
    assert torch.equal(found.likeness(seen), again.likeness(seen))
    assert (again.lora, again.lora_digest, again.real, again.generated) == ("frame", "ab" * 32, 8, 40)
    assert again.accuracy == found.accuracy > 0.9 and report(again) == report(found)
    assert torch.equal(again.encoder.fingerprint, ENCODER.fingerprint)
    again.encoder.require(ENCODER)
    assert save(again, tmp_path / "twin.safetensors").read_bytes() == path.read_bytes()
    told = json.loads(safetensors.load(path)[1][KIND])
    assert told["accuracy"] == found.accuracy
    assert told["encoder"] == {"kind": "clip_vision", "size": 16, "height": 0, "width": 0}


def test_a_file_is_never_overwritten(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(AdapterError, match="exists already"):
        save(trained(), path)
    assert path.read_bytes() == b"mine"
    assert load(save(trained(), path, overwrite=True)).real == 8


def parts(path):
    tensors, metadata, _ = safetensors.load(path)
    return tensors, json.loads(metadata[KIND])


NAN = float("nan")
HOSTILE = {
    "a missing tensor": lambda t, h: t.pop("weight"),
    "NaN in the weights": lambda t, h: t["weight"].__setitem__(3, NAN),
    "Inf in the bias": lambda t, h: t["bias"].fill_(float("inf")),
    "NaN in the fingerprint": lambda t, h: t["fingerprint"].fill_(NAN),
    "a scale of nothing": lambda t, h: t["scale"].fill_(0.0),
    "another length": lambda t, h: t.update(mean=torch.zeros(7)),
    "a matrix": lambda t, h: t.update(weight=torch.zeros(4, 4)),
    "two biases": lambda t, h: t.update(bias=torch.zeros(2)),
    "words for numbers": lambda t, h: h.update(real="many"),
    "no pictures": lambda t, h: h.update(real=0),
    "a share above one": lambda t, h: h.update(generated_right=7.0),
    "a share of nothing": lambda t, h: h.update(generated_right=None),
    "NaN for a share": lambda t, h: h.update(real_right=NAN),
    "an unknown encoder": lambda t, h: h["encoder"].update(kind="crystal ball"),
    "a size that is true": lambda t, h: h["encoder"].update(size=True),
    "an encoder more": lambda t, h: h["encoder"].update(eyes=2),
    "no encoder": lambda t, h: h.pop("encoder"),
    "a list for an encoder": lambda t, h: h.update(encoder=[1, 2]),
    "a field more": lambda t, h: h.update(surprise=1),
    "a number for a name": lambda t, h: h.update(lora=5),
}


@pytest.mark.parametrize("wrong", HOSTILE)
def test_damaged_files(tmp_path, wrong):
    tensors, header = parts(save(trained(), tmp_path / "good.safetensors"))
    HOSTILE[wrong](tensors, header)
    path = safetensors.save(tmp_path / "bad.safetensors", tensors, {KIND: json.dumps(header)})
    with pytest.raises(AdapterError, match="discriminator is damaged") as caught:
        load(path)
    assert caught.value.file == path and caught.value.hint


@pytest.mark.parametrize("header", ["", "{", "[]", "null", "3", '"text"', "[" * 5000])
def test_headers_that_are_none(tmp_path, header):
    tensors, _ = parts(save(trained(), tmp_path / "good.safetensors"))
    path = safetensors.save(tmp_path / "bad.safetensors", tensors, {KIND: header})
    with pytest.raises(AdapterError, match="damaged"):
        load(path)


def test_truncated_and_foreign_files(tmp_path, family):
    whole = save(trained(), tmp_path / "good.safetensors").read_bytes()
    for length in (0, 7, 60, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(whole[:length])
        with pytest.raises(AdapterError):
            load(path)
    with pytest.raises(AdapterError, match="not a discriminator"):
        load(family.path("frame_a"))
    with pytest.raises(AdapterError, match="No such file"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(AdapterError):
        adapters.read(tmp_path / "good.safetensors")


def test_the_wrong_eye():
    found = trained()
    for other, message in (
        (Encoder("latents", 16), "through a CLIP vision model, not through a VAE's latents"),
        (replace(ENCODER, size=32), "embeddings of 16 numbers, and these have 32"),
        (replace(ENCODER, fingerprint=torch.arange(8.0).flip(0)), "of other weights"),
        (replace(ENCODER, fingerprint=torch.arange(9.0)), "of other weights"),
    ):
        with pytest.raises(SettingsError, match=message) as caught:
            found.encoder.require(other)
        assert caught.value.hint
    with pytest.raises(SettingsError, match="of 16 numbers, and these have 8"):
        found.likeness(torch.zeros(2, 8))


def test_the_same_model_in_another_number_format_is_known_again():
    mark = draw(200, seed=5)
    mine = replace(ENCODER, fingerprint=mark)
    mine.require(replace(ENCODER, fingerprint=mark.bfloat16().float()))


@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        (torch.empty(0, 4), torch.rand(4, 4), "one real and two generated"),
        (torch.rand(2, 4), torch.rand(1, 4), "got 2 and 1"),
        (torch.rand(2, 4), torch.rand(3, 5), "of 4 and 5 numbers"),
        (torch.full((2, 4), NAN), torch.rand(3, 4), "the real pictures have NaN"),
        (torch.rand(2, 4), torch.full((3, 4), float("inf")), "the generated pictures have NaN or Inf"),
        (torch.ones(2, 4), torch.ones(3, 4), "All pictures look the same"),
    ],
)
def test_embeddings_that_teach_nothing(real, generated, message):
    with pytest.raises(SettingsError, match=message) as caught:
        train_discriminator(real, generated, Encoder("pixels", 4))
    assert caught.value.hint


def test_samples_that_are_no_numbers():
    with pytest.raises(SettingsError, match="the samples have NaN"):
        trained().likeness(torch.full((2, 16), NAN))


@pytest.mark.parametrize(
    ("real", "says"),
    [(1, "nothing can be cross-validated"), (2, "2 real pictures are few"), (4, "4 real pictures are few"), (5, "")],
)
def test_few_pictures_are_told_of(real, says):
    text = report(trained(real))
    assert says in text and ("are few" in text) == (1 < real < 5)
    assert ("Cross-validated, on pictures" in text) == (real > 1)


def test_a_discriminator_that_guesses_says_so():
    assert "hardly tells them apart" in report(trained(20, shift=0.0))
    assert "hardly" not in report(trained(20))


def means(latents):
    return latents.flatten(2).mean(2)


@pytest.fixture(scope="module")
def judge(lab):
    """Trained on pictures with the frame against the plain base's, of other seeds and prompts than the samples."""
    known = lab.dataset(target=None)
    other = lab.model("a").draw(["blue digit nine", "red digit six"] * 12, range(600, 624), QUICK, lambda *_: None)
    found = train_discriminator(means(known.taught), means(other), Encoder("latents", 16, 64, 64), lora="frame_a")
    return found


def drawn(lab, strength, **more):
    teacher = Teacher(lab.model("a"), [lab.model("a", "frame_a", strength=strength)])
    settings = Generation(count=8, drawing=QUICK, seed=40, least_action=0.0)
    return generate(teacher, None, ["red digit two", "a green three"], settings, **more)


def test_it_chooses_samples(lab, judge):
    with_it = drawn(lab, 1.0, discriminator=(judge, means))
    without = drawn(lab, 0.0, discriminator=(judge, means))
    assert with_it.kept.all() and not without.kept.any()
    text = account(without)
    assert "8 were rejected by the discriminator of frame_a, trained on 16 real pictures (threshold 0.5)" in text
    assert "likeness" in text and with_it.info["discriminator"] == judge.name
    assert "discriminator" not in drawn(lab, 1.0).info, "the digest of a dataset without one is what it was"


def test_with_references_both_must_agree(lab, judge):
    taught = drawn(lab, 1.0).taught
    alone = drawn(lab, 1.0, references=means(taught[:3]) + 9, embed=means)
    both = drawn(lab, 1.0, references=means(taught[:3]) + 9, embed=means, discriminator=(judge, means))
    assert torch.equal(both.likeness, torch.minimum(alone.likeness, judge.likeness(means(both.taught))))
    assert "3 real pictures are few" in account(both) and "or look unlike the references" in account(both)


def test_embeddings_that_are_none_are_refused(lab, judge):
    with pytest.raises(SettingsError, match="references have NaN"):
        drawn(lab, 1.0, references=torch.full((2, 16), NAN), embed=means)
    with pytest.raises(SettingsError, match="samples have NaN"):
        drawn(lab, 1.0, references=torch.rand(2, 16), embed=lambda latents: means(latents) * NAN)
    with pytest.raises(SettingsError, match="of 16 numbers, and these have 32"):
        drawn(lab, 1.0, discriminator=(judge, lambda latents: means(latents).repeat(1, 2)))
