"""A layer under all writing and reading that fails where it is told, and what must hold after every failure.

A *point* is one call to the system below a folder: an open, a write, a read, fsync, link, rename, unlink, mkdir. A run
is counted once; then it is run again for each point and each kind of fault, the fault at that point. A kill is a real
SIGKILL in a process of its own.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 300  # seconds before a process counts as hanging
_CALLS = ("open", "fsync", "link", "replace", "rename", "unlink", "mkdir", "utime", "truncate")
_BY_NUMBER = ("fsync",)
ERRORS = {"EIO": errno.EIO, "EACCES": errno.EACCES}
# "full": from this point on the disk takes nothing more; "read-only": it was mounted anew, as a system does that has
# found it damaged. "short": a write that takes half of what it is given.
KINDS = ("EIO", "EACCES", "full", "read-only", "short", "kill", "kill half way")
_GROWS = ("open to write", "write", "fsync", "link", "mkdir")
_CHANGES = (*_GROWS, "replace", "rename", "unlink", "utime", "truncate")
_FROM_THEN_ON = {"full": (errno.ENOSPC, _GROWS), "read-only": (errno.EROFS, _CHANGES)}
_ONLY = {"full": _GROWS, "read-only": _CHANGES, "short": ("write",), "kill half way": ("write",)}


@dataclass
class Layer:
    """Counts the points below `root`, and makes the one numbered `at` fail; -1: none."""

    root: Path
    at: int = -1
    kind: str = ""
    seen: list[str] = field(default_factory=list)  # what each point was
    hit: str = ""  # what failed, and of which file

    def point(self, what: str, path: object, half: Callable[[], object] | None = None) -> bool:
        """To be called before the system is; True where a write is to be cut short."""
        if not _below(path, self.root):
            return False
        number = len(self.seen)
        self.seen.append(what)
        name = f"{what} {Path(os.fsdecode(path)).suffix or Path(os.fsdecode(path)).name}"
        code, kinds = _FROM_THEN_ON.get(self.kind, (0, ()))
        if 0 <= self.at <= number and what in kinds:
            self.hit = self.hit or name
            raise OSError(code, os.strerror(code), str(path))
        if number != self.at:
            return False
        self.hit = self.hit or name
        if self.kind in ERRORS:
            raise OSError(ERRORS[self.kind], os.strerror(ERRORS[self.kind]), str(path))
        if self.kind == "kill half way" and half is not None:
            half()
        if self.kind.startswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.kind == "short" and half is not None


class _File(io.FileIO):
    """A file as the system gives it, under the layer's eyes."""

    layer: Layer

    def write(self, data):
        view = memoryview(data).cast("B")
        half = len(view) // 2

        def first_half():
            return super(_File, self).write(view[:half])

        if self.layer.point("write", self.name, first_half):
            return first_half() if half else super().write(view)
        return super().write(view)

    def readinto(self, buffer):
        self.layer.point("read", self.name)
        return super().readinto(buffer)

    def readall(self):
        self.layer.point("read", self.name)
        return super().readall()


@contextmanager
def under(layer: Layer) -> Iterator[None]:
    """The body with every call to the system below the layer's folder going through it."""
    true = {name: getattr(os, name) for name in _CALLS}
    plain = io.open

    def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        if isinstance(file, int) or opener or not _below(file, layer.root):
            return plain(file, mode, buffering, encoding, errors, newline, closefd, opener)
        layer.point("open to write" if set(mode) & set("wax+") else "open to read", file)
        raw = _File(os.fspath(file), mode.replace("b", "").replace("t", ""))
        raw.layer = layer
        if buffering == 0:
            return raw
        kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
        return kind(raw) if "b" in mode else io.TextIOWrapper(kind(raw), encoding, errors, newline)

    def through(name: str):
        def call(first, *more, **named):
            path = first
            if name in _BY_NUMBER:
                path = os.readlink(f"/proc/self/fd/{first}")
            elif name == "open" and not (more and more[0] & (os.O_WRONLY | os.O_RDWR)):
                return true[name](first, *more, **named)
            layer.point("open to write" if name == "open" else name, path)
            return true[name](first, *more, **named)

        return call

    for name in _CALLS:
        setattr(os, name, through(name))
    io.open = builtins.open = opened
    try:
        yield
    finally:
        io.open = builtins.open = plain
        for name, function in true.items():
            setattr(os, name, function)


def _below(path: object, root: Path) -> bool:
    if not isinstance(path, (str, bytes, os.PathLike)):
        return False
    return os.path.abspath(os.fsdecode(path)).startswith(str(root) + os.sep)


@dataclass(frozen=True)
class Work:
    """A job to break.

    run: called with (folder, force): reads below folder/"in", writes below folder/"out" and folder/"cache"; True where
        it succeeded, False where it said clearly that it did not; anything else it raises is a finding.
    outputs: the files that it leaves in folder/"out". over: whether it may write over old ones, when it is told to.
    goes_on: whether it goes on from what an earlier run left; else that is taken away where it may not be written over.
    readable: of a file that is written again and again: whether it is whole.
    varying: outputs whose bytes are others each time (times, random numbers).
    apart: the outputs come one by one, so that some may be there when others failed.
    """

    run: Callable[[Path, bool], bool]
    prepare: Callable[[Path], None]
    outputs: tuple[str, ...]
    over: bool = True
    goes_on: bool = False
    readable: dict[str, Callable[[Path], bool]] = field(default_factory=dict)
    varying: tuple[str, ...] = ()
    apart: bool = False


@dataclass
class Tried:
    points: int = 0
    faults: int = 0
    worked: int = 0
    failed: int = 0
    killed: int = 0


def break_everywhere(
    work: Work, root: Path, kinds=KINDS, every: int = 1, over: tuple[bool, ...] = (False, True)
) -> tuple[Tried, list[str]]:
    """Every point of a job, every kind of fault; how many were tried and what did not hold.

    every: only each so-many-th point. over: without and with old files under the outputs' names.
    """
    tried, findings = Tried(), []
    for old in over if work.over else (False,):
        box = Box(work, root, old)
        seen = box.measure()
        tried.points += len(seen)
        for kind in kinds:
            some = [at for at, what in enumerate(seen) if what in _ONLY.get(kind, seen)]
            for at in some[::every]:
                found = box.broken(kind, at, tried)
                findings += [f"{'over' if old else 'new'} {kind} at {at}: {what}" for what in found]
    return tried, findings


class Box:
    """A job in its folder, what it leaves when nothing is broken, and what must hold after something was."""

    def __init__(self, work: Work, root: Path, old: bool):
        self.work, self.root, self.old = work, root, old
        self.wanted: dict[str, bytes] = {}

    def fresh(self) -> None:
        for name in ("in", "out", "cache"):
            shutil.rmtree(self.root / name, ignore_errors=True)
            (self.root / name).mkdir()
        self.work.prepare(self.root)
        if self.old:
            for name in self.work.outputs:
                (self.root / "out" / name).write_bytes(b"old " + name.encode())
        _forget_swept()

    def measure(self) -> list[str]:
        """The bytes of an unbroken run, twice, and its points."""
        for _ in range(2):
            self.fresh()
            with under(layer := Layer(self.root)):
                good = self.work.run(self.root, self.old)
            found = self._lasting(_contents(self.root / "out"))
            missing = set(self.work.outputs) - set(_contents(self.root / "out"))
            assert good and not missing, f"the unbroken run left no {missing}"
            assert found == (self.wanted or found), "the unbroken run is not the same each time"
            self.wanted = found
        return layer.seen

    def broken(self, kind: str, at: int, tried: Tried) -> list[str]:
        layer = Layer(self.root, at, kind)
        if kind.startswith("kill"):
            return self.after(lambda: _in_a_child(self.work.run, layer, self.old), lambda: layer.hit, tried, ended=True)
        stuck = kind == "read-only"
        return self.after(lambda: self._try(layer), lambda: layer.hit, tried, stuck=stuck)

    def after(
        self,
        attempt: Callable[[], bool | None],
        hit: Callable[[], str],
        tried: Tried,
        *,
        ended: bool | None = False,
        late: bool = False,
        stuck: bool = False,
    ) -> list[str]:
        """What does not hold after an attempt in fresh folders.

        Args:
            attempt: True where the job succeeded, False where it said clearly that it did not, None where it was ended.
            hit: what was broken, for people.
            ended: whether it must be; None where it may.
            stuck: whether what is there already cannot be taken away again after a failure.
            late: whether it may say that it failed when all is written: what it was to show then is lost.
        """
        self.fresh()
        inputs = _contents(self.root / "in")
        try:
            good = attempt()
        except Exception as error:
            return [f"{type(error).__name__}: {error} ({hit()})"]
        if ended is not None and ended is not (good is None):
            return [f"the fault did not come about ({hit()})"]
        tried.faults += 1
        tried.worked, tried.failed = tried.worked + (good is True), tried.failed + (good is False)
        tried.killed += good is None
        if late and good is False and self._lasting(_contents(self.root / "out")) == self.wanted:
            good = None
        if stuck and good is False:
            good = None
        findings = self._whole(good)
        if _contents(self.root / "in") != inputs:
            findings.append("an input changed")
        _forget_swept()
        if not self.work.over and not self.work.goes_on:
            for name in self.work.outputs:
                (self.root / "out" / name).unlink(missing_ok=True)
        if not self.work.run(self.root, self.old or good is not False or self.work.apart):
            findings.append("the next run fails")
        after = self._lasting(_contents(self.root / "out"))
        if after != self.wanted:
            odd = sorted(n for n in after.keys() | self.wanted.keys() if after.get(n) != self.wanted.get(n))
            findings.append(f"after the next run {odd}")
        left = [name for name in _contents(self.root / "cache") if name.endswith(".part")]
        if left:
            findings.append(f"left in the cache: {left}")
        return [f"{finding} ({hit()})" for finding in findings]

    def _try(self, layer: Layer) -> bool | None:
        with under(layer):
            good = self.work.run(self.root, self.old)
        return good if layer.hit else None

    def _whole(self, good: bool | None) -> list[str]:
        """Each output is the old one or the new one; all new after success, all old after a failure that was told."""
        findings = []
        for name in self.work.outputs:
            path = self.root / "out" / name
            found = path.read_bytes() if path.exists() else None
            if name in self.work.readable:
                if found is not None and not self.work.readable[name](path):
                    findings.append(f"{name} cannot be read")
                continue
            old = b"old " + name.encode() if self.old else None
            if found not in (old, self.wanted[name]):
                findings.append(f"{name} is neither old nor new: {len(found or b'')} bytes")
            elif good and found != self.wanted[name]:
                findings.append(f"success, but {name} is not there")
            elif good is False and not self.old and found is not None and not self.work.apart:
                findings.append(f"failure, but {name} is there")
        return findings

    def _lasting(self, files: dict[str, bytes]) -> dict[str, bytes]:
        return {name: data for name, data in files.items() if name not in self.work.varying}


def _in_a_child(run: Callable[[Path, bool], bool], layer: Layer, force: bool) -> bool | None:
    """The run in a forked process; None where that was killed, as it should.

    A forked process has none of the threads that torch began before, and would wait for them: let it have one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(PATIENCE)
        try:
            with under(layer):
                good = run(layer.root, force)
            os._exit(0 if good else 1)
        except BaseException:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) == signal.SIGKILL:
            return None
        raise RuntimeError(f"ended by signal {os.WTERMSIG(status)}")
    if os.WEXITSTATUS(status) == 3:
        raise RuntimeError("a traceback on the way to the kill")
    return os.WEXITSTATUS(status) == 0


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _forget_swept() -> None:
    """As if another process came."""
    from lora_graft.io import atomic

    atomic._swept.clear()
