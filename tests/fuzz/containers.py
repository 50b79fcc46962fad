"""Safetensors files written by hand, so that a header can promise what the data does not hold, and broken ones."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field
from random import Random

import attacks
import hostile
import torch
from torch import Tensor

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3",
}  # fmt: skip
DTYPES = (*NAMES.values(), "F8_E5M2", "I8", "I16", "U16", "U32", "U64", "C64", "F8_E8M0", "F4", "F6_E2M3", "ZZ", "")
_SUFFIXES = (
    ".lora_up.weight", ".lora_down.weight", ".lora_mid.weight", ".alpha", ".lora_A.weight", ".lora_B.weight", ".diff",
    ".lora_A.default.weight", ".lora_B.bias", ".diff_b", ".dora_scale", ".hada_w1_a", ".hada_t1", ".lokr_w1",
    ".lokr_w2", ".lokr_w1_a", ".lokr_w2_b", ".lokr_t2", ".oft_blocks", ".rescale", ".a1.weight", ".b2.weight", ".ia3_l",
    ".weight", ".on_input", ".set_weight", ".w_norm", ".b_norm", ".reshape_weight", ".lora_magnitude_vector",
    ".lora.up.weight", ".lora_embedding_A", "", ".bias", ".weight_scale", ".scale_weight",
)  # fmt: skip
_SPECIAL = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 3e38, -3e38, 1e-45, 6e4)


@dataclass
class File:
    """Tensors in order, metadata, and what is to be wrong with the header. `header` entries replace the true ones."""

    tensors: dict[str, Tensor]
    metadata: dict = field(default_factory=dict)
    claims: dict[str, dict] = field(default_factory=dict)  # key -> parts of its header entry that lie

    def to_bytes(self, pad: int = 0) -> bytes:
        header, blocks, start = {}, [], 0
        if self.metadata:
            header["__metadata__"] = self.metadata
        for key, tensor in self.tensors.items():
            block = raw(tensor)
            entry = {
                "dtype": NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [start, start + len(block)],
            }
            header[key] = entry | self.claims.get(key, {})
            blocks.append(block)
            start += len(block)
        return packed(json.dumps(header), b"".join(blocks) + bytes(pad))


def raw(tensor: Tensor) -> bytes:
    flat = tensor.contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def packed(header: str | bytes, data: bytes = b"") -> bytes:
    """A file of a header's text and data."""
    text = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def broken(random: Random, file: File) -> bytes:
    """None to four things wrong with a file: in its tensors, its names, its header, its metadata or its bytes."""
    file = File(dict(file.tensors), dict(file.metadata), dict(file.claims))
    roll = random.random()
    if roll < 0.05:
        return file.to_bytes()  # nothing wrong: what is good must go on working
    if roll < 0.2:
        return hostile.bitten(random, file.to_bytes())
    for _ in range(random.choice((1, 1, 2, 4))):
        if not file.tensors:
            break
        key = random.choice(list(file.tensors))
        random.choice(_CHANGES if random.random() < 0.5 else attacks.ALL)(random, file, key)
    data = file.to_bytes(pad=random.choice((0, 0, 0, 0, 8)))
    return hostile.bitten(random, data) if random.random() < 0.05 else data


def _drop(random, file, key):
    del file.tensors[key]


def _rename(random, file, key):
    stem, dot, end = key.partition(".")
    suffix = random.choice(_SUFFIXES)
    odd = hostile.plain_text(random)
    name = random.choice((odd, odd + dot + end, stem + odd + dot + end, stem + suffix, key + odd, odd + suffix))
    file.tensors = {name if k == key else k: t for k, t in file.tensors.items()}


def _double(random, file, key):
    file.tensors[key.partition(".")[0] + random.choice(_SUFFIXES)] = file.tensors[key]


def _add(random, file, key):
    shape = [random.choice((0, 1, 2, 4, 24, 100)) for _ in range(random.randrange(6))]
    shape = shape if math.prod(shape) < 100_000 else [4]
    file.tensors[key.partition(".")[0] + random.choice(_SUFFIXES)] = torch.ones(shape)


def _whole_odd(random, file, key):
    """A module of names alone."""
    odd = hostile.plain_text(random)
    file.tensors |= {odd + ".lora_up.weight": torch.ones(4, 2), odd + ".lora_down.weight": torch.ones(2, 4)}


def _reshape(random, file, key):
    t = file.tensors[key]
    n = t.numel()
    shape = random.choice(
        ((n,), (1, n), (n, 1), (1, 1, n), (n, 1, 1, 1), (1, n, 1, 1), (1, 1, 1, 1, n), (0, n), (n, 0))
    )
    file.tensors[key] = t.reshape(shape) if math.prod(shape) == n else t.new_zeros(shape)


def _transpose(random, file, key):
    t = file.tensors[key]
    file.tensors[key] = t.transpose(0, 1) if t.ndim > 1 else t.reshape(-1)[: t.numel() // 2]


def _cut(random, file, key):
    t = file.tensors[key]
    file.tensors[key] = t[: random.randrange(t.shape[0] + 1)] if t.ndim else t.reshape(1).repeat(3)


def _cast(random, file, key):
    dtype = random.choice(list(NAMES))
    t = file.tensors[key]
    file.tensors[key] = t.float().nan_to_num(0, 0, 0).to(dtype) if dtype != t.dtype else t.double()


def _poison(random, file, key):
    t = file.tensors[key].clone()
    if t.numel() and t.dtype.is_floating_point:
        odd = random.choice(_SPECIAL)
        t.reshape(-1)[random.randrange(t.numel()) if random.random() < 0.7 else slice(None)] = odd
    file.tensors[key] = t


def _alpha(random, file, key):
    stem = key.partition(".")[0]
    odd = random.choice(([], [2.0, 3.0], float("nan"), float("inf"), 0.0, -4.0, 3e38, 1e-40, [[1.0]]))
    file.tensors[stem + ".alpha"] = torch.tensor(odd)


def _claim_shape(random, file, key):
    shape = list(file.tensors[key].shape)
    at = random.randrange(len(shape) + 1)
    file.claims[key] = file.claims.get(key, {}) | {"shape": shape[:at] + [hostile.number(random)] + shape[at + 1 :]}


def _claim_empty(random, file, key):
    """No bytes at all, and a shape as long as one likes."""
    huge = [random.choice((10**6, 10**9, 2**40, 2**63 - 1)), 0]
    random.shuffle(huge)
    file.claims[key] = {"shape": huge, "data_offsets": [0, 0]}


def _claim_offsets(random, file, key):
    near = len(raw(file.tensors[key]))
    odd = [random.choice((hostile.number(random), near, near + 8, 4, 0)) for _ in range(random.choice((2, 2, 2, 1, 3)))]
    file.claims[key] = file.claims.get(key, {}) | {"data_offsets": odd}


def _claim_dtype(random, file, key):
    file.claims[key] = file.claims.get(key, {}) | {"dtype": random.choice(DTYPES)}


def _claim_any(random, file, key):
    which = random.choice(("dtype", "shape", "data_offsets", "ZZ"))
    file.claims[key] = file.claims.get(key, {}) | {which: hostile.value(random)}


def _metadata(random, file, key):
    file.metadata = hostile.changed(random, file.metadata, 0.8)
    if random.random() < 0.7 and isinstance(file.metadata, dict):  # only texts are taken at all
        file.metadata = {
            str(k): v if isinstance(v, str) else hostile.written(random, v) for k, v in file.metadata.items()
        }


_CHANGES = (
    _drop, _rename, _rename, _double, _add, _whole_odd, _reshape, _transpose, _cut, _cast, _poison, _alpha,
    _claim_shape,    _claim_empty, _claim_offsets, _claim_dtype, _claim_any, _metadata, _metadata,
)  # fmt: skip
