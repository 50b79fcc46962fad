"""A base model in files: one ``.safetensors`` or ``.gguf`` checkpoint, or the components of a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import BaseModelError
from ..io.storage import open_weights
from ..io.weights import WeightFile
from ..kernels.finite import all_finite
from ..names import Names, StoredPart, names_for
from ..names.guess import guess_architecture
from .layout import canonical_parts

Shape = tuple[int, ...]


class Stored(NamedTuple):
    """A canonical weight: the parts that stack up to it (dimension 0), each in its file, and its shape."""

    parts: tuple[tuple[WeightFile, StoredPart], ...]
    shape: Shape


class FileBase:
    """A base model read from files, one weight at a time (see ``Base``)."""

    def __init__(self, path: str | os.PathLike, stored: Mapping[str, Stored], files: list[WeightFile]):
        self.path = Path(path)
        self.label = self.path.stem if self.path.is_file() else self.path.name
        self._stored = dict(stored)
        self._shapes = {name: held.shape for name, held in stored.items()}
        self._files = files
        self._digests: dict[str, tuple[tuple, str]] = {}
        if not self._stored:
            raise BaseModelError("No weights of a model were found", file=self.path)
        self.architecture = guess_architecture(self.weights())

    @classmethod
    def open(cls, path: str | os.PathLike) -> FileBase:
        """One checkpoint file, safetensors or GGUF. Raises BaseModelError (see TensorFile and GgufFile)."""
        file = open_weights(path)
        shapes = file.shapes()
        if sum(".lora_" in name or "_lora." in name for name in shapes) * 2 > len(shapes):
            raise BaseModelError("This file is an adapter, not a base model", file=path)
        try:
            layout = canonical_parts(shapes)
        except (IndexError, KeyError) as error:
            raise BaseModelError(f"The model's weights do not fit together: {error}", file=path) from error
        return cls(path, {n: stack(parts, shapes, {k: file for k in shapes}) for n, parts in layout.items()}, [file])

    @property
    def names(self) -> Names:
        return self._names

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _names(self) -> Names:
        return names_for(self.weights())

    @cached_property
    def _fingerprint(self) -> str:
        """Hash over each file's header, size and a sample of every tensor's bytes (see TensorFile.sample)."""
        return hashlib.sha256(" ".join(file.sample() for file in self._files).encode()).hexdigest()

    @property
    def stamp(self) -> str:
        """Changes when a file does: its path, size, time of change and sampled bytes."""
        files = [(str(file.path.resolve()), *file.stamp) for file in self._files]
        return f"{self.fingerprint} {files}"

    def weights(self) -> dict[str, Shape]:
        return self._shapes

    def load(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        stored = self._find(name)
        if rows is not None and (rows[0] < 0 or rows[1] < 0 or sum(rows) > stored.shape[0]):
            raise BaseModelError(
                f"Rows {rows[0]} to {sum(rows)} lie outside a weight of {stored.shape[0]} rows",
                file=self.path,
                key=name,
            )
        pieces = [_load(file, part) for file, part in _pieces(stored, rows)]
        weight = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if not all_finite(weight):
            raise BaseModelError("The weight contains NaN or Inf", file=self.path, key=name)
        return weight

    def storage(self, name: str) -> str:
        return next((file.storage(part.key) for file, part in self._find(name).parts), "")

    def digest(self, name: str) -> str:
        stored = self._find(name)
        stamp = tuple(file.stamp for file, _ in stored.parts)
        known = self._digests.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        state = hashlib.sha256(repr(stored.shape).encode())
        for file, part in stored.parts:
            state.update(file.raw(part.key, part.rows))
            for scale in file.scale_keys(part.key):
                state.update(file.raw(scale))
        forms = {(file.entries[part.key].dtype, part.transpose) for file, part in stored.parts}
        state.update(repr(sorted(forms)).encode())
        self._digests[name] = (stamp, state.hexdigest())
        return state.hexdigest()

    def _find(self, name: str) -> Stored:
        stored = self._stored.get(name)
        if stored is None:
            raise BaseModelError("The base model has no such weight", file=self.path, key=name)
        return stored


def stack(parts: list[StoredPart], shapes: Mapping[str, Shape], files: Mapping[str, WeightFile]) -> Stored:
    """Where a canonical weight lies and what shape it has.

    Raises:
        BaseModelError: its parts do not stack.
    """
    pieces = [_shape(part, shapes[part.key]) for part in parts]
    if len({piece[1:] for piece in pieces}) > 1:
        raise BaseModelError(
            "The pieces of a fused weight differ in shape", file=files[parts[0].key].path, key=parts[0].key
        )
    return Stored(tuple((files[p.key], p) for p in parts), (sum(piece[0] for piece in pieces), *pieces[0][1:]))


def _shape(part: StoredPart, shape: Shape) -> Shape:
    shape = shape if part.rows is None else (part.rows[1], *shape[1:])
    return tuple(reversed(shape)) if part.transpose else shape


def _pieces(stored: Stored, rows: tuple[int, int] | None) -> Iterator[tuple[WeightFile, StoredPart]]:
    """The parts that rows (start, length) of the stack touch, cut to them."""
    if rows is None:
        yield from stored.parts
        return
    start, stop, at = rows[0], sum(rows), 0
    for file, part in stored.parts:
        base, length = part.rows or (0, _shape(part, file.entries[part.key].shape)[0])
        low, high = max(start, at), min(stop, at + length)
        if low < high or (rows[1] == 0 and at == 0):
            yield file, part._replace(rows=(base + low - at, max(high - low, 0)))
        at += length


def _load(file: WeightFile, part: StoredPart) -> Tensor:
    if not part.transpose:
        return file.load(part.key, part.rows)
    whole = file.load(part.key).T.contiguous()
    return whole if part.rows is None else whole[part.rows[0] : sum(part.rows)].clone()
