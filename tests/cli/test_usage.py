"""Menus, exit statuses, start-up time, interruption: what every command shares."""

import io
import subprocess
import sys

import pytest
import torch
from lora_graft.cli.output import outputs, publish
from lora_graft.cli.progress import progress
from lora_graft.errors import GraftError
from lora_graft.io.outputs import claim, staged
from safetensors.torch import load_file
from typer import BadParameter


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom lora_graft.cli.app import app\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'safetensors'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no processor time of children there")
def test_help_is_fast(script):
    """In processor time, which other programs hardly change."""
    import resource

    best = 9.0
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert script("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert best < 1.0


COMMANDS = ["inspect", "similarity", "transfer", "merge", "resize", "convert", "distill", "dataset", "batch", "demo"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(cli, command):
    result = cli(command, "--help")
    assert result.exit_code == 0 and "Usage" in result.stdout


def test_version(cli):
    from lora_graft import __version__

    assert cli("--version").stdout.strip() == f"lora-graft {__version__}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["transfer"],
        ["transfer", "l", "--source", "a", "--target", "b", "-o", "x.safetensors", "--method", "magic"],
        ["transfer", "l", "--source", "a", "--target", "b", "-o", "x.safetensors", "--k", "4", "--energy", "0.9"],
        ["transfer", "l", "--source", "a", "--target", "b", "-o", "x.safetensors", "--k", "0"],
        ["transfer", "l", "--source", "a", "--target", "b", "-o", "x.safetensors", "--k-share", "1.5"],
        ["transfer", "l", "--source", "a", "--target", "b", "-o", "x.safetensors", "--report", "r.txt"],
        ["transfer", "l", "--source", "a", "--target", "b", "-o", "x.ckpt"],
        ["similarity", "a", "b", "--plot", "p.jpg"],
        ["convert", "l", "-o", "x.safetensors"],
    ],
)
def test_wrong_usage_is_status_2(cli, arguments):
    result = cli(*arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output


def test_exit_statuses_of_the_process(script, shelf, tmp_path):
    assert script("inspect", shelf / "lora.safetensors").returncode == 0
    assert script("inspect", tmp_path / "none").returncode == 1
    assert script("inspect").returncode == 2


INTERRUPTED = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent without a terminal may have it ignored
from lora_graft import adapters
def read(path):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
adapters.read = read
from lora_graft.cli import main
sys.argv = ["lora-graft", "inspect", "x.safetensors"]
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are a POSIX thing")
def test_ctrl_c_is_status_130():
    result = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=300)
    assert result.returncode == 130
    assert "Interrupted" in result.stderr and "Traceback" not in result.stderr


def test_a_reader_that_stops_early_is_no_crash(shelf):
    command = [sys.executable, "-m", "lora_graft.cli", "inspect", str(shelf / "lora.safetensors"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_outputs_appear_together_or_not_at_all(tmp_path):
    files = {tmp_path / "a": b"1", tmp_path / "b": b"2"}
    with pytest.raises(RuntimeError), staged(files):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with staged(files):
        assert not (tmp_path / "a").exists()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"1", "b": b"2"}


def test_claims_are_checked_before_the_work(tmp_path):
    claim(tmp_path / "new", None)
    with pytest.raises(GraftError, match="is a folder"):
        claim(tmp_path)
    with pytest.raises(GraftError, match="same name"):
        claim(tmp_path / "x", tmp_path / "." / "x")
    (tmp_path / "old").touch()
    with pytest.raises(GraftError, match="exists already"):
        claim(tmp_path / "old")
    claim(tmp_path / "old", force=True)


class Screen(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_on_a_terminal_only(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen := Screen(terminal))
    monkeypatch.setenv("TERM", "xterm")
    with progress("Comparing") as tell:
        tell(3, 8, "a.long.name[0:64]")
    assert ("3/8" in screen.getvalue() and "[0:64]" in screen.getvalue()) == terminal
    assert bool(screen.getvalue()) == terminal


def test_what_is_published_appears_together_or_not_at_all(tmp_path):
    from lora_graft.adapters import from_state_dict

    class Said:
        def to_json(self):
            return "{}"

        def to_markdown(self):
            return "# Ä"

    paths = {"adapter": tmp_path / "a.safetensors", "report": tmp_path / "r.md", "json": tmp_path / "all"}
    asked = outputs(**paths, force=False, inputs=())
    ones = {f"lora_unet_x.lora_{side}.weight": torch.ones(2, 2) for side in ("up", "down")}
    adapter = from_state_dict(ones)
    with pytest.raises(GraftError):
        publish(asked, Said(), adapter, dtype="fp7")
    assert list(tmp_path.iterdir()) == []
    assert publish(asked, Said(), adapter, dtype="fp16") == list(paths.values())
    assert paths["report"].read_text("utf-8") == "# Ä" and paths["json"].read_text() == "{}"
    assert {t.dtype for t in load_file(paths["adapter"]).values()} == {torch.float16}


@pytest.mark.parametrize("wrong", [{"adapter": "a.pt"}, {"report": "r.txt"}, {"plot": "p.jpg"}])
def test_names_of_outputs_are_checked_before_the_work(tmp_path, wrong):
    with pytest.raises(BadParameter, match="must end in"):
        outputs(**{name: tmp_path / file for name, file in wrong.items()}, force=False, inputs=())
