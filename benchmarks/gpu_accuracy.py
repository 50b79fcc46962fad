"""Every kernel on a device against float64 on the CPU, with the process's TF32 switch off and on.

Merge methods, which take float32 and decide on signs and orders, stand against the same method on the CPU, which the
tests hold against dense float64 references.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from lora_graft.kernels.distill.students import STUDENTS
from lora_graft.kernels.lowrank import LowRank
from lora_graft.kernels.merge import METHODS as MERGES
from lora_graft.kernels.precision import full_precision
from lora_graft.kernels.similarity import phi
from lora_graft.kernels.spectral import ROUTES, Subspace, subspace
from lora_graft.kernels.transfer import METHODS as TRANSFERS
from torch import Tensor
from unets import matrix, relative

SHAPE, K, RANK = (640, 768), 96, 8
Check = tuple[str, float, Callable[[], float]]  # kernel, largest error that is right, the error


def accuracy(device: str) -> Iterator[str]:
    """One table row per kernel."""
    for name, limit, error in checks(device):
        found = []
        for allowed in (False, True):
            with tf32(allowed), full_precision():
                found.append(error())
        right = "yes" if max(found) <= limit else "NO"
        yield f"| {name} | {limit:.0e} | {found[0]:.1e} | {found[1]:.1e} | {right} |"


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """What the process says of float32 products outside of the kernels."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def checks(device: str) -> Iterator[Check]:
    """All kernels that the registries know."""
    weight = matrix(SHAPE)
    other = relative(weight, seed=1)
    for route in ROUTES:
        yield f"subspace: {route}", 1e-3, partial(lost, weight, route, device)
    source, target = (subspace(w, K) for w in (weight, other))
    yield "Φ", 1e-4, partial(phi_error, weight, other, device)
    dice = torch.Generator().manual_seed(0)
    updates = [lora(dice) for _ in range(3)]
    for name, transfer in TRANSFERS.items():
        run = partial(lambda run, a, b, updates: run(updates[0], a, b), transfer.run)
        yield f"transfer: {name}", 1e-4, partial(difference, run, updates, (source, target), device, torch.float64)
    for name, merge in MERGES.items():
        run = partial(lambda run, updates: run(updates, RANK).update, merge.run)
        yield f"merge: {name}", 1e-3, partial(difference, run, updates, (), device, torch.float32)
    for name, kind in STUDENTS.items():
        yield f"student: {name}", 1e-4, partial(student_error, kind.create, weight, device)


def lora(dice: torch.Generator) -> LowRank:
    """An update with falling singular values."""
    up = torch.randn(SHAPE[0], RANK, generator=dice) * torch.arange(1, RANK + 1) ** -0.7
    return LowRank(0.01 * up, torch.randn(RANK, SHAPE[1], generator=dice) / SHAPE[1] ** 0.5)


def lost(weight: Tensor, route: str, device: str) -> float:
    """Share of the top K directions that a route misses, the worse of the two sides."""
    found = subspace(weight.to(device), K, route=route)
    u, _, vt = torch.linalg.svd(weight.double(), full_matrices=False)
    return max(1 - phi(u[:, :K], found.left.double().cpu()), 1 - phi(vt[:K].T, found.right.double().cpu()))


def phi_error(weight: Tensor, other: Tensor, device: str) -> float:
    ours = [subspace(w.to(device), K).left for w in (weight, other)]
    exact = [torch.linalg.svd(w.double(), full_matrices=False)[0][:, :K] for w in (weight, other)]
    return abs(phi(*ours) - phi(*exact))


def difference(
    run: Callable[..., LowRank],
    updates: list[LowRank],
    subspaces: tuple[Subspace, ...],
    device: str,
    reference: torch.dtype,
) -> float:
    """Relative Frobenius distance of ΔW on the device in float32 from the same kernel's on the CPU in `reference`."""
    here = run(*[s.to(device) for s in subspaces], updates=[LowRank(*(f.to(device) for f in u)) for u in updates])
    there = run(
        *[_as(s, reference) for s in subspaces], updates=[LowRank(*(f.to(reference) for f in u)) for u in updates]
    )
    exact = there.up.double() @ there.down.double()
    return float((here.up.double().cpu() @ here.down.double().cpu() - exact).norm() / exact.norm())


def _as(found: Subspace, dtype: torch.dtype) -> Subspace:
    return Subspace(found.left.to(dtype), found.values.to(dtype), found.right.to(dtype), found.energy)


def student_error(create: Callable, weight: Tensor, device: str) -> float:
    """The change that a student makes, its parameters moved off their start, on the device against the CPU."""
    changes = []
    for where, dtype in ((device, torch.float32), ("cpu", torch.float64)):
        dice = torch.Generator().manual_seed(0)
        made = create(SHAPE, RANK, None, dice, weight=weight.to(where), device=where, dtype=dtype)
        with torch.no_grad():
            for parameter in made.params.values():
                step = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
                parameter += 0.05 * step.to(parameter)
        change = made.change()
        dense = change.up.detach().double().cpu() @ change.down.detach().double().cpu()
        changes.append(dense if change.gain is None else change.gain.detach().double().cpu()[:, None] * dense)
    return float((changes[0] - changes[1]).norm() / changes[1].norm())
