"""What is promised of any input, and how one input is held to it.

A clear error or a right result; never a traceback, a hang, more than four times the input's size and 500 MB of memory,
a partial output, a write outside the chosen folder, control characters on the terminal, HTML or Markdown from the
input in a report.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from hostile import MARK

SECONDS = 10
MEGABYTES = 500
TIMES = 4
# C0 but tab and newline, DEL and C1, marks that turn the direction of writing, line separators, lone surrogates.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Broken(Exception):
    """The promise does not hold. kind: one word; the text tells findings apart."""

    def __init__(self, kind: str, what: str):
        super().__init__(f"{kind}: {what}")
        self.kind = kind


class Hang(KeyboardInterrupt):
    """Ten seconds are over. As an interrupt it gets through event loops too."""


class Sandbox:
    """A folder with the inputs, a folder for the outputs, and all around them nothing that may change."""

    def __init__(self, root: Path):
        self.root = root
        self.inputs, self.out, self.work = (root / "a" / "b" / name for name in ("in", "out", "work"))
        self.cache = root / "cache"
        os.environ["LORA_GRAFT_CACHE"] = os.environ["XDG_CACHE_HOME"] = str(self.cache)
        self.size = 0

    def fresh(self) -> None:
        """Empty folders."""
        self.size = 0
        for folder in (self.inputs, self.out, self.work, self.cache):
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
        os.chdir(self.work)

    def put(self, name: str, data: bytes | str) -> Path:
        """An input file."""
        path = self.inputs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
        self.size += path.stat().st_size
        return path

    def around(self) -> set[str]:
        """Names of all files but those in the outputs and the cache."""
        kept = (str(self.out), str(self.cache))
        return {
            os.path.join(where, name)
            for where, _, names in os.walk(self.root)
            for name in names
            if not where.startswith(kept)
        }

    def cli(self, *arguments: object, writes: tuple[Path, ...] = (), folder: bool = False) -> str:
        """Runs a command in this process: "right", "refused" or "usage".

        writes: the files that a success leaves in the outputs, all of them. folder: a batch's, which keeps what it has.
        """
        run = self._hold(lambda: _runner().invoke(_command(), [str(a) for a in arguments]))
        self._check_screen(run.stdout + run.stderr)
        if run.exception is not None and not isinstance(run.exception, SystemExit):
            raise Broken("traceback", origin(run.exception))
        there = {Path(where) / name for where, _, names in os.walk(self.out) for name in names}
        partial = [path.name for path in there if path.name.endswith(".part")]
        if partial:
            raise Broken("partial", f"left {partial}")
        if run.exit_code == 0:
            if not folder and there != set(writes):
                raise Broken("partial", f"wrote {sorted(p.name for p in there)}")
            for path in there:
                check_output(path)
            return "right"
        if run.exit_code == 130:
            raise Broken("hang", " ".join(map(str, arguments[:1])))
        if run.exit_code not in (1, 2):
            raise Broken("exit", str(run.exit_code))
        if there and not folder:
            raise Broken("partial", f"failed, and left {sorted(p.name for p in there)}")
        if run.exit_code == 1 and "Error: " not in run.stderr and not folder:
            raise Broken("silent", run.stderr[-200:])
        return "refused" if run.exit_code == 1 else "usage"

    def call(self, work: Callable[[], object], check: Callable[[object], None] | None = None) -> str:
        """Runs a function: "right" or "refused"; only the product's own errors count as refusals."""
        from lora_graft.errors import GraftError

        try:
            result = self._hold(work)
        except GraftError as refusal:
            str(refusal)
            return "refused"
        except Broken:
            raise
        except Exception as error:
            raise Broken("traceback", origin(error)) from error
        if check:
            check(result)
        return "right"

    def _hold(self, work: Callable[[], object]):
        """The result, with an eye on the clock, the memory and the folders around."""
        around, before = self.around(), _resident("VmRSS")
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        for number in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, _ring)
        # Of computing, whatever else the machine does; and by the clock, for waiting. Again each second after that.
        signal.setitimer(signal.ITIMER_PROF, SECONDS, 1)
        signal.setitimer(signal.ITIMER_REAL, 6 * SECONDS, 1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = work()
        except Hang as hang:
            raise Broken("hang", origin(hang)) from None
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
        grown = _resident("VmHWM") - before
        if grown > TIMES * self.size / 2**20 + MEGABYTES:
            raise Broken("memory", f"{grown:.0f} MB for {self.size / 2**20:.1f} MB")
        changed = self.around() ^ around
        if changed:
            raise Broken("outside", ", ".join(sorted(changed)))
        return result

    @staticmethod
    def _check_screen(text: str) -> None:
        found = UNSAFE.search(text)
        if found:
            raise Broken("terminal", f"U+{ord(found[0]):04X} in {text[max(found.start() - 40, 0) : found.end() + 9]!a}")


def _ring(*_) -> None:
    raise Hang


def _resident(field: str) -> float:
    """Megabytes that /proc tells; 0 on systems without it."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return 0.0


def _command():
    from lora_graft.cli.app import app
    from typer.main import get_command

    if not hasattr(_command, "made"):
        _command.made = get_command(app)
    return _command.made


def _runner():
    from click.testing import CliRunner

    return CliRunner()


def origin(error: BaseException) -> str:
    """Where in the product an exception comes from, for telling findings apart."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "lora_graft" in f.filename or "LoRA-Graft" in f.filename
    ]
    frames = [f for f in frames if "/tests/" not in f.filename and "/.venv/" not in f.filename] or frames[-1:]
    where = [f"{'/'.join(Path(f.filename).parts[-2:])}:{f.lineno} {f.name}" for f in frames[-2:]]
    words = re.sub(r"\d{3,}", "N", str(error).encode("ascii", "backslashreplace").decode())[:160]
    return f"{type(error).__name__} in {' > '.join(where) or '?'}: {words}"


def check_output(path: Path) -> None:
    """A file that a success left is whole, and harmless to show."""
    if path.suffix == ".safetensors":
        _check_adapter(path)
    elif path.suffix == ".json":
        json.loads(path.read_text("utf-8"), parse_constant=_no_constant)
    elif path.suffix == ".md":
        check_markdown(path.read_text("utf-8"))


def _no_constant(name: str):
    raise Broken("report", f"{name} in JSON")


def _check_adapter(path: Path) -> None:
    import lora_graft
    import torch
    from safetensors.torch import load_file

    try:
        again = lora_graft.read(path)
    except Exception as error:
        raise Broken("wrong", f"the output cannot be read again: {origin(error)}") from error
    if not again.modules:
        raise Broken("wrong", "the output holds no modules")
    for key, tensor in load_file(path).items():
        if tensor.dtype.is_floating_point and not bool(torch.isfinite(tensor.float()).all()):
            lokr = key.endswith(".alpha")  # of a LoKr with two full factors: means nothing
            if not lokr:
                raise Broken("wrong", f"NaN or Inf in the output at {key[-40:]!a}")


def check_markdown(text: str) -> None:
    """Nothing from the input is more than text when a report is rendered."""
    from markdown_it import MarkdownIt

    if UNSAFE.search(text):
        raise Broken("report", f"control characters: {UNSAFE.search(text)[0]!a}")
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    for token in [*tokens, *(child for one in tokens for child in one.children or ())]:
        if token.type in ("html_block", "html_inline", "image", "link_open", "fence", "code_block", "blockquote_open"):
            raise Broken("report", f"{token.type}: {token.content[:80]!a}")
    for opened, inline in zip(tokens, tokens[1:], strict=False):
        if opened.type == "heading_open" and opened.tag != "h1" and MARK in inline.content:
            raise Broken("report", f"a heading from the input: {inline.content[:80]!a}")
        if opened.type == "heading_open" and inline.content.strip() == MARK:
            raise Broken("report", "a heading from the input")
