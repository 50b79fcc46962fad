"""Slices of fused weights: taking rows of a module, and putting slices together, both exact.

Rows of ΔW = up · down are rows of ``up``. Slices q, k, v of one fused weight become one module whose ``up`` is
block-diagonal: their ranks add up. Taking the slices out again finds the zero blocks and drops them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from ..kernels.lowrank import place_rows, take_rows, used_columns
from ..kernels.lowrank import swap_halves as swapped
from .dora import SCALE, Dora
from .full import Bias, Diff
from .loha import CORES, PAIRS, Loha
from .lokr import Lokr
from .lora import KOHYA, MID, RESHAPE, Lora
from .module import ALPHA, BIASES, AdapterModule

Rows = tuple[int, int]


def plain(module: AdapterModule) -> Lora:
    """LoHa, LoKr and LoCon with a core as an ordinary LoRA with ``alpha``: the same ΔW, exactly factored.

    Raises:
        AdapterError: the module has no factorisation without its base weight.
    """
    if isinstance(module, Lora) and MID not in module.tensors:
        return module if module.spelling == KOHYA else module.in_kohya()
    if not isinstance(module, (Lora, Loha, Lokr)):
        module.fail(
            f"A {module.kind} module has no plain low-rank form without its base weight",
            hint="Keep the layout, or apply it to its base and extract a LoRA.",
        )
    update, kernel = module.low_rank(), module.shape[2:]
    up, down = update.up.reshape(*update.up.shape, *[1] * len(kernel)), update.down.reshape(-1, *module.shape[1:])
    dtype = next(t.dtype for t in module.tensors.values() if t.ndim > 1)
    if dtype.itemsize > 1:
        up, down = up.to(dtype), down.to(dtype)
    tensors = {KOHYA[0]: up.contiguous(), KOHYA[1]: down.contiguous(), ALPHA: torch.tensor(float(down.shape[0]))}
    kept = {s: module.tensors[s] for s in (".diff_b", ".b_norm", RESHAPE) if s in module.tensors}
    bias = module.bias()
    if bias is not None and ".lora_B.bias" in module.tensors:
        kept[".diff_b"] = bias.to(module.tensors[".lora_B.bias"].dtype)
    return Lora(module.key, {**tensors, **kept}, file=module.file)


def take(module: AdapterModule, start: int, length: int) -> AdapterModule | None:
    """The module for rows start:start+length of its weight; None when nothing of it is left.

    Raises:
        AdapterError: the format has no rows of its own (OFT, LoKr as such, magnitudes per input channel ...).
    """
    return _with_rows(module, lambda tensor: take_rows(tensor, start, length).clone())


def swap_halves(module: AdapterModule) -> AdapterModule:
    """The module with the halves of its rows exchanged. Raises AdapterError as :func:`take` does."""
    return _with_rows(module, swapped) or module


def _with_rows(module: AdapterModule, act: Callable[[Tensor], Tensor]) -> AdapterModule | None:
    """The module with `act` done to the rows of its weight; None when nothing of it is left."""
    biases = {s: act(module.tensors[s]) for s in BIASES if s in module.tensors}
    if isinstance(module, Dora):
        inner = _with_rows(module.inner, act)
        if module.suffix == SCALE and (module.shape is None or module.tensors[SCALE].shape[0] != module.shape[0]):
            module.fail("Magnitudes per input channel belong to the whole weight and cannot be split", suffix=SCALE)
        if inner is None:
            module.fail("A slice without a direction cannot keep its magnitudes")
        magnitudes = act(module.tensors[module.suffix])
        return replace(module, tensors={**inner.tensors, module.suffix: magnitudes}, inner=inner)
    if isinstance(module, Lora) and RESHAPE not in module.tensors:
        return _lora_with_rows(module, act, biases)
    if isinstance(module, Loha) and CORES[0] not in module.tensors:
        lefts = {a: act(module.tensors[a]) for a, _ in PAIRS}
        return replace(module, tensors={**module.tensors, **lefts, **biases})
    if isinstance(module, Diff):
        name = module.suffixes[0]
        return replace(module, tensors={**module.tensors, name: act(module.tensors[name]), **biases})
    if isinstance(module, Bias):
        return replace(module, tensors={**module.tensors, **biases})
    return _with_rows(plain(module), act)


def _lora_with_rows(module: Lora, act: Callable[[Tensor], Tensor], biases: dict[str, Tensor]) -> Lora | None:
    up_name, down_name = module.spelling
    up, down = act(module.tensors[up_name]), module.tensors[down_name]
    used = used_columns(up.float())
    rank = int(used.sum())
    if rank == 0:
        return None if not biases else replace(module, tensors={**module.tensors, up_name: up, **biases})
    changes = {up_name: up, **biases}
    if rank < up.shape[1] and MID not in module.tensors:
        changes.update({up_name: up[:, used].contiguous(), down_name: down[used].contiguous()})
        if ALPHA in module.tensors:
            changes[ALPHA] = torch.tensor(module.scale() * rank)
    return replace(module, tensors={**module.tensors, **changes})


def fuse(parts: Sequence[tuple[AdapterModule, Rows]], total: int, key: str) -> AdapterModule:
    """One module for a weight of ``total`` rows from modules for some of its row ranges; the others stay unchanged.

    Raises:
        AdapterError: ranges overlap or exceed the weight, a module has other rows than its range, kinds differ, or the
            format cannot be put together.
    """
    parts = sorted(parts, key=lambda part: part[1][0])
    _check(parts, total)
    first, biases = parts[0][0], _fused_biases(parts, total)
    doras = [(m, rows) for m, rows in parts if isinstance(m, Dora)]
    diffs = [(m, rows) for m, rows in parts if type(m) is Diff]
    if len(doras) == len(parts):
        return _fused_dora(doras, total, key)
    if all(isinstance(m, Bias) for m, _ in parts):
        return Bias(key, biases, file=first.file)
    if len(diffs) == len(parts):
        whole = diffs[0][0].tensors[".diff"].new_zeros(total, *diffs[0][0].shape[1:])
        for module, (start, length) in diffs:
            whole[start : start + length] = module.tensors[".diff"]
        return Diff(key, {".diff": whole, **biases}, file=first.file)
    return _fused_lora(parts, total, key, biases)


def _check(parts: Sequence[tuple[AdapterModule, Rows]], total: int) -> None:
    """Whether sorted parts fit side by side into the weight."""
    for module, (start, length) in parts:
        bias = module.bias() if isinstance(module, Bias) else None
        rows = bias.shape[0] if bias is not None else module.shape[0] if module.shape else length
        if rows != length:
            module.fail(f"The module has {rows} rows, but its slice of the fused weight has {length}")
        if start + length > total:
            module.fail(f"Rows {start} to {start + length} are outside the fused weight, which has {total}")
    for (module, (start, length)), (_, (after, _)) in zip(parts, parts[1:], strict=False):
        if start + length > after:
            module.fail("Two modules change the same rows of one fused weight")


def _fused_dora(parts: Sequence[tuple[Dora, Rows]], total: int, key: str) -> Dora:
    first, modules = parts[0][0], [module for module, _ in parts]
    if sum(length for _, (_, length) in parts) != total:
        first.fail(
            "DoRA changes only some slices of a fused weight; magnitudes for the others are not known",
            hint="Turn the module into a plain update with its base weight first.",
        )
    by_row = all(m.tensors[m.suffix].shape[0] == length for m, (_, length) in parts)
    if len({m.suffix for m in modules}) > 1 or not by_row:
        first.fail("Magnitudes per input channel differ between the slices and cannot be fused")
    inner = fuse([(m.inner, rows) for m, rows in parts], total, key)
    magnitudes = torch.cat([m.tensors[m.suffix] for m in modules])
    return Dora(key, {**inner.tensors, first.suffix: magnitudes}, file=first.file, inner=inner)


def _fused_biases(parts: Sequence[tuple[AdapterModule, Rows]], total: int) -> dict[str, Tensor]:
    found = [(bias, rows) for m, rows in parts if (bias := m.bias()) is not None]
    if not found:
        return {}
    whole = torch.zeros(total)
    for bias, (start, length) in found:
        whole[start : start + length] = bias
    return {".diff_b": whole}


def _fused_lora(parts: Sequence[tuple[AdapterModule, Rows]], total: int, key: str, biases: dict[str, Tensor]) -> Lora:
    parts = [part for part in parts if not isinstance(part[0], Bias)]
    loras = [plain(module) for module, _ in parts]
    scales = [lora.scale() for lora in loras]
    # One alpha serves all slices when their scales agree; otherwise each scale goes into its rows.
    common = scales[0] if all(abs(s - scales[0]) <= 1e-7 * abs(scales[0]) for s in scales) else None
    ups, downs = zip(*[lora.factors() for lora in loras], strict=True)
    dtype = ups[0].dtype if all(t.dtype == ups[0].dtype for t in ups) else torch.float32
    rank = sum(down.shape[0] for down in downs)
    placed = []
    for (module, (start, _)), one, scale in zip(parts, ups, scales, strict=True):
        if len({prod(down.shape[1:]) for down in downs}) > 1:
            module.fail("The slices of one fused weight have different widths")
        placed.append(place_rows(one.flatten(1).float() * (1 if common else scale), start, total))
    tensors = {
        KOHYA[0]: torch.cat(placed, 1).to(dtype),
        KOHYA[1]: torch.cat([down.float() for down in downs]).to(dtype),
        ALPHA: torch.tensor(float(common or 1.0) * rank),
    }
    return Lora(key, {**tensors, **biases}, file=loras[0].file)
