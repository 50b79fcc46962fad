"""Which ComfyUI the tests take, and the lines that say why tests were skipped."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the interpreters here are shell scripts")


@pytest.fixture
def tests(request):
    """The tests' own top tests."""
    return next(p for p in request.config.pluginmanager.get_plugins() if hasattr(p, "missing_in"))


@pytest.fixture
def comfy(tests, tmp_path, monkeypatch):
    """A folder like ComfyUI's, and a function that makes its interpreter."""
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    tests.missing_in.cache_clear()

    def make(script):
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        return tmp_path, python

    return make


def test_a_host_that_has_everything(tests, comfy):
    found = comfy("echo")
    assert tests.find_host() == found
    tests.missing_in.cache_clear()
    found = comfy(f'exec {sys.executable} "$@"')
    assert tests.find_host() == found


def test_what_is_missing_is_told_with_the_command_that_brings_it(tests, comfy):
    _, python = comfy('echo matplotlib; echo "$@" >&2')
    reason = tests.find_host()
    assert "its Python lacks matplotlib; run" in reason and "\n" not in reason
    assert reason.endswith(f"{python} -m pip install -r {tests.PACK / 'requirements.txt'}")


def test_a_broken_interpreter_and_no_host(tests, comfy, monkeypatch, tmp_path):
    comfy("echo no such thing >&2; exit 3")
    assert "does not start: no such thing" in tests.find_host()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "nowhere"))
    assert "no ComfyUI at" in tests.find_host()


def test_a_run_ends_with_what_was_skipped_and_why(tests, tmp_path):
    code = "import pytest\n@pytest.mark.parametrize('n', range(3))\ndef test_it(n): pytest.skip('the moon is full')\n"
    (tmp_path / "test_it.py").write_text(code)
    (tmp_path / "conftest.py").write_text((tests.PACK / "tests" / "conftest.py").read_text())
    for workers in ((), ("-n", "2")):
        command = [sys.executable, "-m", "pytest", "-q", *workers, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.stdout.splitlines()[-1] == "3 skipped: the moon is full", done.stdout
