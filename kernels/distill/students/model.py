"""What a student is: one weight's trainable parameters, the change they make, the tensors of the file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod
from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from ....errors import SettingsError
from ...lowrank import LowRank, concatenate, norm, scale, truncate


class Change(NamedTuple):
    """What a student makes of its layer's weight: W' = gain ∘ (W + up @ down), kernels flattened.

    up: (m, R); down: (R, n·kh·kw); both differentiable, scale alpha/rank folded in.
    gain: (m,) factor on the rows; None means 1 (only DoRA has one).
    """

    up: Tensor
    down: Tensor
    gain: Tensor | None = None


class Student(ABC):
    """One weight's trainable parameters.

    params: name -> leaf tensor that requires grad, in a fixed order; train these in place.
    fixed: name -> constant that `change` needs beside them (made from the base weight, hence the same every time).
    shape: of the weight, (m, n) or (m, n, kh, kw).
    scale: alpha/rank.
    rate_factor: how much faster than a LoRA it learns best, on the learning rate; measured on the example models.
    warm_start_error: relative Frobenius error with which the warm start is met; 0 without one.
    """

    needs_base: ClassVar[bool] = False
    rate_factor: ClassVar[float] = 1.0

    def __init__(
        self,
        shape: tuple[int, ...],
        scale: float,
        params: Mapping[str, Tensor],
        fixed: Mapping[str, Tensor] | None = None,
        *,
        warm_start_error: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.shape, self.scale, self.warm_start_error = tuple(shape), scale, warm_start_error
        placement = {"device": device, "dtype": dtype}
        self.params = {name: t.detach().to(**placement, copy=True).requires_grad_() for name, t in params.items()}
        self.fixed = {name: t.detach().to(**placement) for name, t in (fixed or {}).items()}

    @classmethod
    @abstractmethod
    def create(
        cls,
        weight_shape: tuple[int, ...],
        rank: int,
        alpha: float | None,
        generator: Generator,
        *,
        weight: Tensor | None = None,
        warm_start: LowRank | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Student:
        """A student for a weight of this shape; its ΔW is exactly zero, or as near to `warm_start` as it can be.

        Args:
            weight_shape: (m, n) or (m, n, kh, kw).
            rank: cut to min(m, n·kh·kw), the scale staying alpha/rank as asked for.
            alpha: None for alpha = rank (scale 1).
            generator: of the CPU; the same state gives the same bytes on every device.
            weight: the base weight, where the kind `needs_base`.
            warm_start: (m, n·kh·kw) update to begin from.
            dtype: of the parameters.

        Raises:
            SettingsError: rank below 1, alpha not above 0, `warm_start` or `weight` of another shape, or no `weight`.
        """

    @abstractmethod
    def change(self) -> Change:
        """The change of the weight, differentiable with respect to `params`."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What the adapter file holds for this weight: suffix -> float32 tensor on the CPU."""

    def file_alpha(self, rank: int) -> Tensor:
        """The ``.alpha`` that gives this student's scale to a file of the given rank."""
        return torch.tensor(self.scale * rank, dtype=torch.float32)


def check(
    kind: str,
    needs_base: bool,
    shape: tuple[int, ...],
    rank: int,
    alpha: float | None,
    weight: Tensor | None,
    warm_start: LowRank | None,
) -> None:
    """Raises SettingsError for what :meth:`Student.create` cannot work with."""
    if len(shape) < 2:
        raise SettingsError(f"{kind} trains matrices and kernels, not a weight of shape {tuple(shape)}")
    if rank < 1:
        raise SettingsError(f"rank must be at least 1, got {rank}")
    if alpha is not None and not alpha > 0:
        raise SettingsError(f"alpha must be above 0, got {alpha}", hint="Leave it out for a scale of 1.")
    if needs_base and weight is None:
        raise SettingsError(f"{kind} is made from the base weight, which was not given")
    if weight is not None and tuple(weight.shape) != tuple(shape):
        raise SettingsError(f"the base weight is {tuple(weight.shape)}, the student is for {tuple(shape)}")
    if warm_start is not None and warm_start.shape != flat(shape):
        raise SettingsError(
            f"the update to start from is {warm_start.shape}, the weight is {flat(shape)}",
            hint="Start from an adapter of the target base, or from nothing.",
        )


def flat(shape: tuple[int, ...]) -> tuple[int, int]:
    """(m, n·kh·kw)."""
    return shape[0], prod(shape[1:])


def scale_of(alpha: float | None, rank: int) -> float:
    """alpha/rank; 1 without an alpha."""
    return 1.0 if alpha is None else alpha / rank


def usable_rank(rank: int, shape: tuple[int, ...]) -> int:
    """The rank, at most the weight's own."""
    return min(rank, *flat(shape))


def uniform(generator: Generator, rows: int, columns: int) -> Tensor:
    """(rows, columns) drawn from ±1/√columns, as PyTorch draws the weights of a linear layer."""
    return (torch.rand(rows, columns, generator=generator) * 2 - 1) / columns**0.5


def pair(
    shape: tuple[int, ...], rank: int, alpha_scale: float, generator: Generator, warm_start: LowRank | None
) -> tuple[Tensor, Tensor, float]:
    """Factors (m, rank), (rank, n·kh·kw) with alpha_scale · up @ down = the best cut of `warm_start`, and its error.

    Without one, and in the ranks that it leaves unused, `up` is zero and `down` random, so that gradients flow.
    """
    m, n = flat(shape)
    up, down = torch.zeros(m, rank), uniform(generator, rank, n)
    if warm_start is None:
        return up, down, 0.0
    cut, error = truncate(LowRank(warm_start.up.float(), warm_start.down.float()), rank)
    root = alpha_scale**0.5
    if norm(cut) > 0:
        up[:, : cut.rank] = cut.up.cpu() / root
        down[: cut.rank] = cut.down.cpu() / root
    return up, down, error


def warm_start_error(warm_start: LowRank | None, made: LowRank) -> float:
    """Relative Frobenius distance of what was made from the warm start; 0 without one."""
    if warm_start is None or (size := norm(warm_start)) == 0:
        return 0.0
    up, down = made.up.detach().to(warm_start.up), made.down.detach().to(warm_start.down)
    return norm(concatenate([warm_start, scale(LowRank(up, down), -1)])) / size


def kernel(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A down factor (r, n·kh·kw) as the file holds it, (r, n, kh, kw); matrices stay as they are."""
    return stored(matrix).reshape(-1, *shape[1:])


def column(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An up factor (m, r) as the file holds it, (m, r, 1, 1) for a kernel."""
    return stored(matrix).reshape(*matrix.shape, *[1] * (len(shape) - 2))


def stored(tensor: Tensor) -> Tensor:
    """Detached, on the CPU, float32, contiguous and never the parameter's own memory."""
    return tensor.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)
