"""Every workflow of the repository, run as it is shipped, with the example family's files in the models folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from lora_graft.family.materialize import example_pictures, materialize
from PIL import Image
from safetensors import safe_open

pytestmark = pytest.mark.host
FOLDER = Path(__file__).parents[2] / "workflows" / "api"
FILES = sorted(FOLDER.glob("*.json"))


@pytest.fixture(scope="module")
def family(host):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other crawl on a busy machine
    try:
        materialize(host.models)
        example_pictures(host.base / "input")
    finally:
        torch.set_num_threads(threads)
    return host


def run(host, name: str):
    graph = json.loads((FOLDER / f"{name}.json").read_text())
    result = host.run(graph, seconds=600)
    assert result.status == "success", result.message
    return result


def pictures(host, result, node: str) -> np.ndarray:
    """What a SaveImage or PreviewImage node wrote, (n, height, width, 3) in [0, 1]."""
    files = [host.base / f["type"] / f["subfolder"] / f["filename"] for f in result.outputs[node]["images"]]
    return np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files]) / 255


def changed(before: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute difference of two batches of pictures."""
    assert before.shape == after.shape == (4, 64, 64, 3)
    assert before.std() > 0.05 and after.std() > 0.05
    return float(np.abs(before - after).mean())


def edge(images: np.ndarray) -> np.ndarray:
    """Pixels (n, 3) of the outermost three rows of a batch."""
    return np.concatenate([images[:, :3].reshape(-1, 3), images[:, -3:].reshape(-1, 3)])


def load_and_apply(host, result):
    assert "family_frame_a.safetensors" in result.text("info") and "SD3" in result.text("info")
    assert changed(pictures(host, result, "save_without"), pictures(host, result, "save_with")) > 0.02


def similarity(host, result):
    assert 0.2 < float(result.text("number")) <= 1
    assert "family_a" in result.text("report") and "family_b" in result.text("report")
    assert pictures(host, result, "heat_map").std() > 0.05


def transfer_before_sampling(host, result):
    assert "family_frame_a.safetensors" in result.text("report")
    assert pictures(host, result, "heat_map").std() > 0.05
    alone, moved = pictures(host, result, "save_target"), pictures(host, result, "save_transferred")
    assert changed(alone, moved) > 0.02
    assert edge(moved).mean(0) - edge(alone).mean(0) == pytest.approx([0.7, 0.6, 0.1], abs=0.3), "a golden frame"


def transfer_and_save(host, result):
    path = Path(result.text("path"))
    assert path.is_relative_to(host.base / "output" / "loras") and path.is_file()
    with safe_open(path, "pt") as file:
        metadata, keys = file.metadata(), list(file.keys())
    assert metadata["modelspec.architecture"] == "stable-diffusion-3/lora"
    assert any(key.startswith("lora_graft.") for key in metadata)
    assert all(key.startswith("lora_unet_joint_blocks_") for key in keys)


def lego_merge(host, result):
    assert "became one of rank 12 with LEGO" in result.text("report")
    assert pictures(host, result, "cluster_plot").std() > 0.05
    with safe_open(result.text("path"), "pt") as file:
        assert json.loads(file.metadata()["lora_graft.loras"])[2]["strength_model"] == 0.8
        downs = [key for key in list(file.keys()) if key.endswith("lora_down.weight")]
        assert {file.get_slice(key).get_shape()[0] for key in downs} == {12}


def merge_before_sampling(host, result):
    assert "SVD" in result.text("report")
    alone, merged = pictures(host, result, "save_base"), pictures(host, result, "save_merged")
    assert changed(alone, merged) > 0.02
    assert edge(merged).mean(0) - edge(alone).mean(0) == pytest.approx([0.7, 0.6, 0.1], abs=0.3), "a golden frame"


def batch(host, result):
    assert edge(pictures(host, result, "save")).mean(0) == pytest.approx([0.9, 0.7, 0.1], abs=0.3), "a golden frame"


def grid(host, result, rows: int) -> np.ndarray:
    """The pictures of a grid of four columns, (rows, 4, 128, 128, 3) in [0, 1]."""
    sheet = pictures(host, result, "save")[0]
    assert sheet.shape == (132 * rows - 4, 132 * 4 - 4, 3)
    return np.stack([[sheet[y : y + 128, x : x + 128] for x in range(0, 528, 132)] for y in range(0, 132 * rows, 132)])


def framed(images: np.ndarray) -> float:
    """How golden the edges are: red and green well above blue."""
    return float(edge(images)[:, :2].mean() - edge(images)[:, 2].mean())


def compare_transfer(host, result):
    assert "rotate" in result.text("report")
    alone, copied, rotated, source = grid(host, result, 4)
    assert framed(alone) < 0.2 and min(map(framed, (copied, rotated, source))) > 0.4
    assert np.abs(copied - rotated).mean() > 0.001 and np.abs(copied - source).mean() > 0.05


def compare_merges(host, result):
    alone, *merged = grid(host, result, 6)
    assert framed(alone) < 0.2 and min(map(framed, merged)) > 0.3
    assert min(np.abs(one - other).mean() for i, one in enumerate(merged) for other in merged[:i]) > 0.001


def learnt(host, result) -> float:
    """The share of the effect that the report tells; the adapter is on disk and says how it was made."""
    with safe_open(result.text("path"), "pt") as file:
        assert json.loads(file.metadata()["lora_graft.settings"])["objective"] == "difference"
    assert pictures(host, result, "curve").std() > 0.05
    return float(re.search(r"reproduces (\d+) %", result.text("report"))[1]) / 100


def distill_to_another_base(host, result):
    assert learnt(host, result) > 0.8
    assert framed(pictures(host, result, "save_target")) < 0.2 < 0.4 < framed(pictures(host, result, "save_distilled"))


def striped(images: np.ndarray) -> float:
    """How much more pictures change from row to row than from column to column."""
    return float(np.abs(np.diff(images, axis=1)).mean() / np.abs(np.diff(images, axis=2)).mean())


def lora_to_lorax(host, result):
    """On the target the ordinary LoRA loses to projection what the LoRA-X adapter keeps.

    A quarter of the samples are guard prompts, on which the LoRA does little: the share of the effect counts them too.
    """
    assert learnt(host, result) > 0.7
    nodes = ("save_target", "save_ordinary", "save_lorax")
    alone, ordinary, lorax = (striped(pictures(host, result, node)) for node in nodes)
    assert lorax - alone > 2 * (ordinary - alone) + 0.3


def pictures_to_lorax(host, result):
    """Ten pictures give the source the effect, and projection carries it to both relatives."""
    with safe_open(result.text("path"), "pt") as file:
        assert json.loads(file.metadata()["lora_graft.settings"])["objective"] == "samples"
        assert "white digit six" in file.metadata()["ss_tag_frequency"]
    assert "10 pictures were taught to family_a in 100 steps" in result.text("report")
    assert "10 pictures of 64 × 64" in result.text("data") and len(result.outputs["data"]["images"]) == 10
    alone, *taught = (striped(pictures(host, result, f"save_{name}")) for name in ("alone", "a", "b", "c"))
    assert min(taught) > alone + 0.3


def train_discriminator(host, result):
    """The file lies beside LoRAs, and what it keeps has the golden frame."""
    assert "16 real and 16 generated pictures" in result.text("trust")
    path = Path(result.text("trust").split("Saved ")[1].strip())
    assert path.is_relative_to(host.base / "output" / "loras") and path.is_file()
    kept = int(re.search(r"(\d+) of 16 samples were kept", result.text("report"))[1])
    assert kept >= 10 and "rejected by the discriminator of family_frame_a" in result.text("report")
    plain, chosen = pictures(host, result, "save_generated"), pictures(host, result, "previews")
    assert framed(plain) < 0.2 < 0.4 < framed(chosen) and len(chosen) == kept


CHECKS = {
    f.__name__: f
    for f in (
        load_and_apply,
        similarity,
        transfer_before_sampling,
        transfer_and_save,
        lego_merge,
        merge_before_sampling,
        batch,
        compare_transfer,
        compare_merges,
        distill_to_another_base,
        lora_to_lorax,
        pictures_to_lorax,
        train_discriminator,
    )
}


@pytest.mark.parametrize("name", [f.stem for f in FILES])
def test_workflow(family, name):
    CHECKS[name](family, run(family, name))


def test_transfer_to_the_pruned_base(family):
    """Base C has fewer blocks or narrower ones: the same workflow, another target."""
    graph = json.loads((FOLDER / "transfer_before_sampling.json").read_text())
    graph["base_b"]["inputs"]["unet_name"] = "family_c.safetensors"
    result = family.run(graph, seconds=180)
    assert result.status == "success", result.message
    alone, moved = pictures(family, result, "save_target"), pictures(family, result, "save_transferred")
    assert changed(alone, moved) > 0.02


def test_every_check_has_its_workflow():
    assert {f.stem for f in FILES} == set(CHECKS)
