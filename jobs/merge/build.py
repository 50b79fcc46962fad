"""The modules that a merge or a resize writes: factors with what rides on them, or dense changes added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...adapters import AdapterModule
from ...adapters.full import Bias, Diff, Norm
from ...adapters.lora import PEFT, RESHAPE, Lora
from ...errors import AdapterError
from ...kernels.finite import all_finite
from .targets import MergeTarget
from .task_vectors import TaskVector


def summed(
    key: str, vectors: Sequence[TaskVector], shape: tuple[int, ...], like: AdapterModule, dtype: torch.dtype
) -> AdapterModule:
    """Task vectors added up as ``diff``, ``norm`` or ``bias``, whichever ``like`` is; shape: of the weight."""
    bias = _bias(vectors)
    dense_updates = [update for vector in vectors if (update := vector.as_dense(shape)) is not None]
    norm = isinstance(like, Norm) or (isinstance(like, Bias) and ".b_norm" in like.tensors)
    biases = {} if bias is None else {".b_norm" if norm else ".diff_b": bias.to(dtype)}
    if not dense_updates:
        return Bias(key, biases, file=like.file)
    kind = Norm if norm else Diff
    whole = torch.stack(dense_updates).sum(0).to(dtype).contiguous()
    return kind(key, {kind.suffixes[0]: whole, **biases}, file=like.file)


def with_rest(module: Lora, vectors: Sequence[TaskVector], target: MergeTarget) -> Lora:
    """The merged factors with the bias change and the padded shape that the sources brought."""
    bias = _bias(vectors)
    tensors = dict(module.tensors)
    if bias is not None:
        # beside PEFT's factors the bias of B, which PEFT and diffusers read and scale as they scale the factors
        suffix = ".lora_B.bias" if module.spelling == PEFT and module.scale() == 1 else ".diff_b"
        tensors[suffix] = bias.to(tensors[module.spelling[0]].dtype)
    padded = [c.module.tensors[RESHAPE] for c in target.contributions if RESHAPE in c.module.tensors]
    if padded:
        tensors[RESHAPE] = padded[0]
    return replace(module, tensors=tensors)


def finite(module: AdapterModule) -> AdapterModule:
    """The module; AdapterError when values of it do not fit its dtype."""
    for suffix, tensor in module.tensors.items():
        if tensor.dtype.is_floating_point and not all_finite(tensor):
            raise AdapterError(
                f"The merged values do not fit {str(tensor.dtype).removeprefix('torch.')}",
                key=module.key + suffix,
                hint="Write the result as fp32 or bf16, or choose smaller strengths.",
            )
    return module


def _bias(vectors: Sequence[TaskVector]) -> Tensor | None:
    found = [vector.bias for vector in vectors if vector.bias is not None]
    return torch.stack(found).sum(0) if found else None
