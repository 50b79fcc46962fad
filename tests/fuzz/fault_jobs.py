"""The jobs that `faults` breaks: small, and each through the door that users take."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import corpus
from containers import File
from faults import Work
from promise import _command, _runner


def _put(root: Path, name: str, file: File) -> None:
    (root / "in" / name).write_bytes(file.to_bytes())


def _small(seed: int = 0) -> File:
    """Two modules of the fitting adapter."""
    file = corpus.fitting(seed)
    return File(dict(list(file.tensors.items())[:6]), file.metadata)


def _base(seed: int) -> File:
    """The blocks that those two modules are in."""
    file = corpus.checkpoint(seed)
    kept = {k: t for k, t in file.tensors.items() if ".input_blocks.1." in k}
    return File(kept, file.metadata)


def _files(root: Path) -> None:
    for name, file in (("one", _small()), ("two", _small(3)), ("a", _base(0)), ("b", _base(1))):
        _put(root, f"{name}.safetensors", file)


def command(*words: str, prepare: Callable[[Path], None] = _files, says: tuple[str, ...] = ("Error: ",), **how) -> Work:
    """A command line; words that begin with in/ or out/ are files of its own, those with family_ example models.

    Args:
        says: words of which one is read where it failed.
        how: fields of Work.
    """

    def run(root: Path, force: bool) -> bool | None:
        os.environ["LORA_GRAFT_CACHE"] = str(root / "cache")
        spelled = [str(root / word) if word.startswith(("in/", "out/")) else word for word in words]
        spelled = [str(family()[word]) if word.startswith("family_") else word for word in spelled]
        done = _runner().invoke(_command(), spelled + (["--force"] if force else []))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        if done.exit_code == 130 and "Interrupted" in done.stderr:
            return None
        if done.exit_code not in (0, 1) or (done.exit_code and not any(word in done.output for word in says)):
            raise AssertionError(f"ended with {done.exit_code}: {done.stderr[-300:]}")
        return done.exit_code == 0

    return Work(run, prepare, **how)


@cache
def family() -> dict[str, Path]:
    """The example models, in a folder that nothing breaks."""
    from lora_graft.family.materialize import materialize

    folder = tempfile.mkdtemp(prefix="family-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return materialize(folder, text_encoder=False)


def _clearly(work: Callable[[Path], object]) -> Callable[[Path, bool], bool]:
    """A function's run, where only the errors for users, and memory that gives out, count as clear ones."""
    from lora_graft.errors import GraftError, lacks_memory

    def run(root: Path, force: bool) -> bool:
        try:
            work(root)
        except (GraftError, OSError):
            return False
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            return False
        return True

    return run


def _save(root: Path) -> None:
    """What the node Save LoRA does with an adapter."""
    import lora_graft
    from lora_graft import adapters
    from through_text import _node

    adapter = lora_graft.read(root / "in" / "one.safetensors")
    _node("save_lora").saved(root / "out", "x", lambda path: adapters.write(adapter, path))


def _dataset(root: Path) -> None:
    from lora_graft.jobs.distill import dataset

    dataset.save(dataset.load(root / "in" / "d.safetensors"), root / "out" / "d.safetensors")


def _cache(root: Path) -> None:
    """Subspaces come out right whatever becomes of the folder."""
    import torch
    from lora_graft.jobs.cache import SubspaceCache
    from lora_graft.kernels.spectral import subspace

    kept, weight = SubspaceCache(root / "cache"), corpus.draw(8, 6)
    right = subspace(weight, 2)
    for key in ("0" * 64, "1" * 64):
        found = kept.get_or_compute(key, lambda: right)
        if not torch.equal(found.left, right.left) or not torch.equal(found.values, right.values):
            raise AssertionError("the cache gave something else")


def _picture(root: Path) -> None:
    import numpy as np
    from lora_graft import plots

    plots.save(np.zeros((4, 4, 3), np.uint8), root / "out" / "p.png")


def _keeper(root: Path) -> None:
    """A distillation's checkpoint: three steps, each saved, with the run going on where the last one stopped."""
    from lora_graft.jobs.distill.checkpoint import FileKeeper
    from lora_graft.jobs.distill.train import State

    keeper = FileKeeper(root / "out", corpus.IDENTITY)
    state = keeper.load()
    for step in range(state.step + 1 if state else 1, 4):
        groups = {name: {"a.up": corpus.draw(4, 2, seed=step)} for name in ("params", "best")}
        keeper.save(State(step, **groups, moments={}, losses=[float(step)] * step, checks=[], reference=1.0))
    state = keeper.load()
    if state is None or state.step != 3:
        from lora_graft.errors import GraftError

        raise GraftError(keeper.trouble or "no checkpoint")


def _loads(path: Path) -> bool:
    from lora_graft.jobs.distill.checkpoint import FileKeeper

    return FileKeeper(path.parent, corpus.IDENTITY).load() is not None


REPORT = "in/one.safetensors"
CHECKPOINT = f"{corpus.IDENTITY[:24]}.safetensors"
JOBS: dict[str, Work] = {
    "transfer": command(
        "transfer", REPORT, "--source", "in/a.safetensors", "--target", "in/b.safetensors", "--method", "lora-x",
        "--k", "2", "-o", "out/x.safetensors", "--report", "out/r.md", outputs=("x.safetensors", "r.md"),
    ),
    "merge": command(
        "merge", REPORT, "in/two.safetensors", "--method", "svd", "--rank", "2", "-o", "out/x.safetensors",
        "--report", "out/r.md", outputs=("x.safetensors", "r.md"),
    ),
    "convert": command("convert", REPORT, "--layout", "comfy", "-o", "out/x.safetensors", outputs=("x.safetensors",)),
    "resize": command(
        "resize", REPORT, "--rank", "2", "-o", "out/x.safetensors", "--report", "out/r.md",
        outputs=("x.safetensors", "r.md"),
    ),
    "Save LoRA": Work(_clearly(_save), _files, ("x_00001.safetensors",), over=False),
    "dataset": Work(
        _clearly(_dataset), lambda root: _put(root, "d.safetensors", corpus.dataset()), ("d.safetensors",), over=False
    ),
    "cache of subspaces": Work(_clearly(_cache), lambda root: None, (), over=False),
    "picture": Work(_clearly(_picture), lambda root: None, ("p.png",)),
    "distilling's checkpoint": Work(
        _clearly(_keeper), lambda root: None, (CHECKPOINT,), over=False, goes_on=True, readable={CHECKPOINT: _loads},
    ),
}  # fmt: skip
