"""What the merging nodes share: their inputs, the LoRAs and strengths they bring, the run and its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite

from comfy_api.latest import io

from ..choices import Merge
from . import host
from .common import only_with, picture, shown, to_adapter, to_state

MOST = 50  # LoRAs per node
MERGED = "The LoRAs to merge."
MEANS = ("balanced", "paper")  # forms of units whose clusters become means


def lora_inputs(purpose: str = MERGED) -> list[io.Input]:
    """The LoRAs and their strengths."""
    return [
        io.Autogrow.Input(
            "loras",
            template=io.Autogrow.TemplatePrefix(
                io.LoraModel.Input("lora", tooltip="One of the LoRAs."), prefix="lora_", min=0, max=MOST
            ),
            tooltip=f"{purpose} Connect as many as you like; ranks, formats and trainers may differ.",
        ),
        io.String.Input(
            "strengths",
            default="1",
            tooltip="A strength for each LoRA in order, as in a loader: '0.8, 1, -0.3'. A single number counts for "
            "all. '0.8:0.5' is 0.8 on the model and 0.5 on the text encoder.",
        ),
    ]


def rank_inputs() -> list[io.Input]:
    """The rank of the result, as a rule or a number."""
    return [
        io.Combo.Input(
            "rank",
            options=[*Merge.ranks, "fixed"],
            default=Merge.rank,
            tooltip="Rank of the merged LoRA. max: that of the largest LoRA; auto: for each module the smallest that "
            "keeps 'energy' of the sum; sum: all ranks together; fixed: k. concat and linear are cut by k only.",
        ),
        io.Int.Input(
            "k",
            default=Merge.fixed_rank,
            min=1,
            max=4096,
            tooltip="The rank of the merged LoRA, as a number. Used when rank is 'fixed'.",
            extra_dict=only_with(rank=["fixed"]),
        ),
        io.Float.Input(
            "energy",
            default=Merge.energy,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="Share of the sum's energy to keep. Used when rank is 'auto'.",
            extra_dict=only_with(rank=["auto"]),
        ),
    ]


def unit_inputs() -> list[io.Input]:
    """What only LEGO reads."""
    return [
        io.Combo.Input(
            "units",
            options=list(Merge.unit_forms),
            default=Merge.units,
            advanced=True,
            tooltip="Form of LEGO's units. canonical: singular pairs, free of signs and scales, each cluster its best "
            "rank-one; balanced: signs and scales evened out; paper: as LoRA-LEGO prints it.",
            extra_dict=only_with(method=["lego"]),
        ),
        io.Boolean.Input(
            "parameter_reweighting",
            default=Merge.parameter_reweighting,
            advanced=True,
            tooltip="LEGO: give clusters' means the size of their members. Canonical units need none.",
            extra_dict=only_with(method=["lego"], units=MEANS),
        ),
        io.Boolean.Input(
            "output_reweighting",
            default=Merge.output_reweighting,
            advanced=True,
            tooltip="LEGO: multiply means by √(r/k): k weigh as much as the r of one LoRA. Canonical units need none.",
            extra_dict=only_with(method=["lego"], units=MEANS),
        ),
    ]


def seed_input(what: str) -> io.Input:
    """A seed that stays as it is from run to run unless the user says otherwise."""
    return io.Int.Input(
        "seed",
        default=Merge.seed,
        min=0,
        max=2**32 - 1,
        advanced=True,
        control_after_generate="fixed",
        tooltip=f"Seed {what}. The same seed, the same LoRA.",
        extra_dict=only_with(method=Merge.readers["seed"]),
    )


def optional_inputs() -> list[io.Input]:
    return [
        io.Custom("LORA_STACK").Input(
            "lora_stack",
            optional=True,
            tooltip="A stack of LoRA files from another pack's stacker, merged after those connected above.",
        ),
        io.Model.Input(
            "model",
            optional=True,
            tooltip="The model the LoRAs are for. Needed only for DoRA, OFT and the like, and for LoRAs whose files "
            "name the same weights differently. It is not changed.",
        ),
        io.Clip.Input("clip", optional=True, tooltip="Its text encoder, for such LoRAs that change it."),
    ]


def outputs() -> list[io.Output]:
    return [
        io.LoraModel.Output("lora", display_name="lora", tooltip="The merged LoRA, in the first one's layout."),
        io.String.Output("report", display_name="report", tooltip="Sentences, then tables, in Markdown."),
        io.Image.Output(
            "cluster_plot",
            display_name="cluster plot",
            tooltip="LEGO: by block, how many clusters mix several LoRAs. Other methods: cosine with the exact sum.",
        ),
    ]


def run(cls, loras, strengths, lora_stack, model, clip, *, rank: str, fixed_rank: int, **settings) -> io.NodeOutput:
    """Merge and hand out the LoRA, the report and the picture."""
    from ..jobs.merge.merge import MergeSettings, merge

    chosen = MergeSettings(rank=fixed_rank if rank == "fixed" else rank, **settings)
    base = None if model is None else host.HostBase(model, clip)
    given = gather(loras, strengths, lora_stack)
    return finish(cls, merge(given, chosen, base=base, progress=host.Progress(), device=host.device()))


def finish(cls, result) -> io.NodeOutput:
    """The outputs for a MergeResult."""
    from ..adapters.metadata import with_provenance

    metadata = with_provenance(result.adapter.metadata, result.provenance, changed=True)
    text, image = result.report.to_markdown(), picture(result.report, "clusters")
    return io.NodeOutput(to_state(replace(result.adapter, metadata=metadata)), text, image, ui=shown(text, image, cls))


def gather(loras: Mapping | None, strengths: str, stack: Sequence | None) -> list[tuple]:
    """(adapter, strength on the model, strength on the text encoder) of all connected LoRAs and of the stack.

    Raises:
        SettingsError: strengths that are no numbers or not as many as LoRAs; a stack of another form.
        AdapterError: no LoRA in what is connected; a file of the stack is missing.
    """
    from ..errors import SettingsError

    states = [state for state in (loras or {}).values() if state is not None]
    pairs = parse_strengths(strengths)
    if len(pairs) == 1:
        pairs *= len(states)
    if len(pairs) != len(states):
        raise SettingsError(
            f"There are {len(states)} LoRAs and {len(pairs)} strengths",
            hint="Give one strength for each LoRA, separated by commas, or one for all.",
        )
    given = [(to_adapter(state), *pair) for state, pair in zip(states, pairs, strict=True)]
    return given + [_stacked(entry) for entry in stack or ()]


def parse_strengths(text: str) -> list[tuple[float, float]]:
    """[(model, clip), …] from "0.8, 1:0.5, -0.3"."""
    from ..errors import SettingsError

    found = []
    for entry in (e.strip() for e in text.replace(";", ",").replace("\n", ",").split(",")):
        if not entry:
            continue
        try:
            numbers = [float(number) for number in entry.split(":")]
        except ValueError:
            numbers = []
        if not 1 <= len(numbers) <= 2 or not all(map(isfinite, numbers)):
            raise SettingsError(f"{entry!r} is not a strength", hint="Write numbers like 0.8 or 0.8:0.5, with commas.")
        found.append((numbers[0], numbers[-1]))
    return found or [(1.0, 1.0)]


def _stacked(entry) -> tuple:
    """One entry (name, strength on the model, strength on the text encoder) of a LORA_STACK."""
    from .. import adapters
    from ..errors import AdapterError, SettingsError

    try:
        name, model, clip = entry
        model, clip = float(model), float(clip)
    except (TypeError, ValueError):
        raise SettingsError(f"{entry!r} in lora_stack is not (file name, strength, strength)") from None
    path = host.lora_path(str(name))
    if path is None:
        raise AdapterError("The stack names a file that is not in models/loras", file=name)
    return adapters.read(path), model, clip
