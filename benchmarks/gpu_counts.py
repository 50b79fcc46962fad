"""What a spectral route asks of a device, counted on the CPU: operators (a launch each), products, bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lora_graft.kernels.spectral import ROUTES, SubspaceSize, choose
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode
from unets import matrix

VIEWS = {"view", "t", "transpose", "slice", "select", "expand", "detach", "alias", "unsqueeze", "as_strided", "split"}


class Operators(TorchDispatchMode):
    """Counts operators that compute, and the bytes of all tensors they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.number, self.bytes = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.__name__.split(".")[0] not in VIEWS:
            self.number += 1
            used = [t for t in tree_flatten((args, kwargs, result))[0] if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in used)
        return result


def counts(shapes: dict[tuple[int, int], str], sizes: tuple[SubspaceSize, ...]) -> Iterator[str]:
    """A table: shape, k, route, operators, multiplications and additions of its products, bytes, chosen on a GPU."""
    yield "| weight | k | route | operators | product flops, G | bytes, GB | chosen on a GPU |"
    yield "|---" * 7 + "|"
    for shape in sorted(shapes):
        weight = matrix(shape)
        for size in sizes:
            k = size.resolve(shape)
            chosen = choose(shape, k, "cuda")
            for name, run in ROUTES.items():
                if name == "exact" and chosen != name:
                    continue  # a full SVD on the CPU takes minutes and is one operator
                with FlopCounterMode(display=False) as products, Operators() as operators:
                    found = run(weight, k)
                cells = f"{operators.number} | {products.get_total_flops() / 1e9:.1f} | {operators.bytes / 1e9:.2f}"
                trusted = "" if found is not None else " (not trusted)"
                yield f"| {shape[0]}×{shape[1]} | {k} | {name}{trusted} | {cells} | {'×' if name == chosen else ''} |"
