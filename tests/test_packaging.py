"""What is handed out: the wheel, the registry's archive, their metadata."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lora_graft import __version__
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACK = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))
NOT_SHIPPED = {"tests", "benchmarks", "docs", "docker"}
RAW = "https://raw.githubusercontent.com/"


def git(*arguments: str) -> list[str]:
    if not shutil.which("git") or not (PACK / ".git").exists():
        pytest.skip("not a git checkout")
    return subprocess.check_output(["git", "-C", str(PACK), *arguments], text=True).splitlines()


def shipped_folders() -> list[Path]:
    """The pack's own folders, without hidden ones and what only developers need."""
    tracked = {name.split("/")[0] for name in git("ls-files") if "/" in name}
    return [PACK / name for name in tracked - NOT_SHIPPED if not name.startswith(".")]


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """The folder that the registry's archive unpacks to: what git does not ignore, less what .comfyignore names."""
    left_out = set(git("ls-files", "-co", "-i", "--exclude-from=.comfyignore"))
    folder = tmp_path_factory.mktemp("custom_nodes") / "lora_graft"
    for name in set(git("ls-files", "-co", "--exclude-standard")) - left_out:
        if (PACK / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PACK / name, folder / name)
    return folder


def test_every_folder_of_python_is_in_the_package_list():
    found = {
        "lora_graft",
        *(
            ".".join(("lora_graft", *file.parent.relative_to(PACK).parts))
            for folder in shipped_folders()
            for file in folder.rglob("__init__.py")
        ),
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_every_other_file_is_package_data():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    covered = {
        file
        for package, globs in patterns.items()
        for pattern in globs
        for file in PACK.joinpath(*package.split(".")[1:]).glob(pattern)
    }
    others = {
        f
        for folder in shipped_folders()
        for f in folder.rglob("*")
        if f.is_file() and "__pycache__" not in f.parts and f.suffix not in (".py", ".pyc")
    }
    assert {str(f.relative_to(PACK)) for f in others - covered} <= {"family/README.md"}


def test_what_the_image_runs_is_a_command():
    import typer
    from lora_graft.cli.app import app

    text = (PACK / "docker" / "Dockerfile").read_text(encoding="utf-8")
    program, command, *arguments = json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.M)[1])
    made = typer.main.get_command(app).commands[command].make_context(command, arguments)
    assert program in PROJECT["project"]["scripts"] and made.params["listen"] == "0.0.0.0"
    assert f"EXPOSE {made.params['port']}\n" in text
    extra, torch = re.search(r"\[(\w+)\]", text)[1], re.search(r"torch==\S+", text)[0]
    optional = PROJECT["project"]["optional-dependencies"]
    assert extra in optional and torch in optional["dev"]


def test_one_version_everywhere():
    assert PROJECT["project"]["version"] == __version__
    changes = (PACK / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(__version__)}\]", changes, re.M)


def test_comfyuis_users_install_nothing_that_the_package_does_not_need():
    lines = (PACK / "requirements.txt").read_text().splitlines()
    wanted = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    assert wanted <= set(PROJECT["project"]["dependencies"])
    assert not any(name.startswith("torch") for name in wanted), "torch is the host's"


def test_the_registrys_metadata():
    comfy, urls = PROJECT["tool"]["comfy"], PROJECT["project"]["urls"]
    assert re.fullmatch(r"[a-z][a-z0-9-]*", comfy["PublisherId"]) and comfy["DisplayName"]
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    repository = urls["Repository"].removeprefix("https://github.com/")
    shapes = {}
    for kind in ("Icon", "Banner"):
        assert comfy[kind].startswith(f"{RAW}{repository}/main/"), "raw files of the repository"
        file = PACK / comfy[kind].removeprefix(f"{RAW}{repository}/main/")
        shapes[kind] = Image.open(file).size
    width, height = shapes["Icon"]
    assert width == height <= 400
    width, height = shapes["Banner"]
    assert width * 9 == height * 21


def test_the_archive_has_what_runs_and_nothing_else(archive):
    inside = {path.relative_to(archive).as_posix() for path in archive.rglob("*") if path.is_file()}
    tops = {name.split("/")[0] for name in inside}
    assert tops.isdisjoint({"tests", "benchmarks", "docs", "docker", ".github", ".ci", "Makefile"})
    assert tops >= {
        "__init__.py",
        "pyproject.toml",
        "requirements.txt",
        "LICENSE",
        "README.md",
        "web",
        "locales",
        "workflows",
        "nodes",
    }
    for pattern in ("web/*.js", "web/docs/*.md", "workflows/*.json", "family/*.safetensors", "locales/*/*.json"):
        tracked = {name for name in git("ls-files") if Path(name).match(pattern) and (PACK / name).is_file()}
        assert tracked and tracked <= inside, pattern


def test_the_archive_runs_by_itself(archive):
    code = "import lora_graft, sys; from lora_graft.cli import main; print(lora_graft.__file__); main()"
    for arguments, expected in ((["--version"], __version__), (["demo", "--help"], "demo"), (["--help"], "transfer")):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=archive.parent,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(archive.parent), "TERM": "dumb"},
        )
        where, _, output = done.stdout.partition("\n")
        assert done.returncode == 0 and expected in output, done.stderr
        assert Path(where) == archive / "__init__.py"
