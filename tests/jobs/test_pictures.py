"""The user's own pictures: what is read from a folder, what becomes of sizes and captions, and what is learnt."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from lora_graft import adapters
from lora_graft.adapters.metadata import tags
from lora_graft.errors import AdapterError, SettingsError
from lora_graft.family import judge, materialize, vae
from lora_graft.family.sample import sample
from lora_graft.jobs.distill import dataset as files
from lora_graft.jobs.distill.denoiser import Drawing
from lora_graft.jobs.distill.distill import Distillation, distill
from lora_graft.jobs.distill.generate import account
from lora_graft.jobs.distill.picture_files import LONGEST_CAPTION, open_folder, read_caption, read_picture
from lora_graft.jobs.distill.pictures import captions_for, covering, one_size, picture_dataset
from lora_graft.jobs.distill.schedule import Training
from lora_graft.kernels.distill.students import STUDENTS
from lora_graft.kernels.spectral import flatten, subspace
from PIL import Image

PICTURES = materialize.HERE / "pictures"


def encode(picture: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return vae.encode(materialize.autoencoder(), picture.permute(0, 3, 1, 2))


@pytest.fixture(scope="module")
def ten():
    """A dataset of the ten example pictures, stripes on base A's look."""
    found = open_folder(PICTURES)
    pictures, notes = one_size([read_picture(f) for f in found.pictures], [f.name for f in found.pictures], 64, 64)
    assert notes == []
    return picture_dataset(
        pictures,
        found.captions(),
        encode,
        drawing=Drawing(steps=4, cfg=1.0),
        names=[f.name for f in found.pictures],
        vae="mine",
    )


@pytest.fixture
def folder(tmp_path):
    """Writes files: name → a size, a colour and a size, or a text."""

    def written(**content):
        for name, what in content.items():
            path = tmp_path / name.replace("_", ".")
            if isinstance(what, str):
                path.write_text(what, encoding="utf-8")
            else:
                Image.new("RGB", what, "red").save(path)
        return tmp_path

    return written


def learnt(lab, dataset, **more):
    training = more.pop("training", Training(2, batch=4, accumulation=1))
    return distill(dataset, None, lab.model("a"), [], Distillation(training=training, **{"rank": 4, **more}))


def test_files_come_in_natural_order_each_with_its_caption(ten):
    assert ten.info["pictures"] == [f"stripes_{i}.png" for i in range(1, 11)]
    assert ten.prompts[0] == "red digit nine" and ten.prompts[9] == "red digit zero"
    assert ten.taught.shape == (10, 16, 8, 8) and not ten.has_teacher and ten.kept.all()
    first = torch.tensor(np.asarray(Image.open(PICTURES / "stripes_1.png"))).float() / 255
    assert torch.equal(read_picture(PICTURES / "stripes_1.png"), first)
    assert torch.allclose(ten.taught[:1], encode(first[None]), atol=1e-6)


def test_the_dataset_comes_back_from_disk_as_it_was(ten, tmp_path):
    again = files.load(files.save(ten, tmp_path / "ten.safetensors"))
    assert again.digest == ten.digest and again.prompts == ten.prompts and again.info == ten.info
    assert again.plain is None and again.acts is None and torch.equal(again.taught, ten.taught)
    assert account(again) == account(ten)
    assert "10 pictures of 64 × 64" in account(ten) and "| 2 | stripes_2.png | green digit zero |" in account(ten)


def test_half_a_teacher_is_no_dataset(ten, tmp_path):
    ten = files.load(files.save(ten, tmp_path / "ten.safetensors"))
    ten.acts = torch.ones(10)
    with pytest.raises(AdapterError):
        files.load(files.save(ten, tmp_path / "half.safetensors"))


def test_the_effect_of_ten_pictures_arrives(lab, ten):
    """A LoRA from ten pictures draws stripes on other digits, and says from which captions it came."""
    made = learnt(lab, ten, rank=8, training=Training(25, batch=16, accumulation=1))
    assert made.report.objective == "samples" and made.report.losses[-1] < made.report.losses[0]
    prompts = ["white digit three", "red digit two", "a green three", "number five in blue ink"]

    def stripes(*lora):
        images = sample(
            materialize.base("a"), materialize.autoencoder(), prompts, range(4), adapters=[(a, 1.0) for a in lora]
        )
        return judge.look(materialize.judge_weights(), images).effects[:, 2].mean()

    assert stripes() < 0.2 < 0.6 < stripes(made.adapter)
    assert tags(made.adapter.metadata)["white digit six"] == 2
    text = made.report.to_markdown()
    assert text.startswith("10 pictures were taught to family_a in 25 steps")
    assert "Pictures without a teacher can only be learnt as samples." in text
    assert "source" not in made.provenance and made.provenance["dataset_sha256"] == ten.digest
    assert made.report.evaluations["data"] == 0 and "teacher" not in made.report.evaluations


@pytest.mark.parametrize("kind", STUDENTS)
def test_every_kind_learns_from_pictures_and_loads_again(lab, ten, tmp_path, kind):
    rank = 192 if kind == "lora-x-diagonal" else 8
    made = learnt(lab, ten, kind=kind, rank=rank)
    assert made.report.losses and all(map(math.isfinite, made.report.losses))
    path = adapters.write(made.adapter, tmp_path / "one.safetensors", provenance=made.provenance)
    again, before = adapters.read(path), made.adapter
    assert again.modules.keys() == before.modules.keys() and all(key.startswith("lora_unet_") for key in again.modules)
    weights = materialize.base("a")
    for key in list(again.modules)[:2]:
        name = next(n for n in weights if materialize.kohya(n.removesuffix(".weight")) == key)
        deltas = [one.modules[key].delta(weights[name]) for one in (again, before)]
        assert torch.equal(*deltas) and deltas[0].abs().max() > 0
        if kind.startswith("lora-x"):
            base = subspace(flatten(weights[name]), rank)
            inside = base.left @ (base.left.T @ deltas[0]) @ base.right @ base.right.T
            assert torch.allclose(inside, deltas[0], atol=1e-5), "the update lies in the base's own subspace"


def test_the_same_seed_gives_the_same_file(lab, ten, tmp_path):
    paths = [adapters.write(learnt(lab, ten).adapter, tmp_path / f"{i}.safetensors") for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_adapter_moves_to_a_relative_by_projection(lab, ten):
    from lora_graft.jobs.transfer.transfer import TransferSettings, transfer

    made = learnt(lab, ten, kind="lora-x", rank=48).adapter
    a, b = lab.model("a").base, lab.model("b").base
    moved = transfer(made, a, b, TransferSettings(method="lora-x"))
    assert len(moved.adapter.modules) == len(made.modules)
    same = transfer(made, a, a, TransferSettings(method="lora-x"))
    assert min(module.kept_energy for module in same.report.modules) > 0.999, (
        "projection is the identity inside the subspace"
    )


@pytest.mark.parametrize("objective", ["difference", "output"])
def test_other_objectives_need_a_teacher(lab, ten, objective):
    with pytest.raises(SettingsError, match="a dataset of pictures has no teacher") as caught:
        learnt(lab, ten, objective=objective)
    assert "samples" in caught.value.hint


def test_a_drawn_dataset_needs_its_teacher(lab):
    with pytest.raises(SettingsError, match="drawn with a teacher, which is missing"):
        learnt(lab, lab.dataset())


def test_the_effect_of_pictures_cannot_be_matched(lab, ten):
    with pytest.raises(SettingsError, match="match_effect off"):
        learnt(lab, ten, match_effect=True)


def test_a_teacher_may_answer_on_real_pictures(lab, ten):
    """With source and LoRA the pictures are what the effect is learnt on."""
    made = distill(
        ten,
        lab.teacher("frame_a"),
        lab.model("s"),
        [lab.family.adapter("frame_a")],
        Distillation(training=Training(2, batch=4, accumulation=1), rank=4),
    )
    assert made.report.objective == "difference" and "frame_a" in made.report.to_markdown()
    assert "stripes" not in json.dumps(tags(made.adapter.metadata))


def test_covering_keeps_the_middle_and_the_proportions():
    picture = torch.zeros(40, 100, 3)
    picture[:, 50:] = 1
    found = covering(picture, 20, 20)
    assert found.shape == (20, 20, 3) and found[:, :8].max() < 0.05 and found[:, 12:].min() > 0.95
    exact = torch.rand(20, 20, 3)
    assert torch.equal(covering(exact, 20, 20), exact)
    tall = torch.zeros(90, 30, 3)
    tall[30:60] = 1
    assert covering(tall, 30, 30).mean() == 1
    for width, height in ((33, 77), (64, 8), (8, 64)):
        assert covering(torch.rand(17, 31, 3), width, height).shape == (height, width, 3)


def test_mixed_sizes_become_one_and_are_told():
    sizes = [(64, 64), (32, 32), (64, 256)]
    pictures, notes = one_size([torch.rand(h, w, 3) for w, h in sizes], ["a.png", "b.png", "c.png"], 64, 64)
    text = " ".join(notes)
    assert pictures.shape == (3, 64, 64, 3)
    assert "3 sizes" in text and "b.png has 32 × 32" in text and "most from c.png, 75%" in text


def test_what_pictures_look_like_in_files(tmp_path):
    """Transparency is white, 16 bits are read in full, and the camera's turn is followed."""
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_picture(tmp_path / "clear.png").min() == 1
    Image.new("I;16", (4, 4), 32768).save(tmp_path / "deep.png")
    assert read_picture(tmp_path / "deep.png") == pytest.approx(torch.full((4, 4, 3), 0.5), abs=1e-4)
    turned = Image.new("RGB", (6, 4))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").shape == (6, 4, 3)
    Image.new("P", (4, 4)).save(tmp_path / "few.png")
    Image.new("L", (5, 4), 255).save(tmp_path / "grey.webp")
    assert read_picture(tmp_path / "few.png").shape == (4, 4, 3) and read_picture(tmp_path / "grey.webp").min() > 0.98


def test_order_is_natural_and_large_letters_count_like_small_ones(folder):
    found = open_folder(folder(b10_png=(2, 2), B9_png=(2, 2), a2_jpg=(2, 2), a10_webp=(2, 2), b10_txt="ten"))
    assert [f.name for f in found.pictures] == ["a2.jpg", "a10.webp", "B9.png", "b10.png"]
    assert [t and t.name for t in found.texts] == [None, None, None, "b10.txt"]


def refused(call, *parts) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_folders_that_give_nothing(folder, tmp_path):
    refused(lambda: open_folder(tmp_path / "gone"), "no such folder", "gone")
    refused(lambda: open_folder(tmp_path), "has no pictures")
    refused(lambda: open_folder(folder(a_txt="one", b_txt="two")), "captions but no pictures: a.txt, b.txt")
    refused(lambda: open_folder(tmp_path / "a.txt"), "a file, not a folder")
    (tmp_path / "c.gif").write_bytes(b"GIF89a")
    refused(lambda: open_folder(tmp_path), "can be read: c.gif")


def test_pictures_without_captions_are_named(folder):
    found = open_folder(folder(a_png=(2, 2), b_png=(2, 2), c_png=(2, 2), b_txt="two", x_txt="lost"))
    refused(found.captions, "2 of 3 pictures have no caption: a.png, c.png", "a.txt", "x.txt")


def test_what_is_passed_over_is_told(folder):
    found = open_folder(folder(a_png=(2, 2), a_txt="one", x_txt="lost", b_bmp=(2, 2)))
    told = " ".join(found.notes(texts_used=True))
    assert "b.bmp" in told and "x.txt" in told
    assert "1 text files beside the pictures were not used" in " ".join(found.notes(texts_used=False))


def test_captions_that_say_nothing(folder, tmp_path):
    folder(empty_txt=" \n", long_txt="x" * (LONGEST_CAPTION + 1), lines_txt="a cat,\n  on a mat\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00\x00")
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbfa dog")
    refused(lambda: read_caption(tmp_path / "empty.txt"), "empty.txt", "is empty")
    refused(lambda: read_caption(tmp_path / "long.txt"), "long.txt", "too long")
    refused(lambda: read_caption(tmp_path / "bytes.txt"), "bytes.txt", "cannot be read")
    assert read_caption(tmp_path / "lines.txt") == "a cat, on a mat"
    assert read_caption(tmp_path / "marked.txt") == "a dog"


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    refused(lambda: read_picture(tmp_path / "broken.png"), "broken.png", "cannot be read as PNG")
    whole = (PICTURES / "stripes_1.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    refused(lambda: read_picture(tmp_path / "half.png"), "half.png", "cannot be read as PNG")
    (tmp_path / "other.jpg").write_bytes(whole)
    refused(lambda: read_picture(tmp_path / "other.jpg"), "other.jpg", "cannot be read as JPEG")


def test_a_picture_that_would_fill_memory_is_refused_by_its_header(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    refused(lambda: read_picture(tmp_path / "huge.png"), "huge.png")


def test_captions_count_like_pictures():
    assert captions_for(["a", "", " b  c "], 2) == ["a", "b c"]
    assert captions_for(["one for all"], 3) == ["one for all"] * 3
    refused(lambda: captions_for([" ", ""], 3), "no captions")
    refused(lambda: captions_for(["a", "b"], 3), "3 pictures and 2 captions")
    refused(lambda: captions_for(["a", "b", "c"], 2), "2 pictures and 3 captions")


def test_one_picture_is_too_few():
    refused(lambda: picture_dataset(torch.rand(1, 8, 8, 3), ["a"], encode), "1 picture cannot teach")
    with pytest.raises(SettingsError, match="2 pictures and 1 captions"):
        picture_dataset(torch.rand(2, 8, 8, 3), ["a"], encode)


def test_latents_that_are_no_numbers_name_the_picture():
    def broken(picture):
        return torch.full((1, 16, 1, 1), math.nan)

    refused(lambda: picture_dataset(torch.rand(2, 8, 8, 3), ["a", "b"], broken, names=["x.png", "y.png"]), "x.png")
