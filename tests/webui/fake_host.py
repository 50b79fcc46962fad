"""A ``modules`` package that behaves as Automatic1111's, Forge's and Forge Neo's does where this project touches it."""

from __future__ import annotations

import sys
import threading
import types
from pathlib import Path
from types import SimpleNamespace


class State:
    """``shared.state`` with what ``/sdapi/v1/progress`` reads of it."""

    def __init__(self):
        self.job, self.job_count, self.job_no, self.sampling_step, self.sampling_steps = "", 0, 0, 0, 0
        self.interrupted = self.stopping_generation = self.skipped = False
        self.began = self.ended = 0

    def begin(self, job="(unknown)"):
        self.job, self.job_count, self.job_no = job, -1, 0
        self.sampling_step = self.sampling_steps = 0
        self.interrupted = self.stopping_generation = False
        self.began += 1

    def end(self):
        self.job, self.job_count = "", 0
        self.ended += 1

    def interrupt(self):
        self.interrupted = True

    def progress(self) -> float:
        """As the host's route computes it."""
        if self.job_count == 0:
            return 0.0
        progress = 0.01
        if self.job_count > 0:
            progress += self.job_no / self.job_count
        if self.sampling_steps > 0:
            progress += 1 / self.job_count * self.sampling_step / self.sampling_steps
        return min(progress, 1)


class OptionInfo:
    def __init__(self, default=None, label="", component=None, component_args=None, section=None, **more):
        self.default, self.label, self.section, self.component_args = default, label, section, component_args


class Options(SimpleNamespace):
    def add_option(self, name, info):
        self.added[name] = info
        self.__dict__.setdefault(name, info.default)


def install(monkeypatch, bases: Path, loras: Path, **options) -> SimpleNamespace:
    """Put the package in the place of a host's; what it holds, with the callbacks that were registered.

    options: of the command line, beside ``lora_dir``.
    """
    modules = {name: types.ModuleType(f"modules.{name}") for name in ("shared", "sd_models", "call_queue")}
    modules["script_callbacks"] = types.ModuleType("modules.script_callbacks")
    package = types.ModuleType("modules")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "modules", package)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"modules.{name}", module)
        setattr(package, name, module)
    shared = modules["shared"]
    shared.cmd_opts = SimpleNamespace(lora_dir=str(loras), api=True, api_auth=None, use_cpu=[], **options)
    shared.opts, shared.OptionInfo = Options(added={}, localization="None"), OptionInfo
    shared.state = State()
    modules["call_queue"].queue_lock = threading.Lock()
    infos = {path.name: SimpleNamespace(name=path.name, filename=str(path)) for path in sorted(bases.iterdir())}
    modules["sd_models"].checkpoints_list = {f"{name} [1234]": info for name, info in infos.items()}
    heard = {"ui_tabs": [], "app_started": [], "ui_settings": []}
    for event, callbacks in heard.items():
        setattr(modules["script_callbacks"], f"on_{event}", callbacks.append)
    networks = types.ModuleType("networks")
    networks.listed = 0

    def list_available_networks():
        networks.listed += 1

    networks.list_available_networks = list_available_networks
    monkeypatch.setitem(sys.modules, "networks", networks)
    return SimpleNamespace(**modules, networks=networks, heard=heard)
