"""The oldest stack, that of Automatic1111: Python 3.10, PyTorch 2.1, NumPy 1.26, safetensors 0.4.2.

CI runs the tests on it (``tests/oldest.txt``). What can be told without it is told here, on any stack.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

from .test_imports import PACK, files

# What PyTorch 2.13 and NumPy 2.4 have and PyTorch 2.1.2 and NumPy 1.26.2 do not; compared name by name.
NEWER = {
    "torch": """AcceleratorError Event GradScaler OutOfMemoryError accelerator cond float4_e2m1fn_x2 float8_e4m3fnuz
        float8_e5m2fnuz float8_e8m0fnu get_autocast_dtype get_default_device get_device_module hash_tensor int1 int2
        int3 int4 int5 int6 int7 jagged mtia newaxis rms_norm set_autocast_dtype slice_inverse thread_safe_generator
        uint1 uint16 uint2 uint3 uint32 uint4 uint5 uint6 uint64 uint7 unravel_index while_loop xpu""",
    "torch.autograd": "enforce_grad_layout_policy",
    "torch.backends": "cusparselt kleidiai mha miopen nnpack opt_einsum python_native",
    "torch.backends.cuda": """SDPAParams can_use_cudnn_attention can_use_efficient_attention can_use_flash_attention
        cudnn_sdp_enabled enable_cudnn_sdp is_flash_attention_available preferred_blas_library""",
    "torch.cuda": """GreenContext MemPool caching_allocator_enable device_memory_used get_per_process_memory_fraction
        host_memory_stats is_tf32_supported reset_peak_host_memory_stats tunable use_mem_pool""",
    "torch.nn": "Buffer LPPool3d LinearCrossEntropyLoss RMSNorm attention",
    "torch.nn.functional": "grouped_mm linear_cross_entropy lp_pool3d rms_norm scaled_grouped_mm scaled_mm",
    "torch.optim": "Adafactor Muon",
    "torch.utils._pytree": "tree_leaves",
    "numpy": """acos acosh asin asinh astype atan atan2 atanh bitwise_count bitwise_invert bitwise_left_shift
        bitwise_right_shift bool concat cumulative_prod cumulative_sum isdtype long matrix_transpose matvec permute_dims
        pow strings trapezoid ulong unique_all unique_counts unique_inverse unique_values unstack vecdot vecmat""",
    "numpy.linalg": """cross diagonal matmul matrix_norm matrix_transpose outer svdvals tensordot trace vecdot
        vector_norm""",
    "safetensors": "TensorSpec",
    "safetensors.torch": "TensorSpec",
}
TOO_NEW = {f"{space}.{name}" for space, names in NEWER.items() for name in names.split()}
LIBRARIES = {"torch", "numpy", "safetensors"}


def used(tree: ast.AST) -> Iterator[str]:
    """The full names of what a file takes from the libraries, as ``torch.linalg.svd``."""
    meant = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                if top in LIBRARIES:
                    yield alias.name
                    meant[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in LIBRARIES:
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
                meant[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if parts and isinstance(inner, ast.Name) and inner.id in meant:
            yield ".".join([meant[inner.id], *reversed(parts)])


def shipped() -> dict[str, Path]:
    """What the page, the command line and Python run; nodes belong to a ComfyUI, which asks for more."""
    return {module: path for module, path in files(PACK).items() if not module.startswith("nodes")}


def known(name: str) -> bool:
    """Whether the libraries of this process have it."""
    first, *rest = name.split(".")
    found = importlib.import_module(first)
    for count, part in enumerate(rest, 2):
        try:
            found = getattr(found, part)
        except (AttributeError, AssertionError):  # the second is what torch.backends raises in older releases
            try:
                found = importlib.import_module(".".join([first, *rest][:count]))
            except ImportError:
                return False
    return True


def test_nothing_newer_than_the_oldest_stack():
    asked = {module: set(used(ast.parse(path.read_text(encoding="utf-8")))) for module, path in shipped().items()}
    assert {"torch.linalg.svd", "numpy.ndarray"} <= set().union(*asked.values()), "the test sees the package"
    assert {module: names & TOO_NEW for module, names in asked.items() if names & TOO_NEW} == {}
    assert [name for name in sorted(set().union(*asked.values())) if not known(name)] == []


def test_what_is_newer_is_seen_however_it_is_named():
    text = """if True:
        import numpy as np, torch, torch.nn.functional as F
        from torch import nn
        from torch.nn import RMSNorm
        F.rms_norm, torch.OutOfMemoryError(), nn.Buffer, np.linalg.svdvals, getattr(torch, "uint16", None)
    """
    assert set(used(ast.parse(text))) & TOO_NEW == {
        "torch.nn.functional.rms_norm",
        "torch.nn.RMSNorm",
        "torch.OutOfMemoryError",
        "torch.nn.Buffer",
        "numpy.linalg.svdvals",
    }
