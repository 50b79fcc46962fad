"""``lora-graft transfer --all``: many LoRAs, each like a single transfer; failures named, the rest finished."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file, save_file


@pytest.fixture
def loras(shelf, tmp_path):
    """Four LoRAs, one of them in a subfolder, and a broken one."""
    folder = tmp_path / "loras"
    (folder / "sub").mkdir(parents=True)
    tensors = load_file(shelf / "lora.safetensors")
    for number, name in enumerate(("one", "two", "three", "sub/one")):
        scaled = {k: t * (1 + number) if k.endswith(".alpha") else t for k, t in tensors.items()}
        save_file(scaled, folder / f"{name}.safetensors")
    (folder / "broken.safetensors").write_bytes((folder / "one.safetensors").read_bytes()[:3000])
    return folder


@pytest.fixture
def arguments(shelf, loras, tmp_path):
    def build(*more, pattern="*.safetensors", out="out"):
        return (
            "transfer",
            "--all",
            loras / pattern,
            "--source",
            shelf / "a.safetensors",
            "--target",
            shelf / "b.safetensors",
            "-o",
            tmp_path / out,
            "--method",
            "lora-x",
            "--k",
            "8",
            *more,
        )

    return build


def test_a_shelf_is_what_single_transfers_are(script, cli, arguments, loras, shelf, tmp_path):
    """Two processes, subfolders and reports; the broken file is named and the others are done; then only it is left."""
    result = script(*arguments("--jobs", "2", "--reports", "md", pattern="**/*.safetensors"))
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    assert "4 transferred, 1 failed." in result.stdout
    assert f"Failed: {loras / 'broken.safetensors'}: " in result.stdout
    out = tmp_path / "out"
    names = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert names == {f"{n}.{end}" for n in ("one", "two", "three", "sub/one") for end in ("safetensors", "md")}
    assert (out / "sub/one.md").read_text("utf-8").startswith("# ")
    for name in ("two", "sub/one"):
        single = tmp_path / "single.safetensors"
        options = ("--source", shelf / "a.safetensors", "--target", shelf / "b.safetensors", "--method", "lora-x")
        made = cli("transfer", loras / f"{name}.safetensors", *options, "--k", "8", "-o", single, "--force")
        assert made.exit_code == 0
        assert single.read_bytes() == (out / f"{name}.safetensors").read_bytes()

    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    shutil.copy(loras / "one.safetensors", loras / "broken.safetensors")
    result = script(*arguments("--jobs", "1", pattern="**/*.safetensors"))
    assert result.returncode == 0 and "1 transferred, 4 were there already, 0 failed." in result.stdout
    assert {p: p.stat().st_mtime_ns for p in before} == before and (out / "broken.safetensors").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are a POSIX thing")
def test_interrupted_it_ends_its_processes_and_leaves_whole_files(arguments, loras, tmp_path):
    for number in range(60):
        shutil.copy(loras / "one.safetensors", loras / f"more{number}.safetensors")
    code = (
        "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from lora_graft.cli import main\nif __name__ == '__main__':\n    main()\n"
    )
    (tmp_path / "main.py").write_text(code)
    command = [sys.executable, tmp_path / "main.py", *arguments("--jobs", "1")]
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 300
    while not list((tmp_path / "out").glob("*.safetensors")) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    made = list((tmp_path / "out").glob("*.safetensors"))
    assert process.returncode == 130 and "goes on from here" in errors and "Traceback" not in errors, errors
    assert 0 < len(made) < 63 and all(load_file(p) for p in made)


def test_wrong_usage(cli, arguments, tmp_path):
    for more in (["x.safetensors"], ["--json"], ["--report", tmp_path / "r.md"], ["--plot", tmp_path / "p.png"]):
        assert cli(*arguments(*more)).exit_code == 2
    one = [a for a in arguments()[3:]]
    assert cli("transfer", *one).exit_code == 2, "neither a LoRA nor --all"
    assert cli("transfer", "x.safetensors", *one, "--jobs", "2").exit_code == 2
    result = cli(*arguments(pattern="nothing*"))
    assert result.exit_code == 1 and "matches no .safetensors file" in result.output
    (tmp_path / "file").touch()
    assert "this is a file" in cli(*arguments(out="file")).output
