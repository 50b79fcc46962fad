"""LoRA on fused experts (PEFT's ``target_parameters``): one pair of factors for all experts of a layer, and one each.

A mixture-of-experts layer of transformers 5 holds all experts' weights as one parameter ``experts.gate_up_proj`` or
``experts.down_proj``. PEFT's ``ParamWrapper`` stacks their factors: ``lora_A`` (experts · r, n) expert by expert,
``lora_B`` (m, r · experts) rank by rank, and ΔW of expert e is scale · B[:, e::experts] · A[e·r:(e+1)·r]. Two
parameters of one layer are wrappers around each other, the first one inside: ``experts.base_layer.lora_A`` and
``experts.lora_A``. Here every expert has a module of its own, ``experts.3.down_proj``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import AdapterError
from .lora import PEFT, Lora
from .module import AdapterModule
from .peft_config import PREFIX, Scaled
from .scales import configured

# The parameters of a layer's experts in the order in which models define them, which is that of PEFT's wrappers.
PARAMETERS = ("gate_up_proj", "down_proj")
_ONE = re.compile(r"(?P<layer>.+\.experts)\.(?P<number>[0-9]{1,5})\.(?P<parameter>gate_up_proj|down_proj)$")


def split(modules: Mapping[str, AdapterModule], config: dict[str, Any]) -> dict[str, AdapterModule]:
    """Modules with those of fused experts replaced by one for each expert.

    Raises:
        AdapterError: factors that are no whole number of experts, or a parameter whose place is not known.
    """
    wanted = {str(name).rpartition(".")[2] for name in config.get("target_parameters") or ()}
    found: dict[str, AdapterModule] = {}
    for key, module in modules.items():
        layer = key.removesuffix(".base_layer")
        if not wanted or not layer.endswith(".experts") or not isinstance(module, Lora):
            found[key] = module
            continue
        strange = wanted.difference(PARAMETERS, ("weight",))
        depth = key.count(".base_layer") or int(layer + ".base_layer" in modules)
        inside = [name for name in PARAMETERS if name in wanted]
        if strange or len(inside) <= int(key != layer) or (depth and len(inside) < 2):
            module.fail(f"Which parameter of the experts this changes is not known: {', '.join(sorted(wanted))}")
        parameter = inside[0] if key != layer or not depth else inside[1]
        found |= _each(module, layer, parameter, config)
    return found


def _each(module: Lora, layer: str, parameter: str, config: dict[str, Any]) -> dict[str, AdapterModule]:
    """Every expert's module."""
    name = f"{layer.removeprefix(PREFIX)}.{parameter}"
    one = configured(config, name)
    up, down = module.factors()
    if one is None or one.rank < 1 or down.shape[0] % one.rank:
        each = "no rank" if one is None else f"rank {one.rank}"
        module.fail(f"Factors of rank {down.shape[0]} for all experts, and {each} for each of them, do not fit")
    rank, scale = one
    experts = down.shape[0] // rank
    ups = up.reshape(up.shape[0], rank, experts).permute(2, 0, 1)
    downs = down.reshape(experts, rank, -1)
    return {
        key: Lora(
            key,
            {PEFT[0]: ups[e].contiguous(), PEFT[1]: downs[e].contiguous()},
            config_scale=scale,
            file=module.file,
        )
        for e in range(experts)
        for key in [f"{layer}.{e}.{parameter}"]
    }


def is_fused(key: str, config: dict[str, Any]) -> bool:
    """Whether a module's key stands for one of several experts in a fused parameter."""
    hit, wanted = _ONE.match(key), config.get("target_parameters") or ()
    return hit is not None and any(str(name).rpartition(".")[2] == hit["parameter"] for name in wanted)


def join(modules: Sequence[Lora]) -> tuple[dict[str, Tensor], dict[str, Scaled]]:
    """The stacked tensors by file key, and rank and scale of each parameter by its name.

    Experts of smaller rank get columns of zeros, and where scales differ they go into the factors. Experts that have
    no module change nothing: they get zeros; so do those after the last one, which are unknown, unless `modules` say.

    Raises:
        AdapterError: experts of one parameter have weights of different sizes.
    """
    layers: dict[str, dict[str, dict[int, Lora]]] = {}
    for module in modules:
        hit = _ONE.match(module.key)
        assert hit is not None
        layers.setdefault(hit["layer"], {}).setdefault(hit["parameter"], {})[int(hit["number"])] = module
    count = 1 + max(number for layer in layers.values() for each in layer.values() for number in each)
    tensors: dict[str, Tensor] = {}
    scaled: dict[str, Scaled] = {}
    kinds = [name for name in PARAMETERS if any(name in layer for layer in layers.values())]
    for layer, parameters in layers.items():
        for index, parameter in enumerate(kinds):
            if parameter not in parameters:
                raise AdapterError(
                    f"Other layers change their experts' {parameter}, this one does not, which PEFT cannot express",
                    key=f"{layer}.{parameter}",
                )
            key = f"{layer}.base_layer" if index == 0 and len(kinds) == 2 else layer
            up, down, one = _stacked(parameters[parameter], count)
            tensors |= {key + PEFT[0]: up, key + PEFT[1]: down}
            scaled[f"{layer.removeprefix(PREFIX)}.{parameter}"] = one
    return tensors, scaled


def _stacked(experts: Mapping[int, Lora], count: int) -> tuple[Tensor, Tensor, Scaled]:
    first = next(iter(experts.values()))
    rank = max(module.rank for module in experts.values())
    scales = {module.scale() for module in experts.values()}
    scale = scales.pop() if len(scales) == 1 else 1.0
    (rows, columns), dtype = first.shape, first.factors()[0].dtype
    up, down = torch.zeros(count, rows, rank, dtype=dtype), torch.zeros(count, rank, columns, dtype=dtype)
    for number, module in experts.items():
        if module.shape != (rows, columns):
            module.fail(f"The experts of one layer differ: {module.shape} here, {(rows, columns)} elsewhere")
        one, other = module.factors()
        if scales:  # several
            one = (one.float() * module.scale()).to(dtype)
        up[number, :, : one.shape[1]], down[number, : other.shape[0]] = one, other
    stacked = up.permute(1, 2, 0).reshape(rows, rank * count)
    return stacked.contiguous(), down.reshape(count * rank, columns).contiguous(), Scaled(rank, scale)


def fused_keys(modules: Mapping[str, AdapterModule], config: dict[str, Any]) -> list[Lora]:
    """The modules that stand for fused experts.

    Raises:
        AdapterError: one of them is no plain LoRA.
    """
    found = []
    for key, module in modules.items():
        if is_fused(key, config):
            if not isinstance(module, Lora):
                module.fail(f"PEFT has no {module.kind} for fused experts")
            found.append(module)
    return found
