"""A real Automatic1111, Forge or Forge Neo on the CPU, with this pack among its extensions and data of its own.

Nothing is written into the host's own folder. Which one: ``A1111_PATH`` and ``FORGE_PATH`` (Forge or Forge Neo), with
``A1111_PYTHON`` and ``FORGE_PYTHON`` for an interpreter that is not in the host's ``venv``; else the host whose
``extensions`` hold this pack. The host must have been started once, so that what it needs is installed.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny_sd
from PIL import Image

PACK = Path(__file__).resolve().parents[2]
NAMES = ("A1111", "FORGE")
START = 600  # seconds until a start counts as failed
CPU = {  # what turns the GPU off, by the host's own switches; the first whose word stands in the file is taken
    "--always-cpu": ("backend/args.py", ["--always-cpu"]),
    '"--cpu"': ("backend/args.py", ["--cpu"]),
    "--use-cpu": ("modules/cmd_args.py", ["--use-cpu", "all", "--no-half"]),
}
SWITCHES = ["--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-python-version-check", "--api"]
SWITCHES += ["--skip-version-check"]
# CLIP's tokenizer as files, from the package that Automatic1111 brings.
TOKENIZER = """if True:
    import json, sys
    from clip.simple_tokenizer import SimpleTokenizer
    tokenizer = SimpleTokenizer()
    json.dump(tokenizer.encoder, open(sys.argv[1] + "/vocab.json", "w"))
    merges = "\\n".join(["#version: 0.2", *map(" ".join, tokenizer.bpe_ranks)])
    open(sys.argv[1] + "/merges.txt", "w", encoding="utf-8").write(merges)
"""
TEXT = {"architectures": ["CLIPTextModel"], "hidden_size": 768, "intermediate_size": 3072, "hidden_act": "quick_gelu"}
TEXT |= {"model_type": "clip_text_model", "num_attention_heads": 12, "num_hidden_layers": 12, "vocab_size": 49408}
TEXT |= {"max_position_embeddings": 77, "projection_dim": 768, "torch_dtype": "float32"}


def find(name: str) -> tuple[Path, Path] | str:
    """The folder and the interpreter of one of :data:`NAMES`, or the reason why there is none."""
    named = os.environ.get(f"{name}_PATH")
    around = PACK.parent.parent if PACK.parent.name == "extensions" else None
    folder = Path(named).expanduser() if named else around
    if folder is None or not (folder / "webui.py").is_file():
        return f"no host at {folder}" if folder else f"set {name}_PATH to a host to run these tests"
    if (folder / "modules_forge").is_dir() != (name == "FORGE"):
        return f"the host at {folder} is of another kind"
    python = os.environ.get(f"{name}_PYTHON")
    inside = [folder / venv / bin for venv in ("venv", ".venv") for bin in ("bin/python", "Scripts/python.exe")]
    for found in [Path(python).expanduser()] if python else inside:
        if found.is_file():
            return folder, found
    return f"no Python for the host at {folder}; set {name}_PYTHON"


@dataclass
class RealHost:
    """One that answers. data: its folder of models and settings. log: what it printed."""

    name: str
    address: str
    data: Path
    log: Path

    @property
    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def starts(self) -> int:
        """How often it became ready. Not to be asked before: Automatic1111 gives up when a request comes too early."""
        return self.printed.count("Startup time")

    @property
    def loras(self) -> Path:
        return self.data / "models" / "Lora"

    def ask(self, route: str, body: Any = None, **headers: str) -> Any:
        """The answer to a GET, or to a POST where there is a body."""
        headers = {"Content-Type": "application/json", **headers}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/{route}", data, headers)
        with urllib.request.urlopen(request, timeout=START) as answer:
            return json.load(answer)

    def status(self, route: str, body: Any = None, **headers: str) -> int:
        """The status of the answer alone."""
        try:
            self.ask(route, body, **headers)
        except urllib.error.HTTPError as error:
            return error.code
        return 200

    def draw(self, prompt: str, model: str = "new", steps: int = 2) -> np.ndarray:
        """A picture of 64 pixels, (64, 64, 3) in 0…255."""
        wanted = {"prompt": prompt, "seed": 7, "steps": steps, "width": 64, "height": 64, "cfg_scale": 3}
        wanted |= {"sampler_name": "Euler", "override_settings": {"sd_model_checkpoint": f"{model}.safetensors"}}
        picture = self.ask("sdapi/v1/txt2img", wanted)["images"][0]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")).astype(int)

    def job(self, kind: str, **settings: Any) -> int:
        return self.ask(f"lora-graft/v1/jobs/{kind}", settings)["id"]

    def told(self, job: int) -> dict[str, Any]:
        return self.ask(f"lora-graft/v1/jobs/{job}")

    def ended(self, job: int) -> dict[str, Any]:
        """The job, when it has ended."""
        return self.until(lambda: self.told(job), lambda told: told["state"] in ("done", "failed", "stopped"))

    def progress(self) -> dict[str, Any]:
        return self.ask("sdapi/v1/progress?skip_current_image=true")

    def until(self, look: Any, good: Any) -> Any:
        """Look until it is good."""
        end = time.monotonic() + START
        while not good(seen := look()):
            assert time.monotonic() < end, f"{seen}\n{self.printed[-3000:]}"
            time.sleep(0.05)
        return seen


@contextlib.contextmanager
def started(name: str, data: Path) -> Iterator[RealHost]:
    """The host of that name with two bases, old and new, and the LoRA style; ended afterwards."""
    folder, python = find(name)
    _furnish(data)
    if name == "A1111":
        subprocess.run([python, "-c", TOKENIZER, data / "clip"], check=True, timeout=START)
    port = _free_port()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COMMANDLINE_ARGS": ""}
    environment |= {"LORA_GRAFT_CACHE": str(data / "cache"), "GRADIO_TEMP_DIR": str(data / "gradio")}
    environment.pop("PYTHONPATH", None)
    command = [python, "launch.py", *SWITCHES, *_cpu(folder), "--data-dir", data, "--port", str(port)]
    command += ["--gradio-allowed-path", folder]  # its scripts, where its data is elsewhere
    command += ["--no-download-sd-model"] if name == "A1111" else []
    host = RealHost(name, f"http://127.0.0.1:{port}", data, data / "log.txt")
    with host.log.open("wb") as log:
        running = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
        try:
            host.until(lambda: (host.starts, running.poll()), lambda seen: seen != (0, None))
            assert running.poll() is None, host.printed[-3000:]
            yield host
        finally:
            running.terminate()
            try:
                running.wait(60)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait(60)


def _furnish(data: Path) -> None:
    """Models and extensions of a data folder."""
    from safetensors.torch import save_file

    for part in ("extensions", "models/Stable-diffusion", "models/Lora", "clip", "tmp"):
        (data / part).mkdir(parents=True)
    (data / "extensions" / "LoRA-Graft").symlink_to(PACK)
    (data / "clip" / "config.json").write_text(json.dumps(TEXT), encoding="utf-8")
    tiny_sd.write(data / "models" / "Stable-diffusion", data / "clip", layers=12)
    save_file(tiny_sd.lora(1), data / "models" / "Lora" / "style.safetensors")


def _cpu(folder: Path) -> list[str]:
    for word, (file, switches) in CPU.items():
        path = folder / file
        if path.is_file() and word in path.read_text(encoding="utf-8"):
            return switches
    raise AssertionError(f"the host at {folder} has no switch for a CPU that is known")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
