"""What several nodes share: the category, the inputs that size a subspace, adapters and reports on their way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from comfy_api.latest import io, ui

from ..choices import Subspace

CATEGORY = "LoRA Graft"


def only_with(**others: Sequence | None) -> dict:
    """For an input's ``extra_dict``: the values of other inputs with which it means something, None for any that is
    not 0 or off. The editor hides it otherwise (``web/fields.js``); to the API it is always there.
    """
    return {"lora_graft_with": {name: values and list(values) for name, values in others.items()}}


def size_inputs() -> list[io.Input]:
    """The widgets that say how many singular vectors make up a subspace."""
    return [
        io.Combo.Input(
            "subspace",
            options=list(Subspace.subspaces),
            default=Subspace.subspace,
            tooltip="How to choose k, the number of singular vectors per side of each weight: a share of its smaller "
            "side, one fixed number, or as many as hold a share of the weight's energy.",
        ),
        io.Float.Input(
            "k_share",
            default=Subspace.k_share,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="k as a share of the weight's smaller side. Used when subspace is 'share'.",
            extra_dict=only_with(subspace=["share"]),
        ),
        io.Int.Input(
            "k",
            default=Subspace.k,
            min=1,
            max=8192,
            tooltip="Size of the subspace, k, the same for every weight (the LoRA-X paper uses 320). Used when "
            "subspace is 'fixed'.",
            extra_dict=only_with(subspace=["fixed"]),
        ),
        io.Float.Input(
            "energy",
            default=Subspace.energy,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="Smallest k whose singular vectors hold this share of the weight's energy. Used when subspace is "
            "'energy'; needs a full decomposition of every weight and is slow.",
            extra_dict=only_with(subspace=["energy"]),
        ),
    ]


def subspace_size(subspace: str, k_share: float, k: int, energy: float):
    """The kernels' SubspaceSize for the values of :func:`size_inputs`."""
    from ..kernels.spectral import SubspaceSize

    return SubspaceSize.by(subspace, share=k_share, k=k, energy=energy)


def menu(methods: Mapping) -> str:
    """A registry's methods for a tooltip: what each name stands for and its paper."""
    return " ".join(f"{m.name}: {m.display}, {m.paper}." for m in methods.values())


def to_adapter(state: Mapping[str, torch.Tensor]):
    """The adapter inside a LORA_MODEL, ours or another node's plain state dict.

    Raises:
        AdapterError: no LoRA format explains it.
    """
    from .. import adapters

    return adapters.from_state_dict(state)


def to_state(adapter):
    """A LORA_MODEL that core nodes take for a plain state dict and that still knows its metadata."""
    from .. import adapters

    return adapters.to_state_dict(adapter)


def fitting(adapter, base):
    """The adapter as a LORA_MODEL that the host's loader applies in full to ``base``, a :class:`host.HostBase`.

    Keys that only this project reads become the host's own; scales that only the metadata tells become tensors.

    Raises:
        WrongBaseError: no module belongs to the base, or a shape does not fit it.
    """
    from ..errors import WrongBaseError
    from ..jobs.transfer.plan import plan

    adapter = adapter.with_alphas()
    try:
        steps = plan(adapter, base, base)
    except WrongBaseError as error:
        raise error.at(hint="") from None
    foreign = {s.module.key: s.source for s in steps if s.source and s.module.key not in base.loadable}
    renames = {key: base.names.key_for(weight_slice, "comfy") or key for key, weight_slice in foreign.items()}
    modules = {renames.get(key, key): m.renamed(renames.get(key, key)) for key, m in adapter.modules.items()}
    return to_state(adapter.with_modules(modules))


def strengthened(adapter, strength: float, base):
    """The adapter with a strength built in; formats that cannot say so become plain factors, with `base`'s weights."""
    from ..jobs.transfer.transfer import scaled

    modules = {key: scaled(module, strength, base) for key, module in adapter.modules.items()}
    return replace(adapter.with_modules(modules), digest="")


def changes_text_encoder(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether some module may belong to a text encoder; True when the keys do not tell."""
    from ..names.keys import BODY, parse_key

    return any(parse_key(key).part != BODY for key in state)


def picture(report, drawing: str = "heatmap") -> torch.Tensor:
    """A report (or what else it takes) drawn by a function of plots: an IMAGE (1, height, width, 3) in [0, 1]."""
    try:
        from .. import plots

        pixels = getattr(plots, drawing)(report)
    except ImportError as missing:
        pixels = _note(f"No picture: {missing}.\nInstall the pack's requirements.txt\nwith ComfyUI's Python.")
    return torch.from_numpy(pixels).float().div(255).unsqueeze(0)


def shown(text: str, image: torch.Tensor, cls, compared=None) -> dict:
    """What a node shows under itself: the picture and the text; of a report on two bases also its heat map's cells,
    which the modules in ``web/`` draw.
    """
    both = ui.PreviewImage(image, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
    if compared is None:
        return both
    from ..plots.cells import cells

    return both | {"lora_graft": ({"heat_map": cells(compared)},)}


def _note(text: str):
    import numpy as np
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", (480, 120), "white")
    ImageDraw.Draw(sheet).multiline_text((16, 16), text, fill="black")
    return np.asarray(sheet).copy()
