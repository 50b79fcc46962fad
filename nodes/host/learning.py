"""What a network needs while it learns: tensors that autograd may keep, and blocks that are computed twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LARGE = 250_000  # numbers in a weight
LAYERS = (nn.Linear, nn.Conv2d)
NORMS = (nn.LayerNorm, nn.RMSNorm)
CONTAINERS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


@contextmanager
def ordinary_tensors(module: nn.Module) -> Iterator[None]:
    """Parameters and buffers made in inference mode, which the host loads models in, cannot be kept for a backward
    pass; within this, ordinary tensors on the same memory stand in for them.
    """
    swapped: list[tuple[dict, str, Tensor]] = []
    try:
        for part in module.modules():
            for store in (part._parameters, part._buffers):
                for name, tensor in store.items():
                    if tensor is not None and tensor.is_inference():
                        swapped.append((store, name, tensor))
                        store[name] = _same_memory(tensor)
        yield
    finally:
        for store, name, tensor in swapped:
            store[name] = tensor


def _same_memory(tensor: Tensor) -> Tensor:
    if type(tensor) not in (Tensor, nn.Parameter):
        view = tensor.detach().clone()  # a quantised weight: its pieces are small
    else:
        view = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        view.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
    return nn.Parameter(view, requires_grad=False) if isinstance(tensor, nn.Parameter) else view


@contextmanager
def checkpointed(network: nn.Module) -> Iterator[None]:
    """Every block of the network keeps only its inputs for the backward pass and computes the rest again."""
    wrapped = []
    try:
        for block in blocks(network):
            block.forward = _again(block)
            wrapped.append(block)
        yield
    finally:
        for block in wrapped:
            del block.forward


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The smallest modules that hold several layers (transformer and residual blocks), and large layers outside them:
    the host keeps half-precision weights as they are and makes a copy in the computation's own at every pass.
    """
    for child in network.children():
        layers = [part for part in child.modules() if isinstance(part, LAYERS)]
        if isinstance(child, CONTAINERS) or _has_list(child):
            yield from blocks(child)
        elif len(layers) > 1 or any(layer.weight.numel() > LARGE for layer in layers):
            yield child


def _has_list(module: nn.Module) -> bool:
    return any(isinstance(part, nn.ModuleList) and _wide(part) for part in module.modules() if part is not module)


def _wide(parts: nn.ModuleList) -> bool:
    """Whether the list's members are blocks themselves."""
    return any(sum(1 for p in part.modules() if isinstance(p, LAYERS)) > 1 for part in parts)


def _again(block: nn.Module):
    forward = block.forward

    def anew(*args, **kwargs):
        return forward(*map(_own, args), **{name: _own(value) for name, value in kwargs.items()})

    def run(*args, **kwargs):
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # Some blocks write into their inputs, which the second pass needs as they were.
        return checkpoint(forward if isinstance(block, LAYERS) else anew, *args, use_reentrant=False, **kwargs)

    return run


@contextmanager
def sparing(network: nn.Module) -> Iterator[None]:
    """Norms get a copy of their input: they keep it for the backward pass, and some networks (Flux) add to it in place
    later on.
    """
    hooks = [part.register_forward_pre_hook(_own_input) for part in network.modules() if isinstance(part, NORMS)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _own_input(module: nn.Module, inputs: tuple):
    return tuple(map(_own, inputs)) if torch.is_grad_enabled() else None


def _own(value):
    return value.clone() if isinstance(value, Tensor) else value
