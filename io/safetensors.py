"""Safetensors files: tensors on demand, rows by rows, and the same bytes for the same tensors on writing.

A file is: u64 length of the header, the header as JSON (name -> dtype, shape, data_offsets), the data. A read copies
exactly the wanted bytes out of the file: a memory mapping would leave every touched page counted as resident (a whole
2 GB checkpoint after one pass). Written here rather than by the library because its metadata order changes from run
to run.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from operator import index
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from ..errors import AdapterError, GraftError
from ..untrusted import parse_json
from .atomic import whole

# As files spell them; what this version of torch lacks is left out.
DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, dtype)
    for name, dtype in (
        ("F64", "float64"),
        ("F32", "float32"),
        ("F16", "float16"),
        ("BF16", "bfloat16"),
        ("F8_E4M3", "float8_e4m3fn"),
        ("F8_E5M2", "float8_e5m2"),
        ("F8_E8M0", "float8_e8m0fnu"),
        ("C64", "complex64"),
        ("I64", "int64"),
        ("I32", "int32"),
        ("I16", "int16"),
        ("I8", "int8"),
        ("U64", "uint64"),
        ("U32", "uint32"),
        ("U16", "uint16"),
        ("U8", "uint8"),
        ("BOOL", "bool"),
    )
    if hasattr(torch, dtype)
}
_SPELLINGS = {dtype: name for name, dtype in DTYPES.items()}
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
_PICKLED = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
_AGAIN = "Download or copy the file again."
MOST_HEADER = 25_000_000  # bytes; the largest models need two million, metadata with pictures in it some more
MOST_TENSORS = 100_000  # the largest models and adapters have some ten thousand
MOST_AXES = 64  # what torch's own arithmetic takes; real tensors have five


class Entry(NamedTuple):
    """dtype as safetensors spells it, shape, byte offset from the start of the file, and size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


class TensorFile:
    """The header of a safetensors file, and its tensors on demand. Safe to use from several threads.

    Args:
        error: the kind of error that names this file.

    Raises:
        GraftError: (of the kind asked for) missing, a pickle, truncated, or not a safetensors file; the file is named.
    """

    def __init__(self, path: str | os.PathLike, error: type[GraftError] = AdapterError):
        self.path, self.error = Path(path), error
        if not self.path.exists():
            raise error("No such file", file=self.path)
        if self.path.is_dir():
            raise error("This is a folder, not a safetensors file", file=self.path)
        try:
            size = self.path.stat().st_size
            with self.path.open("rb") as file:
                start = file.read(16)
                length = int.from_bytes(start[:8], "little")
                text = start[8:] + file.read(max(length - 8, 0)) if length <= min(size - 8, MOST_HEADER) else b""
        except OSError as problem:
            raise self._unreadable(problem) from problem
        self._guard(start, length, size)
        header = text[:length]
        if header.count(b'"data_offsets"') > MOST_TENSORS:
            raise error(f"The file has more than {MOST_TENSORS} tensors; no model or adapter has", file=self.path)
        try:
            entries = parse_json(header)
            self.metadata = {str(k): str(v) for k, v in (entries.pop("__metadata__", None) or {}).items()}
            self.entries = {name: _entry(value, 8 + length) for name, value in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as problem:
            message = "Not a safetensors file: its header makes no sense"
            raise error(message, file=self.path, hint=_AGAIN) from problem
        self._check(8 + length, size)
        self._header = hashlib.sha256(header).hexdigest()
        self._start = hashlib.sha256(start[:8] + header)

    def _guard(self, start: bytes, length: int, size: int) -> None:
        """Errors that say what the file really is, before anything in it is believed."""
        if size == 0:
            raise self.error("The file is empty", file=self.path, hint=_AGAIN)
        if start[8:9] != b"{":
            if self.path.suffix.lower() in _PICKLES or start.startswith(_PICKLED):
                message = "This is a pickle file: opening one can run any code hidden in it, so it is refused"
                hint = "Use the .safetensors version of it, or convert it with the program that made it."
            elif start.lstrip()[:1] == b"<":
                message, hint = "This is a web page, not a safetensors file: the download failed", _AGAIN
            elif start.startswith(b"version https://"):
                message, hint = "This is a Git LFS pointer, not the file itself", "Fetch the file with 'git lfs pull'."
            else:
                message, hint = "Not a safetensors file" if size > 16 else "The file is truncated", _AGAIN
            raise self.error(message, file=self.path, hint=hint)
        if length > size - 8:
            message = f"The file is truncated: its header alone needs {length + 8} bytes and it has {size}"
            raise self.error(message, file=self.path, hint=_AGAIN)
        if length > MOST_HEADER:
            message = f"The header of the file has {length} bytes; no model's or adapter's has more than {MOST_HEADER}"
            raise self.error(message, file=self.path)

    def _check(self, start: int, size: int) -> None:
        """The tensors fill the file from `start` to its end, each as large as its shape says."""
        ends = max((entry.offset + entry.size for entry in self.entries.values()), default=start)
        end = start
        for name, entry in sorted(self.entries.items(), key=lambda item: item[1].offset):
            dtype = DTYPES.get(entry.dtype)
            if dtype is not None and math.prod(entry.shape) * dtype.itemsize != entry.size:
                raise self.error("A tensor's size contradicts its shape", file=self.path, key=name)
            if entry.offset != end:
                raise self.error("The tensors overlap or leave a gap", file=self.path, key=name, hint=_AGAIN)
            end += entry.size
            if end > size:
                message = f"The file is truncated: it should have {ends} bytes and has {size}"
                raise self.error(message, file=self.path, key=name, hint=_AGAIN)
        if end < size:
            message = f"The file has {size - end} bytes more than its header tells of"
            raise self.error(message, file=self.path, hint=_AGAIN)

    @property
    def stamp(self) -> tuple[int, int]:
        """(modification time in ns, size): changes when the file does."""
        stat = self.path.stat()
        return stat.st_mtime_ns, stat.st_size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape."""
        return {name: entry.shape for name, entry in self.entries.items()}

    def raw(self, key: str, rows: tuple[int, int] | None = None) -> bytearray:
        """The stored bytes of a tensor, or of rows (start, length) of it."""
        entry = self.entries[key]
        offset, size = entry.offset, entry.size
        if rows is not None:
            start, length = rows
            if start < 0 or length < 0 or start + length > entry.shape[0]:
                message = f"Rows {start} to {start + length} lie outside a weight of {entry.shape[0]} rows"
                raise self.error(message, file=self.path, key=key)
            row = entry.size // max(entry.shape[0], 1)
            offset, size = offset + start * row, length * row
        try:
            with open(self.path, "rb", buffering=0) as file:
                return self._read(file, key, offset, size)
        except OSError as problem:
            raise self._unreadable(problem, key) from problem

    def _read(self, file: BinaryIO, key: str, offset: int, size: int) -> bytearray:
        buffer = bytearray(size)
        file.seek(offset)
        view, done = memoryview(buffer), 0
        while done < size and (got := file.readinto(view[done:])):  # pyright: ignore[reportAttributeAccessIssue]
            done += got
        if done < size:
            raise self.error("The file is truncated", file=self.path, key=key, hint=_AGAIN)
        return buffer

    def tensor(self, key: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor, or rows (start, length) of it, as stored, in memory that belongs to the caller.

        Raises:
            GraftError: (of the file's kind) the rows lie outside, the file cannot be read or has become shorter, or
                this version of torch lacks the dtype.
        """
        shape = self.entries[key].shape
        return self._tensor(key, self.raw(key, rows), shape if rows is None else (rows[1], *shape[1:]))

    def _tensor(self, key: str, data: bytearray, shape: tuple[int, ...]) -> Tensor:
        name = self.entries[key].dtype
        if name not in DTYPES:
            message = f"A tensor has a type this version of torch cannot read: {name}"
            raise self.error(message, file=self.path, key=key)
        dtype = DTYPES[name]
        return torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.zeros(shape, dtype=dtype)

    def all(self) -> tuple[dict[str, Tensor], str]:
        """All tensors by name, in the file's order, and the sha256 of the file, in one pass over it."""
        total, found = self._start.copy(), {}
        try:
            with open(self.path, "rb", buffering=0) as file:
                for key, entry in sorted(self.entries.items(), key=lambda item: item[1].offset):
                    data = self._read(file, key, entry.offset, entry.size)
                    total.update(data)
                    found[key] = self._tensor(key, data, entry.shape)
        except OSError as problem:
            raise self._unreadable(problem) from problem
        return found, total.hexdigest()

    def sample(self) -> str:
        """A cheap hash of the file: its header, its size, and 64 bytes from the start and middle of each tensor.

        Any retraining changes it; a change of a few numbers that misses every sampled byte does not.
        """
        state = hashlib.sha256(f"{self._header} {self.stamp[1]}".encode())
        with open(self.path, "rb", buffering=0) as file:
            for name in sorted(self.entries):
                entry = self.entries[name]
                for offset in (entry.offset, entry.offset + entry.size // 2):
                    file.seek(offset)
                    state.update(file.read(min(64, entry.offset + entry.size - offset)))
        return state.hexdigest()

    def _unreadable(self, problem: OSError, key: str | None = None) -> GraftError:
        return self.error(f"The file cannot be read: {problem.strerror or problem}", file=self.path, key=key)


def load(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str], str]:
    """Tensors (in the file's order), metadata and the sha256 of a file.

    Raises:
        AdapterError: no such file, a pickle, not safetensors, truncated, or a dtype that torch does not have.
    """
    file = TensorFile(path)
    tensors, digest = file.all()
    return tensors, file.metadata, digest


def save(
    path: str | os.PathLike,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Writes a file whole or not at all, and never over another unless told; the same content gives the same bytes.

    Raises:
        AdapterError: the file exists, its folder does not, or the disk is full or refuses; nothing is left behind.
    """
    final = Path(path)
    try:
        with whole(final, overwrite=overwrite, sync=True) as file:
            for block in chunks(tensors, metadata):
                file.write(block)
    except FileExistsError as problem:
        raise AdapterError(
            "The output file exists already and was left alone",
            file=final,
            hint="Choose another name, or allow overwriting.",
        ) from problem
    except OSError as problem:
        raise AdapterError(
            f"The file cannot be written: {problem.strerror or problem}",
            file=final,
            hint="Nothing was written. Does the folder exist, is it writable, has it room?",
        ) from problem
    return final


def chunks(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """The bytes of a file, header first. Tensors may share memory or be non-contiguous."""
    header: dict[str, object] = {"__metadata__": {k: metadata[k] for k in sorted(metadata)}} if metadata else {}
    # Widest types first keeps every tensor aligned; within a type the caller's order.
    order = sorted(tensors, key=lambda key: -tensors[key].element_size())
    start = 0
    for key in order:
        tensor = tensors[key]
        end = start + tensor.numel() * tensor.element_size()
        header[key] = {"dtype": _SPELLINGS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for key in order:
        yield _bytes(tensors[key])


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes of a state dict, whatever its order."""
    total = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key]
        total.update(f"{key}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(_bytes(tensor))
    return total.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    """The tensor's values in memory order, little-endian."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def _entry(value: dict, base: int) -> Entry:
    begin, end = map(index, value["data_offsets"])
    shape = tuple(map(index, value["shape"]))
    if begin < 0 or end < begin or any(n < 0 for n in shape):
        raise ValueError("offsets out of order")
    if len(shape) > MOST_AXES or math.prod(max(n, 1) for n in shape) >= 1 << 63:  # also beside a zero
        raise ValueError("a shape that no tensor has")
    return Entry(str(value["dtype"]), shape, base + begin, end - begin)
