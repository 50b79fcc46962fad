"""Weights as bitsandbytes stores them in 8 and 4 bits, multiplied out to float32 without that library.

8 bits (LLM.int8, arXiv 2208.07339): int8 values, a row's largest magnitude in ``SCB``; W = value · SCB / 127.
4 bits (QLoRA, arXiv 2305.14314): two values a byte, the first in the high half, each an index into ``quant_map``,
times its block's ``absmax``. With double quantisation ``absmax`` is itself stored so, with an offset.
"""

from __future__ import annotations

import os
import re
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import BaseModelError
from ..untrusted import parse_json
from .weights import WeightFile

_STATE = re.compile(r"(?P<key>.+)\.quant_state\.bitsandbytes__(nf4|fp4)$")
MARKS = (".quant_state.bitsandbytes__", ".SCB")  # in the names of a file with such weights
_BESIDE = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
_OF_MODULE = (".SCB", ".weight_format")


class _State(NamedTuple):
    """kind: nf4 or fp4. shape: of the weight. block: values that share a scale; nested_block: scales that share one;
    offset: what is added to nested scales.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    block: int
    nested_block: int
    offset: float


class QuantisedFile(WeightFile):
    """A safetensors file of a model in 8 or 4 bits; weights that are stored as they are read as ever.

    Raises:
        BaseModelError: a weight whose description makes no sense; the key is named.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__(path)
        self._states: dict[str, _State] = {}
        self._beside: set[str] = {name for name in self.entries if name.endswith(_OF_MODULE)}
        for name in list(self.entries):
            hit = _STATE.match(name)
            key = hit["key"] if hit else ""
            if hit is None or key not in self.entries:
                continue
            state = self._states[key] = self._state(name, key)
            self.entries[key] = self.entries[key]._replace(shape=state.shape)
            self._beside |= {name, *(key + suffix for suffix in _BESIDE)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, shape in super().shapes().items() if name not in self._beside}

    def load(self, key: str, rows: tuple[int, int] | None = None) -> Tensor:
        if key in self._states:
            weight = self._four_bits(key, self._states[key])
            return weight if rows is None else weight[rows[0] : sum(rows)].clone()
        scale = key.removesuffix(".weight") + ".SCB"
        if self.entries[key].dtype != "I8" or scale not in self.entries:
            return super().load(key, rows)
        values, largest = self.tensor(key, rows).float(), self.tensor(scale).float().flatten()
        if largest.numel() != self.entries[key].shape[0]:
            raise BaseModelError("The weight's scales are not one for each row", file=self.path, key=scale)
        largest = largest if rows is None else largest[rows[0] : sum(rows)]
        return values.mul_(largest[:, None] / 127)

    def storage(self, key: str) -> str:
        if key in self._states:
            return self._states[key].kind
        return "int8" if self.entries[key].dtype == "I8" else super().storage(key)

    def scale_keys(self, key: str) -> list[str]:
        if key in self._states:
            return [self._states[key].name, *(key + suffix for suffix in _BESIDE if key + suffix in self.entries)]
        scale = key.removesuffix(".weight") + ".SCB"
        return [scale] if scale in self.entries else super().scale_keys(key)

    def _state(self, name: str, key: str) -> _State:
        try:
            found: dict[str, Any] = parse_json(bytes(self.raw(name)))
            state = _State(
                name,
                name.rpartition("__")[2],
                tuple(int(n) for n in found["shape"]),
                int(found["blocksize"]),
                int(found.get("nested_blocksize") or 0),
                float(found.get("nested_offset") or 0.0),
            )
            size, count = self.entries[key].size, prod(state.shape)
            if min(*state.shape, state.block) < 1 or (count + 1) // 2 != size or self.entries[key].dtype != "U8":
                raise ValueError(f"{size} bytes for {state.shape}")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as problem:
            raise BaseModelError(
                f"What the file says of a weight in 4 bits makes no sense: {problem}", file=self.path, key=name
            ) from problem
        return state

    def _four_bits(self, key: str, state: _State) -> Tensor:
        packed = torch.frombuffer(self.raw(key), dtype=torch.uint8)
        codes = torch.stack([packed >> 4, packed & 15], 1).flatten()[: prod(state.shape)]
        try:
            scales = self.tensor(key + ".absmax").flatten()
            if scales.dtype == torch.uint8:
                of_scales = self.tensor(key + ".nested_absmax").float().flatten()
                levels = self.tensor(key + ".nested_quant_map").float().flatten()
                scales = _times(levels[scales.long()], of_scales, state.nested_block) + state.offset
            values = self.tensor(key + ".quant_map").float().flatten()[codes.long()]
            return _times(values, scales.float(), state.block).reshape(state.shape)
        except (KeyError, IndexError, ValueError) as problem:
            raise BaseModelError(
                f"The weight's scales in 4 bits do not fit it: {problem}", file=self.path, key=key
            ) from problem


def _times(values: Tensor, scales: Tensor, block: int) -> Tensor:
    """Each value times the scale of its block."""
    if block < 1 or scales.numel() != -(-values.numel() // block):
        raise ValueError(f"{scales.numel()} scales for {values.numel()} values in blocks of {block}")
    return values * scales.repeat_interleave(block)[: values.numel()]
