"""``lora-graft discriminator``: two folders of pictures become a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lora_graft.cli.app import app
from lora_graft.errors import AdapterError
from lora_graft.jobs.distill.discriminator import load
from lora_graft.kernels.distill.looks import pixels, resized
from PIL import Image
from typer.testing import CliRunner


def paint(folder, count, gold, size=(192, 128), seed=0):
    """Coloured clouds; with gold at both sides."""
    folder.mkdir(exist_ok=True)
    dice = np.random.default_rng(seed)
    for number in range(count):
        cloud = Image.fromarray(dice.integers(0, 120, (5, 5, 3), dtype=np.uint8))
        image = np.array(cloud.resize(size, Image.Resampling.BICUBIC))
        if gold:
            image[:, : size[0] // 8] = image[:, -size[0] // 8 :] = (240, 190, 40)
        Image.fromarray(image).save(folder / f"{number}.{'jpg' if number % 2 else 'png'}")
    return folder


@pytest.fixture
def folders(tmp_path):
    return paint(tmp_path / "real", 6, True, size=(240, 240)), paint(tmp_path / "generated", 20, False, seed=1)


def run(*arguments):
    return CliRunner().invoke(app, ["discriminator", *map(str, arguments)], env={"COLUMNS": "300"})


def test_what_it_writes_tells_pictures_apart(folders, tmp_path, family_models):
    real, generated = folders
    lora = next(family_models.rglob("family_frame_a.safetensors"))
    out = tmp_path / "frame_discriminator.safetensors"
    done = run("--real", real, "--generated", generated, "-o", out, "--lora", lora)
    assert done.exit_code == 0 and "6 real and 20 generated" in done.stdout and str(out) in done.stdout
    found = load(out)
    assert (found.encoder.kind, found.encoder.height, found.encoder.width) == ("pixels", 64, 96)
    assert found.lora == "family_frame_a" and len(found.lora_digest) == 64 and found.accuracy == 1
    for gold in (True, False):
        fresh = paint(tmp_path / f"fresh{gold}", 5, gold, size=(150, 140), seed=9)
        images = [torch.from_numpy(np.asarray(Image.open(file)) / 255.0) for file in sorted(fresh.iterdir())]
        seen = torch.cat([pixels(resized(image.float().movedim(-1, 0)[None], 64, 96)) for image in images])
        assert ((found.likeness(seen) > 0.5) == gold).all()


def test_an_output_that_exists_is_left_alone(folders, tmp_path):
    out = tmp_path / "x.safetensors"
    out.write_bytes(b"mine")
    refused = run("--real", folders[0], "--generated", folders[1], "-o", out)
    assert refused.exit_code == 1 and "exists already" in refused.stderr and out.read_bytes() == b"mine"
    assert run("--real", folders[0], "--generated", folders[1], "-o", out, "--force").exit_code == 0
    assert load(out).generated == 20


def test_what_cannot_be_learnt_from(folders, tmp_path):
    real, generated = folders
    empty, same = tmp_path / "empty", tmp_path / "same"
    empty.mkdir()
    same.mkdir()
    for number in range(3):
        Image.new("RGB", (32, 32), "red").save(same / f"{number}.png")
    broken = paint(tmp_path / "broken", 3, True)
    (broken / "1.jpg").write_bytes(b"\xff\xd8\xff no picture")
    out = tmp_path / "x.safetensors"
    for arguments, message in (
        (("--real", empty, "--generated", generated), "no pictures"),
        (("--real", tmp_path / "none", "--generated", generated), "no such folder"),
        (("--real", broken, "--generated", generated), "1.jpg"),
        (("--real", same, "--generated", same), "look the same"),
        (("--real", real, "--generated", paint(tmp_path / "one", 1, False)), "got 6 and 1"),
        (("--real", real, "--generated", generated, "--lora", generated / "0.png"), "0.png"),
    ):
        refused = run(*arguments, "-o", out)
        assert refused.exit_code == 1 and message in refused.stderr and "Traceback" not in refused.stderr
        assert not out.exists()
    with pytest.raises(AdapterError):
        load(out)


def test_few_pictures_are_told_of(folders, tmp_path):
    one = paint(tmp_path / "one", 1, True)
    done = run("--real", one, "--generated", folders[1], "-o", tmp_path / "x.safetensors")
    assert done.exit_code == 0 and "nothing can be cross-validated" in done.stdout
