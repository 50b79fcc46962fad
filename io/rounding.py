"""How far storing a weight in few bits moves it: what tells a base in another storage from another base."""

from __future__ import annotations

import re

import torch
from torch import Tensor

FLOATS = {
    "F64": "fp64",
    "F32": "fp32",
    "F16": "fp16",
    "BF16": "bf16",
    "F8_E4M3": "fp8 (e4m3)",
    "F8_E5M2": "fp8 (e5m2)",
}
DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8 (e4m3)": torch.float8_e4m3fn,
    "fp8 (e5m2)": torch.float8_e5m2,
}
LAYOUT_STORAGE = {  # comfy-kitchen's classes
    "TensorCoreFP8Layout": "scaled fp8",
    "TensorCoreMXFP8Layout": "mxfp8",
    "TensorCoreNVFP4Layout": "nvfp4",
    "TensorWiseINT8Layout": "int8",
    "TensorCoreConvRotW4A4Layout": "int4",
    "AsymW4A8Int8Layout": "int4",
}
# Median ‖stored − full‖ / ‖full‖ of Gaussian weights and of the example models (benchmarks/storage.py), rounded up.
_TYPICAL = {
    "scaled fp8": 0.03,
    "int8": 0.02,
    "mxfp8": 0.03,
    "nf4": 0.1,
    "fp4": 0.13,
    "nvfp4": 0.1,
    "int4": 0.16,
}
_BY_BITS = {8: 0.01, 6: 0.025, 5: 0.05, 4: 0.1, 3: 0.2, 2: 0.4, 1: 0.6}  # GGUF's Q and IQ types
_GGUF = re.compile(r"I?Q(\d)_")


def rounding(storage: str, weight: Tensor) -> float:
    """‖stored − W‖ / ‖W‖ that a storage makes of a weight: measured for plain floats, else what is usual; 0 unknown.

    storage: as ``Base.storage`` names it. weight: float32, any shape.
    """
    dtype = DTYPES.get(storage)
    if dtype is not None:
        size = float(torch.linalg.vector_norm(weight, dtype=torch.float64))
        away = float(torch.linalg.vector_norm(weight.to(dtype).float() - weight, dtype=torch.float64))
        return away / size if size > 0 else 0.0
    if (found := _GGUF.match(storage)) is not None:
        return _BY_BITS.get(int(found[1]), 0.0)
    return _TYPICAL.get(storage, 0.0)
