"""Where the real ComfyUI is, the last lines of a run on what was skipped and why, and a clone of any name."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parent.parent


def find_host() -> tuple[Path, Path] | str:
    """The host's folder and its interpreter, or the reason why there is none.

    Folder: COMFYUI_PATH, else the ComfyUI whose custom_nodes holds this pack, else ~/comfy/ComfyUI.
    Interpreter: COMFYUI_PYTHON, else the host's own .venv or venv.
    """
    named = os.environ.get("COMFYUI_PATH")
    if named:
        folder = Path(named).expanduser()
    elif PACK.parent.name == "custom_nodes" and (PACK.parent.parent / "main.py").is_file():
        folder = PACK.parent.parent
    else:
        folder = Path("~/comfy/ComfyUI").expanduser()
    if not (folder / "main.py").is_file() or not (folder / "comfy").is_dir():
        return f"no ComfyUI at {folder}; set COMFYUI_PATH to run the host tests"
    named = os.environ.get("COMFYUI_PYTHON")
    inside = [folder / venv / bin for venv in (".venv", "venv") for bin in ("bin/python", "Scripts/python.exe")]
    for python in [Path(named).expanduser()] if named else inside:
        if python.is_file():
            lacks = missing_in(python)
            return f"the ComfyUI at {folder}: {lacks}" if lacks else (folder, python)
    return f"no Python for the ComfyUI at {folder}; set COMFYUI_PYTHON to run the host tests"


@lru_cache
def missing_in(python: Path) -> str:
    """What to do about modules of requirements.txt that an interpreter does not have; nothing where it has all."""
    lines = (PACK / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = [found[0] for line in lines if (found := re.match(r"[A-Za-z]\w*", line))]
    look = "import importlib.util, sys; print(*(n for n in sys.argv[1:] if importlib.util.find_spec(n) is None))"
    try:
        asked = subprocess.run([python, "-c", look, *names], capture_output=True, text=True, timeout=300)
    except OSError as error:
        return f"its Python does not start: {error}"
    if asked.returncode:
        return f"its Python does not start: {asked.stderr.strip()[-200:]}"
    lacks = ", ".join(asked.stdout.split())
    return f"its Python lacks {lacks}; run {python} -m pip install -r {PACK / 'requirements.txt'}" if lacks else ""


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a CUDA GPU; skips without one")
    config.addinivalue_line("markers", "host: needs a real ComfyUI, which the tests start themselves")
    config.pluginmanager.register(PlainRoot())  # a conftest's own hook is not asked about the folders above it


class PlainRoot:
    """Keeps pytest from importing the clone as a package: its name may hold a hyphen, as a clone's usually does."""

    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == PACK else None


def pytest_collection_modifyitems(config, items):
    asked = [item for item in items if item.get_closest_marker("host")]
    found = find_host() if asked else None
    if isinstance(found, str):
        for item in asked:
            item.add_marker(pytest.mark.skip(reason=found))


@pytest.fixture
def one_thread():
    """Threads of torch that wait for each other crawl on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def family_files(tmp_path_factory) -> dict[str, Path]:
    """The example family's files by name, without the text encoder, written once per run. Not to be changed."""
    from lora_graft.family.materialize import materialize

    return materialize(tmp_path_factory.mktemp("family") / "models", text_encoder=False)


@pytest.fixture(scope="session")
def family_models(family_files) -> Path:
    """Their folder, as a host's models folder is."""
    return family_files["family_a"].parent.parent


@pytest.fixture
def in_new_thread() -> Callable:
    """Calls a function in a thread of its own and returns its result."""

    def run(function: Callable):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(function).result()

    return run


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """The last lines: how many tests were skipped, by reason."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(config, "workerinput"):
        print("".join(skipped(reporter.stats.get("skipped", ()))), end="")


def skipped(reports) -> list[str]:
    """A line for each reason, the most frequent first."""
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    return [f"{count} skipped: {reason}\n" for reason, count in reasons.most_common()]


class InThisProcess:
    """A crew without processes, which the tests of ``transfer --all`` see at work."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def each(self, task, items, progress, label=str):
        from lora_graft.jobs.processes import guarded

        for item in items:
            yield item, *guarded(task, item)


@pytest.fixture
def crews(monkeypatch):
    """Crews of this process alone; the list tells how many processes each engine was asked for."""
    from lora_graft.jobs.processes import LocalEngine

    asked = []

    def crew(self, items, set_up, given, *, device):
        asked.append(self.processes)
        set_up(given)
        return InThisProcess()

    monkeypatch.setattr(LocalEngine, "crew", crew)
    return asked
