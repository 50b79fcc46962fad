"""``lora-graft examples``, and the command line started from a clone of any name."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path):
    """The pack in a custom_nodes folder; where it lies it is not importable by its name."""
    place = tmp_path / "custom_nodes" / "Some-Name"
    place.mkdir(parents=True)
    for item in PACK.iterdir():
        if item.is_dir() and (item / "__init__.py").is_file():
            (place / item.name).symlink_to(item, target_is_directory=True)
        elif item.suffix == ".py":
            shutil.copy(item, place)
    (tmp_path / "models").mkdir()
    return place


def started(clone, *words):
    return subprocess.run([sys.executable, clone, *words], capture_output=True, text=True, cwd=clone.parents[1])


def test_a_clone_finds_the_models_folder_beside_it(clone):
    done = started(clone, "examples")
    assert done.returncode == 0, done.stderr
    models = clone.parents[1] / "models"
    assert {f.name for f in models.iterdir()} == {"diffusion_models", "loras", "text_encoders", "vae"}
    assert len(list(models.rglob("family_*.safetensors"))) == 33


def test_pictures_go_into_the_input_folder_and_stay_as_they_are_there(clone):
    inputs = clone.parents[1] / "input"
    (inputs / "family_stripes").mkdir(parents=True)
    (inputs / "family_stripes" / "stripes_2.txt").write_text("mine")
    done = started(clone, "examples")
    assert done.returncode == 0 and f"10 pictures are in {inputs / 'family_stripes'}" in done.stdout
    assert len(list((inputs / "family_stripes").iterdir())) == 20
    assert (inputs / "family_stripes" / "stripes_2.txt").read_text() == "mine"
    assert (inputs / "family_stripes" / "stripes_10.txt").read_text() == "red digit zero\n"


def test_a_file_of_the_same_name_is_not_overwritten(clone):
    theirs = clone.parents[1] / "models" / "diffusion_models" / "family_a.safetensors"
    theirs.parent.mkdir()
    from safetensors.torch import save_file
    from torch import zeros

    save_file({"mine": zeros(1)}, theirs)
    before = theirs.read_bytes()
    done = started(clone, "examples")
    assert done.returncode == 1 and "family_a.safetensors" in done.stderr and theirs.read_bytes() == before


def test_worker_processes_of_a_clone_know_the_package(tmp_path):
    """`spawn` begins them with the clone's __main__.py; without the package's name nothing could be sent to them."""
    place = tmp_path / "Some-Name"
    (place / "cli").mkdir(parents=True)
    shutil.copy(PACK / "__main__.py", place)
    (place / "__init__.py").write_text("")
    (place / "cli" / "__init__.py").write_text(
        "from multiprocessing import get_context\n"
        "def where():\n    return __file__\n"
        "def main():\n    with get_context('spawn').Pool(1) as pool:\n        print(pool.apply(where))\n"
    )
    done = subprocess.run([sys.executable, place], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == str(place / "cli" / "__init__.py"), done.stderr


def test_without_a_models_folder_it_asks_for_one(cli, tmp_path):
    assert "ComfyUI" in cli("examples", tmp_path / "nowhere").stderr
