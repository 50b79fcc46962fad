"""ComfyUI's models with the face of :class:`lora_graft.bases.Base`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ...errors import BaseModelError
from ...kernels.finite import all_finite
from ...names import DENOISER, Names, WeightSlice, names_for
from ...names.guess import guess_architecture
from .work import check_cancelled, device

_SAMPLE = 512  # elements read from each of four places of a weight for a base's fingerprint
_UNSET = ".text_projection.weight"  # random memory in the host when the file has none
_digests: WeakKeyDictionary[torch.nn.Module, dict[tuple, str]] = WeakKeyDictionary()


class HostBase:
    """A MODEL, and a CLIP if given, with the face of :class:`lora_graft.bases.Base`.

    Weights are read one at a time as the host would use them: moved to the compute device, dequantised, patched
    with every LoRA already on the MODEL. Nothing is loaded, moved or changed in the host's own model.

    Args:
        model: the host's MODEL (a ModelPatcher).
        clip: the host's CLIP, or None; without it the base has no text encoder.
    """

    def __init__(self, model, clip=None):
        self._patchers = {True: model} | ({False: clip.patcher} if clip is not None else {})
        self.label = _label(model)

    @cached_property
    def architecture(self) -> str:
        return guess_architecture(self.weights())

    @cached_property
    def loadable(self) -> dict[str, WeightSlice]:
        """Every module key that the host's own loader understands for this base, slices of fused layers included."""
        import comfy.lora

        keys = comfy.lora.model_lora_keys_unet(self._patchers[True].model, {})
        if False in self._patchers:
            keys = comfy.lora.model_lora_keys_clip(self._patchers[False].model, keys)
        return dict(_weight_slices(keys))

    @cached_property
    def names(self) -> Names:
        """The host's keys first, then spellings that only this project reads."""
        ours = names_for(self.weights())
        return Names(
            {**self.loadable, **{k: v for k, v in ours.aliases.items() if k not in self.loadable}},
            kohya=ours.kohya,
            shapes=ours.shapes,
        )

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {}
        for denoiser, patcher in self._patchers.items():
            stored = patcher.model.state_dict().keys()  # without the buffers that no file has
            for group in (patcher.model.named_parameters(), patcher.model.named_buffers()):
                for name, weight in group:
                    if name.startswith(DENOISER) == denoiser and name in stored and weight.ndim:
                        shapes[name] = tuple(weight.shape)
        return shapes

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Canonical name → shape of every weight; of quantised weights the shape they stand for."""
        return dict(self._shapes)

    def load(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """The weight (or rows (start, length) of it), patched, in float32 on the compute device; the caller's own.

        Raises:
            BaseModelError: no such weight, not readable as numbers, or NaN or Inf inside.
            InterruptProcessingException: the user pressed cancel.
        """
        import comfy.lora

        check_cancelled()
        weight = self._float(name)
        patches = self._patcher(name).patches.get(name)
        if patches:
            weight = comfy.lora.calculate_weight(patches, weight, name).float()
        if not all_finite(weight):
            raise BaseModelError("The base model's weight has NaN or Inf inside", file=self.label, key=name)
        return weight if rows is None else weight[rows[0] : rows[0] + rows[1]].clone()

    def storage(self, name: str) -> str:
        """How the host keeps the weight, as ``io.rounding`` names it."""
        return _storage(*_stored(self._patcher(name), name))

    def digest(self, name: str) -> str:
        """Hash of the weight as it is used: of the stored bytes, or of the result where patches are on it."""
        check_cancelled()
        patcher = self._patcher(name)
        patched = name in patcher.patches
        known = _digests.setdefault(patcher.model, {})
        key = (name, str(patcher.patches_uuid) if patched else "")
        if key not in known:
            stored, convert = _stored(patcher, name)
            weight = self.load(name) if patched or _quantised(stored, convert) else stored
            known[key] = _hash(_bytes(weight), weight.dtype, tuple(weight.shape))
        return known[key]

    @cached_property
    def fingerprint(self) -> str:
        """Hash over every weight's name, shape and a sample of its bytes, and over the patches in full."""
        state = hashlib.sha256()
        for name, shape in self._shapes.items():
            if name.endswith(_UNSET):
                continue
            patcher = self._patcher(name)
            state.update(f"{name} {shape}".encode())
            for piece in _sample(_stored(patcher, name)[0]):
                state.update(_bytes(piece))
            for part in _patch_parts(patcher.patches.get(name, ())):
                state.update(_bytes(part) if isinstance(part, Tensor) else part.encode())
        return state.hexdigest()

    def make_room(self) -> None:
        """Ask the host to free memory on the compute device for work on the largest weight."""
        import comfy.model_management as mm

        if device().type != "cpu" and self._shapes:
            largest = max(torch.Size(shape).numel() for shape in self._shapes.values())
            mm.free_memory(8 * 4 * largest, device())

    def _patcher(self, name: str):
        patcher = self._patchers.get(name.startswith(DENOISER))
        if patcher is None or name not in self._shapes:
            raise BaseModelError("The base model has no such weight", file=self.label, key=name)
        return patcher

    def _float(self, name: str) -> Tensor:
        """A fresh float32 copy on the compute device, dequantised, without patches."""
        stored, convert = _stored(self._patcher(name), name)
        weight = stored.to(device())
        if convert is not None:
            weight = convert(weight, inplace=False)
        if _quantised(weight, None):
            weight = weight.dequantize()
        if not weight.is_floating_point() or tuple(weight.shape) != self._shapes[name]:
            raise BaseModelError(
                f"The weight is stored as {weight.dtype} {tuple(weight.shape)} and ComfyUI does not decode it",
                file=self.label,
                key=name,
                hint="Load the base model in fp16, bf16, fp32 or fp8.",
            )
        return weight.to(torch.float32, copy=True)


def _weight_slices(keys: Mapping[str, str | tuple]) -> Iterator[tuple[str, WeightSlice]]:
    """The host's key map as weight slices. Its values: a weight name, or (name, slice) or (name, slice, function)."""
    for key, value in keys.items():
        name, offset, function = (value, None, None) if isinstance(value, str) else (*value, None, None)[:3]
        if offset is not None and offset[0] != 0:
            continue  # a slice of columns; no known model has one
        yield key, WeightSlice(name, None if offset is None else (offset[1], offset[2]), function is not None)


def _stored(patcher, name: str) -> tuple[Tensor, object]:
    """The weight as the host keeps it, before any patch, and the host's function that decodes it (or None)."""
    from comfy.model_patcher import get_key_weight

    weight, _, convert = get_key_weight(patcher.model, name)
    backup = patcher.backup.get(name)
    if backup is not None:  # the model is loaded with its patches baked in
        weight = backup.weight
    if name in patcher.hook_backup:
        weight = patcher.hook_backup[name][0]
    return weight.detach(), convert


def _quantised(weight: Tensor, convert) -> bool:
    try:
        from comfy.quant_ops import QuantizedTensor
    except ImportError:
        QuantizedTensor = ()
    return isinstance(weight, QuantizedTensor) or (convert is not None and not weight.is_floating_point())


def _storage(weight: Tensor, convert) -> str:
    from ...io.rounding import DTYPES, LAYOUT_STORAGE

    if _quantised(weight, None):
        return LAYOUT_STORAGE.get(str(getattr(weight, "_layout_cls", "")), "")
    if convert is not None:
        return str(getattr(getattr(weight, "tensor_type", None), "name", ""))  # as GGUF loaders keep it
    return next((name for name, dtype in DTYPES.items() if dtype == weight.dtype), "")


def _label(model) -> str:
    """The name of the file the MODEL was loaded from, else of its architecture in the host."""
    loader = getattr(model, "cached_patcher_init", None)
    for argument in loader[1] if loader else ():
        path = argument[0] if isinstance(argument, (list, tuple)) and argument else argument
        if isinstance(path, (str, os.PathLike)):
            return Path(path).stem
    return type(model.model).__name__


def _bytes(weight: Tensor):
    return weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _hash(data, *more) -> str:
    state = hashlib.sha256(repr(more).encode())
    state.update(data)
    return state.hexdigest()


def _sample(weight: Tensor) -> Iterable[Tensor]:
    """Four runs of elements spread over the weight, or all of a small one; the pieces of a quantised one."""
    if _quantised(weight, None):
        pieces = [t for t in weight.state_dict("").values() if isinstance(t, Tensor)]
        return [part for piece in pieces for part in _sample(piece)]
    flat = weight.detach().reshape(-1)
    if flat.numel() <= 4 * _SAMPLE:
        return [flat]
    last = flat.numel() - _SAMPLE
    return [flat[start : start + _SAMPLE] for start in (0, last // 3, 2 * last // 3, last)]


def _patch_parts(value) -> Iterator[Tensor | str]:
    """Everything a patch is made of, flattened: tensors, and the rest in words."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _patch_parts(part)
    elif hasattr(value, "weights"):  # the host's own adapter objects
        yield type(value).__name__
        yield from _patch_parts(value.weights)
    else:
        yield getattr(value, "__qualname__", None) or repr(value)
