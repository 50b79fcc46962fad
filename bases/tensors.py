"""One ``.safetensors`` file read tensor by tensor, rows by rows, nothing kept resident.

A read copies exactly the wanted bytes out of the file. A memory mapping would leave every touched page counted
as resident (a whole 2 GB checkpoint after one pass); this way the only memory in use is the weight asked for.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from operator import index
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import BaseModelError
from ..untrusted import parse_json

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_SIZES = {
    "I64": 8,
    "U64": 8,
    "I32": 4,
    "U32": 4,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "C64": 8,
    "F8_E8M0": 1,
}
_LIBRARY = 100_000_000  # bytes of a header that the format allows
_MOST_TENSORS = 100_000
_MAX_HEADER = 25_000_000  # bytes; the largest models need two million
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


class Entry(NamedTuple):
    """dtype as safetensors spells it, shape, and byte offset from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


class TensorFile:
    """The header of a safetensors file, and its tensors on demand. Safe to use from several threads.

    Raises:
        BaseModelError: missing, a pickle, truncated, or not a safetensors file; the file is named.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            raise BaseModelError("The base model file does not exist", file=self.path)
        size = self.path.stat().st_size
        with open(self.path, "rb") as file:
            start = file.read(8)
            _refuse_pickle(self.path, start)
            if len(start) < 8:
                raise BaseModelError("The file is truncated: it is shorter than a safetensors header", file=self.path)
            (length,) = struct.unpack("<Q", start)
            if length > _LIBRARY:
                raise BaseModelError("This is not a safetensors file", file=self.path)
            if 8 + length > size:
                raise BaseModelError("The file is truncated inside its header", file=self.path, hint=_AGAIN)
            if length > _MAX_HEADER:
                raise BaseModelError(
                    f"The header of the file has {length} bytes; no model's has more than {_MAX_HEADER}", file=self.path
                )
            raw = file.read(length)
        if raw.count(b'"data_offsets"') > _MOST_TENSORS:
            raise BaseModelError(f"The file has more than {_MOST_TENSORS} tensors; no model has", file=self.path)
        try:
            header = parse_json(raw)
            self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
            self.entries = {name: _entry(value, 8 + length) for name, value in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise BaseModelError("This is not a safetensors file: its header cannot be read", file=self.path) from error
        self._check(size)
        self._header = hashlib.sha256(raw).hexdigest()

    def _check(self, size: int) -> None:
        for name, entry in self.entries.items():
            width = _width(entry.dtype)
            if width and math.prod(entry.shape) * width != entry.size:
                raise BaseModelError("A tensor's size contradicts its shape", file=self.path, key=name)
            if entry.offset + entry.size > size:
                raise BaseModelError(
                    "The file is truncated: a tensor reaches past its end", file=self.path, key=name, hint=_AGAIN
                )

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
                raise BaseModelError(
                    f"Rows {start} to {start + length} lie outside a weight of {entry.shape[0]} rows",
                    file=self.path,
                    key=key,
                )
            row = entry.size // max(entry.shape[0], 1)
            offset, size = offset + start * row, length * row
        buffer = bytearray(size)
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(offset)
                view, done = memoryview(buffer), 0
                while done < size and (got := file.readinto(view[done:])):
                    done += got
        except OSError as error:
            raise BaseModelError(f"The file cannot be read: {error}", file=self.path, key=key) from error
        if done < size:
            raise BaseModelError("The file is truncated", file=self.path, key=key, hint=_AGAIN)
        return buffer

    def load(self, key: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor (or rows of it) as float32, multiplied by its fp8 scale when the file carries one.

        Raises:
            BaseModelError: quantised in a way that is not a plain scale.
        """
        entry = self.entries[key]
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None:
            what = f"The weight is stored as {entry.dtype}, which is not a plain floating-point format"
            raise BaseModelError(what, file=self.path, key=key, hint=_PLAIN)
        shape = entry.shape if rows is None else (rows[1], *entry.shape[1:])
        data = self.raw(key, rows)
        stored = torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.zeros(shape, dtype=dtype)
        weight = stored if dtype == torch.float32 else stored.to(torch.float32)
        scale = self._scale(key)
        if scale is None:
            return weight
        if rows is not None and scale.numel() > 1:
            scale = scale[rows[0] : rows[0] + rows[1]]
        return weight.mul_(scale.reshape(-1, *[1] * (len(shape) - 1)) if scale.numel() > 1 else scale.reshape(()))

    def scale_keys(self, key: str) -> list[str]:
        """Names of the stored tensors that scale this one (ComfyUI's and the older scaled fp8)."""
        module = key.removesuffix(".weight")
        return [
            name
            for name in (f"{module}.weight_scale", f"{module}.scale_weight")
            if key.endswith(".weight") and name in self.entries
        ]

    def _scale(self, key: str) -> Tensor | None:
        names = self.scale_keys(key)
        if not names:
            return None
        entry = self.entries[names[0]]
        rows, count = self.entries[key].shape[0], math.prod(entry.shape)
        if entry.dtype not in ("F32", "F16", "BF16") or count not in (1, rows):
            what = "The weight is quantised in blocks, which cannot be read here"
            raise BaseModelError(what, file=self.path, key=key, hint=_PLAIN)
        return torch.frombuffer(self.raw(names[0]), dtype=_DTYPES[entry.dtype]).float()

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


_AGAIN = "Copy or download the file again."
_PLAIN = "Use the fp16, bf16 or fp8 version of this model."


def _refuse_pickle(path: Path, start: bytes) -> None:
    pickled = start[:2] == b"\x80\x02" or start[:4] == b"PK\x03\x04"
    if pickled or path.suffix.lower() in _PICKLES:
        raise BaseModelError(
            "This is a pickled model; such files can run code and are refused",
            file=path,
            hint="Use the .safetensors version of this model.",
        )


def _width(dtype: str) -> int:
    return _DTYPES[dtype].itemsize if dtype in _DTYPES else _SIZES.get(dtype, 0)


def _entry(value: dict, base: int) -> Entry:
    begin, end = map(index, value["data_offsets"])
    shape = tuple(map(index, value["shape"]))
    if begin < 0 or end < begin or any(n < 0 for n in shape):
        raise ValueError("offsets out of order")
    return Entry(str(value["dtype"]), shape, base + begin, end - begin)
