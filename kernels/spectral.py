"""Truncated singular subspaces of base weights, fast and checked.

Three routes, chosen by shape and k: `lanczos` (block Lanczos, :mod:`.lanczos`), `gram` (eigenvectors of the smaller
Gram matrix, :mod:`.gram`) and `exact` (full SVD). The fast two are tested against float64 on the spot
(:func:`.gram.trusted`) and hand over to the next slower one when they fail.

`torch.svd_lowrank` is not among them on purpose: on weight-like spectra it misses the subspace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .. import choices
from ..errors import BaseModelError, SettingsError
from .gram import PARTIAL, Triplets, gram, gram_matrix
from .lanczos import first_basis, lanczos
from .precision import full_precision
from .threads import by_size

# Part of every cache key: raise it whenever the numbers a route returns may change.
VERSION = "1"


class Subspace(NamedTuple):
    """The top k singular triplets of an (m, n) weight W, by falling singular value.

    left: (m, k) U; values: (k,) σ; right: (n, k) V, all float32 with orthonormal columns, so W V = U diag(σ).
    energy: share of ‖W‖²_F in these k, in [0, 1]; 1 for a zero weight.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    energy: float

    @property
    def k(self) -> int:
        return self.values.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[0]

    def to(self, device: torch.device | str) -> Subspace:
        return Subspace(self.left.to(device), self.values.to(device), self.right.to(device), self.energy)


@dataclass(frozen=True)
class SubspaceSize:
    """How many singular pairs to take: one of k (a number), share (of min(m, n)), energy (of ‖W‖²_F).

    With none given, share = 0.25. The paper (arXiv 2501.16559) takes k = 320 of 1280.

    Raises:
        SettingsError: more than one given, or out of range.
    """

    k: int | None = None
    share: float | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.k, self.share, self.energy)) > 1:
            raise SettingsError("choose one of k, share and energy for the size of the subspace")
        if self.k is not None and self.k < 1:
            raise SettingsError(f"k must be at least 1, got {self.k}")
        for name, value in (("share", self.share), ("energy", self.energy)):
            if value is not None and not 0 < value <= 1:
                raise SettingsError(f"the {name} of the subspace must lie in (0, 1], got {value}")

    @classmethod
    def by(cls, subspace: str, *, share: float, k: int, energy: float) -> SubspaceSize:
        """The size of which a word of ``choices.Subspace.subspaces`` says which of the three values counts."""
        return cls(**{"share": {"share": share}, "fixed": {"k": k}, "energy": {"energy": energy}}[subspace])

    @property
    def needs_spectrum(self) -> bool:
        return self.energy is not None

    def resolve(self, shape: tuple[int, ...], spectrum: Tensor | None = None) -> int:
        """k for a weight of this shape (a convolution counts as m x (n·kh·kw)); `spectrum`: all singular values."""
        rows = shape[0]
        full = min(rows, int(torch.Size(shape[1:]).numel()))
        if self.k is not None:
            return min(self.k, full)
        if self.energy is None:
            return min(max(round((choices.Subspace.k_share if self.share is None else self.share) * full), 1), full)
        if spectrum is None:
            raise SettingsError("a size by energy needs the spectrum of the weight")
        power = spectrum.double().square().cumsum(0)
        if float(power[-1]) == 0:
            return 1
        # A hair below the mark, so that energy=1 does not hang on the last rounding.
        return min(int((power < self.energy * power[-1] * (1 - 1e-12)).sum()) + 1, full)

    def __str__(self) -> str:
        if self.k is not None:
            return f"k={self.k}"
        if self.energy is not None:
            return f"energy={self.energy:g}"
        return f"share={choices.Subspace.k_share if self.share is None else self.share:g}"


def flatten(weight: Tensor) -> Tensor:
    """(m, n, kh, kw, …) as (m, n·kh·kw…)."""
    return weight.flatten(1) if weight.dim() > 1 else weight[:, None]


def exact(weight: Tensor, k: int) -> Triplets:
    """Full SVD (float64 up to 512 wide), truncated to k."""
    work = weight if min(weight.shape) > 512 else weight.double()
    u, s, vt = torch.linalg.svd(work, full_matrices=False)
    return Triplets(u[:, :k].float().contiguous(), s[:k].float(), vt[:k].T.float().contiguous())


# From a name to a route; a fast one answers None when its result fails the test.
ROUTES: dict[str, Callable[[Tensor, int], Triplets | None]] = {"exact": exact, "gram": gram, "lanczos": lanczos}
FALL_BACK = {"lanczos": "gram", "gram": "exact"}


@full_precision()
@by_size
def subspace(weight: Tensor, k: int, *, route: str = "auto") -> Subspace:
    """The top k singular triplets of a weight.

    Args:
        weight: (m, n), any float dtype, on the device where the work shall be done. More dimensions are flattened.
        k: number of triplets, at most min(m, n).
        route: "auto", or one of ROUTES to start from. A result that fails its test is done again by the next route.

    Raises:
        BaseModelError: NaN or Inf in the weight.
        SettingsError: k below 1 or an unknown route.
    """
    if k < 1:
        raise SettingsError(f"k must be at least 1, got {k}")
    weight = flatten(weight).float()
    power = _power(weight)
    k = min(k, *weight.shape)
    if route == "auto":
        route = choose(tuple(weight.shape), k, weight.device.type)
    if route not in ROUTES:
        raise SettingsError(f"unknown spectral route {route!r}", hint=f"Choose one of {', '.join(ROUTES)}.")
    found = ROUTES[route](weight, k)
    while found is None:
        route = FALL_BACK[route]
        found = ROUTES[route](weight, k)
    inside = float(found.values.double().square().sum())
    return Subspace(*found, energy=min(inside / power, 1.0) if power > 0 else 1.0)


@full_precision()
@by_size
def spectrum(weight: Tensor) -> Tensor:
    """All min(m, n) singular values, falling, float64 (from the Gram matrix: good to 1e-8 of the largest)."""
    weight = flatten(weight).double()
    _power(weight)
    return torch.linalg.eigvalsh(gram_matrix(weight)).flip(0).clamp_min(0).sqrt()


def choose(shape: tuple[int, ...], k: int, device: str = "cpu") -> str:
    """The route expected to be fastest for an (m, n) weight.

    On a CPU a count of operations, weighed by the speeds measured on one core (a large product = 1): thin products run
    at 1/2, the reduction to tridiagonal form at about 1/3; a full eigen-solver costs as much as seven reductions at
    full speed. On a GPU products cost next to nothing and Lanczos waits for its many small steps, so that it pays on
    wide weights only.
    """
    short, long = min(shape), max(shape)
    if short <= 128 or 2 * k > short:
        return "exact"
    basis = 1.4 * first_basis(k)
    if device != "cpu":
        return "lanczos" if short > 2048 and 4 * basis < short else "gram"
    by_lanczos = 2 * 4 * short * long * basis + 4 * short * basis**2 + 20 * basis**3
    by_gram = 1.1 * short**2 * long + (2.8 if PARTIAL else 7) * (4 / 3) * short**3 + 2 * short**2 * k
    return "lanczos" if by_lanczos < by_gram and basis < short / 2 else "gram"


def _power(weight: Tensor) -> float:
    """‖W‖²_F in float64, which is finite exactly when all float32 entries are."""
    # Row by row in single precision is fast; what leaves its range is done again in double.
    power = float(torch.linalg.vector_norm(weight, dim=1).double().square().sum())
    if not 1e-30 < power < 1e30:
        power = float(torch.linalg.vector_norm(weight, dtype=torch.float64)) ** 2
    if not power < float("inf"):
        raise BaseModelError("the weight contains NaN or Inf")
    return power
