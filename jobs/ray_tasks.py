"""Work on many items as tasks of a Ray cluster, or of a Ray that is started on this machine for the time.

Ray places the tasks, moves those of a node that dies to another one, and lets nodes come and go. What is here: which
work a task does, how many are under way, and how the package itself travels to the machines. They need Python, Ray,
torch, safetensors, numpy and scipy, in the versions of this machine, and the folders of the files under one name.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import choices
from ..errors import GraftError, SettingsError
from .processes import Answer, Crew, Given, Item, Result, guarded
from .progress import Progress

RETRIES = 3  # of a task whose worker or node died
AHEAD = 4  # tasks under way for each core of the cluster: the next is there when one ends, and no more
PACKAGE = Path(__file__).resolve().parent.parent
_LEFT_AT_HOME = ("tests", "benchmarks", "docs", "build", "dist", "out", "workflows", "web", "locales")
_begun = ""  # the crew that this worker process is set up for


class RayEngine:
    """A connection to a cluster, open until the body ends.

    Args:
        address: HOST:PORT of the cluster's head, "auto" for the one this machine belongs to; None for the one that
            RAY_ADDRESS names, else for a Ray of this machine that ends with the body.
        gpus: GPUs for each task, parts allowed; 0 for work on CPUs.

    Raises:
        GraftError: Ray is not installed, or does not answer.
        SettingsError: GPUs are asked for and a Ray on this machine finds none.
    """

    shared = True

    def __init__(self, address: str | None = None, *, gpus: float = choices.Engines.gpus_per_task):
        self.address, self.gpus = address, gpus
        self._stack = ExitStack()

    def __enter__(self) -> RayEngine:
        ray = ray_library()
        here = self.address is None and not os.environ.get("RAY_ADDRESS")
        with self._stack:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="lora-graft-"))
            how: dict[str, Any] = {"address": self.address}
            if here:  # not the one that happens to run on this machine, as Ray would have it
                how = {"address": "local", "include_dashboard": False}
            try:
                ray.init(
                    **how,
                    runtime_env={"py_modules": [str(travelling(Path(folder)))]},
                    log_to_driver=False,
                    logging_level="CRITICAL",
                )
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                where = f"at {self.address} " if self.address else ""
                raise GraftError(
                    f"there is no Ray cluster {where}to be reached: {str(error).splitlines()[0]}",
                    hint="Start one with `ray start --head`, or leave out --address to work on this machine.",
                ) from error
            self._stack.callback(ray.shutdown)
            if here and self.gpus and not ray.cluster_resources().get("GPU"):
                raise SettingsError("Ray finds no GPU on this machine", hint="Leave out --gpus-per-task.")
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def crew(
        self, items: int, set_up: Callable[[Given], None], given: Given, *, device: str
    ) -> AbstractContextManager[Crew]:
        """Tasks; a worker process is set up when its first one comes, and anew when those of another crew do."""
        return nullcontext(RayTasks(set_up, given, self.gpus))


@dataclass
class RayTasks:
    """A :class:`.processes.Crew` whose processes are Ray's workers, one core and `gpus` GPUs for each task."""

    set_up: Callable[[Any], None]
    given: Any
    gpus: float = 0

    def __post_init__(self) -> None:
        self.name = uuid.uuid4().hex

    def each(
        self,
        task: Callable[[Item], Result],
        items: Iterable[Item],
        progress: Progress,
        label: Callable[[Item], str] = str,
    ) -> Iterator[tuple[Item, Result | None, str]]:
        """(item, result, "") or (item, None, why there is none) of a task, as they come.

        At most AHEAD tasks for each core of the cluster, as it is at the time, have begun or wait to. Those that are
        under way when the body fails end with the connection.
        """
        ray = ray_library()
        remote = ray.remote(_do).options(num_cpus=1, num_gpus=self.gpus, max_retries=RETRIES)
        items = list(items)
        left, done = iter(items), 0
        under_way: dict[Any, Item] = {}
        room, looked = 0, 0.0
        while done < len(items):
            if time.monotonic() - looked > 1:
                room, looked = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1))), time.monotonic()
            for item in islice(left, max(0, room - len(under_way))):
                under_way[remote.remote(self.name, self.set_up, self.given, task, item)] = item
            for ref in _ready(ray, list(under_way)):
                item, done = under_way.pop(ref), done + 1
                result, reason = _answer(ray, ref)
                progress(done, len(items), label(item))
                yield item, result, reason


def _ready(ray: Any, under_way: list) -> list:
    """Those that have ended, at least one, or none after a second."""
    first, others = ray.wait(under_way, num_returns=1, timeout=1)
    return first + (ray.wait(others, num_returns=len(others), timeout=0)[0] if first and others else [])


def _answer(ray: Any, ref: Any) -> Answer:
    try:
        return ray.get(ref)
    except ray.exceptions.OutOfMemoryError:
        return None, "out of memory on a machine of the cluster"
    except ray.exceptions.RayTaskError as error:  # not the item's fault: the worker cannot even begin
        return None, f"the worker cannot begin: {type(error.cause).__name__}: {error.cause}"
    except ray.exceptions.RayError:
        return None, f"its process was ended from outside {RETRIES + 1} times, perhaps for want of memory"


def _do(crew: str, set_up: Callable[[Given], None], given: Given, task: Callable[[Item], Result], item: Item) -> Answer:
    """One task, in a worker of the cluster."""

    def work(item: Item) -> Result:
        global _begun
        if _begun != crew:
            set_up(given)
            _begun = crew
        return task(item)

    return guarded(work, item)


def travelling(folder: Path) -> Path:
    """A copy of the package's own Python files, in a folder that is called like the package, for the cluster."""

    def ignore(parent: str, names: list[str]) -> set[str]:
        kept = {n for n in names if n.endswith(".py") or Path(parent, n).is_dir()}
        dropped = {n for n in kept if n.startswith((".", "__pycache__"))}
        return set(names) - kept | dropped | ({*_LEFT_AT_HOME} & {*names} if Path(parent) == PACKAGE else set())

    return Path(shutil.copytree(PACKAGE, folder / "lora_graft", ignore=ignore))


def ray_library() -> Any:
    """The module ``ray``, told to report nothing to anyone.

    Raises:
        GraftError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise GraftError("the engine ray needs Ray, which is not installed", hint="pip install ray") from error
    return ray
