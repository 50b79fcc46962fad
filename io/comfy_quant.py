"""Weights in ComfyUI's quantised layouts (nvfp4, mxfp8, int8, int4), multiplied out to float32.

Each quantised module carries a small JSON, ``<module>.comfy_quant`` or its entry in the file's
``_quantization_metadata``, that names the layout. comfy-kitchen, the library with which ComfyUI itself reads them
(optional extra ``quantised``; a ComfyUI has it), does the arithmetic. Plain fp8 with a scale needs no library.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import BaseModelError
from ..untrusted import parse_json
from .rounding import LAYOUT_STORAGE
from .weights import WeightFile

NOTE, METADATA = ".comfy_quant", "_quantization_metadata"
_LONGEST_NOTE = 1 << 16  # bytes; real ones have a hundred
_INSTEAD = "Use the fp16, bf16 or fp8 version of this model."
_INSTALL = f"pip install comfy-kitchen. {_INSTEAD[:-1]} otherwise."


class _Layout(NamedTuple):
    """name: of comfy-kitchen's class. stored: dtypes of the values in a file. packed: values per stored element.
    scales: suffix behind ``.weight`` → (the class's parameter, the dtype it is viewed as, whether it must be there).
    values: what stored bytes are viewed as. options: the class's further parameters from the module's note.
    """

    name: str
    stored: tuple[str, ...]
    packed: int
    scales: Mapping[str, tuple[str, torch.dtype | None, bool]]
    values: torch.dtype | None = None
    options: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda note: {}


def _rotation(note: Mapping[str, Any]) -> dict[str, Any]:
    return {"convrot_groupsize": int(note.get("convrot_groupsize", 256))}


_FP8, _E8M0 = torch.float8_e4m3fn, getattr(torch, "float8_e8m0fnu", None)
_SCALE = {"_scale": ("scale", None, True)}
LAYOUTS = {
    "nvfp4": _Layout(
        "TensorCoreNVFP4Layout",
        ("U8",),
        2,
        {"_scale_2": ("scale", None, True), "_scale": ("block_scale", _FP8, True)},
    ),
    "mxfp8": _Layout("TensorCoreMXFP8Layout", ("F8_E4M3", "U8"), 1, {"_scale": ("scale", _E8M0, True)}, _FP8),
    "int8_tensorwise": _Layout(
        "TensorWiseINT8Layout",
        ("I8",),
        1,
        _SCALE,
        options=lambda note: {"convrot": True, **_rotation(note)} if note.get("convrot") else {},
    ),
    "convrot_w4a4": _Layout("TensorCoreConvRotW4A4Layout", ("I8",), 2, _SCALE, options=_rotation),
    "asym_w4a8_int8": _Layout(
        "AsymW4A8Int8Layout",
        ("I8",),
        2,
        {
            "_s_rel": ("scale", _FP8, True),
            "_s_channel": ("s_channel", None, True),
            "_codebook": ("codebook", None, False),
            "_correction": ("correction", None, False),
        },
        options=lambda note: {"group_size": int(note.get("group_size", 16)), **_rotation(note)},
    ),
}
_PLAIN = ("float8_e4m3fn", "float8_e5m2")  # a weight times its scale, as WeightFile reads it
_BESIDE = tuple({f".weight{suffix}" for layout in LAYOUTS.values() for suffix in layout.scales}) + (
    NOTE,
    ".input_scale",
    ".pre_quant_scale",
)


class ComfyQuantFile(WeightFile):
    """A safetensors file with quantised modules; weights that are stored as they are read as ever.

    Weights whose sizes ComfyUI filled up to a multiple of 16 (nvfp4) or 32 (mxfp8) keep the filling, which is zeros.

    Raises:
        BaseModelError: a module's note makes no sense, its layout is unknown, or a scale is missing; the key is named.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__(path)
        self._notes: dict[str, tuple[_Layout, dict[str, Any]]] = {}
        for module, (key, note) in self._found().items():
            weight = f"{module}.weight"
            kind = note.get("format")
            if kind in _PLAIN or weight not in self.entries:
                continue
            if not isinstance(kind, str) or kind not in LAYOUTS:
                known = ", ".join((*_PLAIN, *LAYOUTS))
                raise BaseModelError(
                    f"The layout {str(kind)[:40]!r} of this weight is not known here; known: {known}",
                    file=self.path,
                    key=key,
                    hint=_INSTEAD,
                )
            self._add(weight, LAYOUTS[kind], note)

    def _found(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Module → (where its note stands, the note)."""
        found: dict[str, tuple[str, dict[str, Any]]] = {}
        if METADATA in self.metadata:
            layers = self._parsed(METADATA, self.metadata[METADATA].encode()).get("layers")
            if not isinstance(layers, dict) or not all(isinstance(note, dict) for note in layers.values()):
                raise self._senseless(METADATA, "no table of layers")
            found |= {name: (METADATA, _flat(note)) for name, note in layers.items()}
        for key, entry in self.entries.items():
            if key.endswith(NOTE):
                if entry.size > _LONGEST_NOTE:
                    raise self._senseless(key, f"{entry.size} bytes")
                found[key.removesuffix(NOTE)] = (key, _flat(self._parsed(key, bytes(self.raw(key)))))
        return found

    def _parsed(self, key: str, text: bytes) -> dict[str, Any]:
        try:
            note = parse_json(text)
        except ValueError as problem:
            raise self._senseless(key, problem) from problem
        if not isinstance(note, dict):
            raise self._senseless(key, "no table")
        return note

    def _senseless(self, key: str, why: object) -> BaseModelError:
        return BaseModelError(
            f"What the file says of a quantised weight makes no sense: {why}", file=self.path, key=key
        )

    def _add(self, weight: str, layout: _Layout, note: dict[str, Any]) -> None:
        entry = self.entries[weight]
        if entry.dtype not in layout.stored or len(entry.shape) != 2:
            raise self._senseless(weight, f"{entry.dtype} of shape {entry.shape} for {layout.name}")
        for suffix, (_, _, needed) in layout.scales.items():
            if needed and weight + suffix not in self.entries:
                raise BaseModelError(
                    f"The quantised weight lacks its scale {weight + suffix}", file=self.path, key=weight
                )
        try:
            layout.options(note)
        except (TypeError, ValueError, OverflowError) as problem:
            raise self._senseless(weight, problem) from problem
        self._notes[weight] = (layout, note)
        self.entries[weight] = entry._replace(shape=(entry.shape[0], entry.shape[1] * layout.packed))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, shape in super().shapes().items() if not name.endswith(_BESIDE)}

    def storage(self, key: str) -> str:
        return LAYOUT_STORAGE.get(self._notes[key][0].name, "") if key in self._notes else super().storage(key)

    def scale_keys(self, key: str) -> list[str]:
        if key not in self._notes:
            return super().scale_keys(key)
        module = key.removesuffix(".weight")
        return [
            name for name in (module + NOTE, *(key + s for s in self._notes[key][0].scales)) if name in self.entries
        ]

    def load(self, key: str, rows: tuple[int, int] | None = None) -> Tensor:
        if key not in self._notes:
            return super().load(key, rows)
        layout, note = self._notes[key]
        kind = getattr(_kitchen(self.path), layout.name)
        scales = {
            name: self._viewed(key + suffix, dtype)
            for suffix, (name, dtype, _) in layout.scales.items()
            if key + suffix in self.entries
        }
        shape = self.entries[key].shape
        try:
            values = self._tensor(key, self.raw(key), (shape[0], shape[1] // layout.packed))
            if layout.values is not None and values.dtype == torch.uint8:
                values = values.view(layout.values)
            how = kind.Params(orig_dtype=torch.float32, orig_shape=shape, **scales, **layout.options(note))
            weight = kind.dequantize(values, how)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as problem:
            raise BaseModelError(
                f"The weight's scales do not fit it: {str(problem).splitlines()[0] if str(problem) else problem!r}",
                file=self.path,
                key=key,
            ) from problem
        if tuple(weight.shape) != shape:
            raise BaseModelError(f"The weight is of shape {tuple(weight.shape)}, not {shape}", file=self.path, key=key)
        return weight if rows is None else weight[rows[0] : sum(rows)].clone()

    def _viewed(self, key: str, dtype: torch.dtype | None) -> Tensor:
        tensor = self.tensor(key)
        return tensor.view(dtype) if dtype is not None and tensor.dtype == torch.uint8 else tensor


def _flat(note: dict[str, Any]) -> dict[str, Any]:
    """A module's note with the options that some tools nest."""
    nested = note.get("params")
    return {**nested, **note} if isinstance(nested, dict) else note


def _kitchen(path: os.PathLike) -> Any:
    """comfy-kitchen's layouts."""
    try:
        from comfy_kitchen import tensor
    except ImportError as problem:
        raise BaseModelError(
            "The model is quantised in a layout of ComfyUI's, which its library comfy-kitchen decodes; that is not "
            "installed in this Python",
            file=Path(path),
            hint=_INSTALL,
        ) from problem
    return tensor
