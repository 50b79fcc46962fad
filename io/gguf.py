"""A base model's weights in a GGUF file, as float32, row by row.

The header is read here, with limits, because the file may come from anywhere; its quantised blocks are decoded by the
``gguf`` package of llama.cpp (optional extra ``gguf``), which files of F32, F16 and BF16 alone do not need. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, little-endian, versions 2 and 3.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import BaseModelError
from .rounding import FLOATS
from .safetensors import DTYPES, MOST_TENSORS, Entry
from .weights import WeightFile

MAGIC = b"GGUF"
MOST_TEXT = 1 << 20  # bytes in one string; a chat template has some ten thousand
MOST_VALUES = 1 << 24  # values in all arrays; a tokenizer has some hundred thousand
_NUMBERS = "BbHhIif?  Qqd"  # struct letters of value types 0 to 12; 8 is text, 9 an array
_TEXT, _ARRAY = 8, 9
# ggml's type number -> name, values per block, bytes per block.
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
}
BLOCKS = {name: block for name, block, _ in TYPES.values()}
_LANGUAGE = ("blk.", "enc.blk.", "dec.blk.", "v.blk.")
_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
_AT_ONCE = 1 << 22  # values decoded at a time, so that the decoder's own copies stay small
_AGAIN = "Download or copy the file again."


def is_gguf(path: str | os.PathLike) -> bool:
    """Whether a file starts as a GGUF file does."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


class GgufFile(WeightFile):
    """The header of a GGUF file, and its tensors on demand. Entries' dtypes are ggml's names.

    Raises:
        BaseModelError: truncated, no GGUF file, of an unknown version or type, or a language model's; names the file.
    """

    def __init__(self, path: str | os.PathLike):
        self.path, self.error = Path(path), BaseModelError
        try:
            with self.path.open("rb") as file:
                header = _Header(file, self.path)
                size = os.fstat(file.fileno()).st_size
        except OSError as problem:
            raise self._unreadable(problem) from problem
        self.metadata = {name: str(value) for name, value in header.values.items() if isinstance(value, str)}
        self.entries = header.entries
        if any(name.startswith(_LANGUAGE) for name in self.entries):
            kind = header.values.get("general.architecture", "unknown")
            raise self.error(
                f"This GGUF file holds a language model or text encoder ({kind}), not an image or video model",
                file=self.path,
                hint="Give the GGUF file of the diffusion model itself.",
            )
        end = 0
        for name, entry in sorted(self.entries.items(), key=lambda item: item[1].offset):
            if entry.offset < end:
                raise self.error("The tensors overlap", file=self.path, key=name, hint=_AGAIN)
            end = entry.offset + entry.size
            if end > size:
                message = f"The file is truncated: it should have {end} bytes and has {size}"
                raise self.error(message, file=self.path, key=name, hint=_AGAIN)
        self._header = hashlib.sha256(repr(self.entries).encode()).hexdigest()

    def load(self, key: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor (or rows (start, length) of it) as float32.

        Raises:
            BaseModelError: the rows lie outside, the file has become shorter, or the ``gguf`` package is missing.
        """
        entry = self.entries[key]
        if entry.dtype in DTYPES:
            return self.tensor(key, rows).to(torch.float32)
        if rows is not None and math.prod(entry.shape[1:]) % BLOCKS[entry.dtype]:
            return self.load(key)[rows[0] : sum(rows)].clone()  # blocks run across the rows
        shape = entry.shape if rows is None else (rows[1], *entry.shape[1:])
        return self._decode(key, self.raw(key, rows), math.prod(shape)).reshape(shape)

    def storage(self, key: str) -> str:
        return FLOATS.get(self.entries[key].dtype, self.entries[key].dtype)

    def scale_keys(self, key: str) -> list[str]:
        """None: the scales lie inside the blocks."""
        return []

    def _decode(self, key: str, data: bytearray, count: int) -> Tensor:
        name = self.entries[key].dtype
        try:
            import numpy
            from gguf import GGMLQuantizationType
            from gguf.quants import dequantize
        except ImportError as problem:
            message = f"The weight is stored as {name}, which the gguf package decodes, and that is not installed"
            hint = 'pip install "lora-graft[gguf]", or use the fp16, bf16 or fp8 version of this model.'
            raise self.error(message, file=self.path, key=key, hint=hint) from problem
        kind = GGMLQuantizationType[name]
        blocks = numpy.frombuffer(data, numpy.uint8).reshape(count // BLOCKS[name], -1)
        result = torch.empty(count)
        step = max(_AT_ONCE // BLOCKS[name], 1)
        for start in range(0, len(blocks), step):
            values = dequantize(blocks[start : start + step], kind).reshape(-1)
            at = start * BLOCKS[name]
            result[at : at + len(values)] = torch.from_numpy(values)
        return result


class _Header:
    """values: the file's key-value pairs (arrays of text left out); entries: its tensors."""

    def __init__(self, file: BinaryIO, path: Path):
        self._file, self._path, self._left = file, path, MOST_VALUES
        if self._bytes(4) != MAGIC:
            raise self._wrong("it does not start with GGUF")
        version = self._number("I")
        if version not in (2, 3):
            raise self._wrong(f"its version is {version}, known are 2 and 3")
        tensors, pairs = self._number("Q"), self._number("Q")
        if tensors > MOST_TENSORS or pairs > MOST_TENSORS:
            raise self._wrong(f"it tells of {tensors} tensors and {pairs} values; no model has as many")
        self.values: dict[str, Any] = {}
        for _ in range(pairs):
            name = self._text()
            self.values[name] = self._value(self._number("I"))
        infos = [(self._text(), self._dimensions(), self._number("I"), self._number("Q")) for _ in range(tensors)]
        alignment = self.values.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 16:
            raise self._wrong(f"its alignment is {alignment!r}")
        start = -(-file.tell() // alignment) * alignment
        self.entries: dict[str, Entry] = {}
        for name, shape, kind, offset in infos:
            self._place(name, shape, kind, start + offset)

    def _place(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> None:
        if name in self.entries:
            raise self._wrong("two tensors have one name", name)
        if kind not in TYPES:
            raise BaseModelError(
                f"The weight is stored in ggml's type {kind}, which is not known here",
                file=self._path,
                key=name,
                hint="Use a Q8_0, K-quant, fp16 or bf16 version of this model.",
            )
        dtype, block, size = TYPES[kind]
        count = math.prod(shape)
        if (shape[-1] if shape else 1) % block:
            raise self._wrong(f"a row of {shape[-1]} values is no whole number of {dtype} blocks", name)
        original = self.values.get(_ORIGINAL_SHAPE + name)  # how tensors of more than four dimensions are stored
        if isinstance(original, list) and all(isinstance(n, int) and n > 0 for n in original):
            if math.prod(original) != count:
                raise self._wrong("its original shape contradicts its size", name)
            shape = tuple(original)
        self.entries[name] = Entry(dtype, shape, offset, count // block * size)

    def _dimensions(self) -> tuple[int, ...]:
        number = self._number("I")
        if number > 8:
            raise self._wrong(f"a tensor has {number} dimensions")
        return tuple(reversed([self._number("Q") for _ in range(number)]))

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind == _ARRAY:
            return self._array()
        return self._number(self._letter(kind))

    def _array(self) -> list | None:
        kind, count = self._number("I"), self._number("Q")
        self._left -= count
        if self._left < 0:
            raise self._wrong("its arrays have more values than any model's")
        if kind == _TEXT:
            for _ in range(count):
                self._text()
            return None
        if kind == _ARRAY:
            raise self._wrong("an array holds arrays")
        letter = self._letter(kind)
        data = self._bytes(count * struct.calcsize("<" + letter))
        return list(struct.unpack(f"<{count}{letter}", data)) if count <= 1024 else None

    def _letter(self, kind: int) -> str:
        if kind >= len(_NUMBERS) or _NUMBERS[kind] == " ":
            raise self._wrong(f"a value has the unknown type {kind}")
        return _NUMBERS[kind]

    def _number(self, letter: str) -> Any:
        return struct.unpack("<" + letter, self._bytes(struct.calcsize("<" + letter)))[0]

    def _text(self) -> str:
        length = self._number("Q")
        if length > MOST_TEXT:
            raise self._wrong(f"a text has {length} bytes")
        return self._bytes(length).decode("utf-8", "replace")

    def _bytes(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise BaseModelError("The file is truncated within its header", file=self._path, hint=_AGAIN)
        return data

    def _wrong(self, why: str, key: str | None = None) -> BaseModelError:
        return BaseModelError(f"Not a GGUF file that can be read: {why}", file=self._path, key=key, hint=_AGAIN)
