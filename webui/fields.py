"""What every job can be asked for: one table, from which the page, the API and its OpenAPI text are made.

Names, lists and defaults are those of ``choices.py``. English stands here; ``locales/zh/webui.json`` has the Chinese.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from .. import choices

SAME = "same"  # as it came in
FIXED = "fixed"  # a rank given as a number
EXISTING = ("base", "lora")  # kinds whose value is the name of a file that there is


@dataclass(frozen=True)
class Field:
    """One thing to fill in.

    kind: "choice", "number", "whole" (number), "flag", "text" (a line), "lines", "base", "lora", "loras" (text with
        ``<lora:name:0.8>`` tags), "shelf" (several LoRAs, none for all) or "output" (a new file's name).
    default: None where nothing is given. needed: whether nothing is no answer.
    low, high: bounds of a number, inclusive.
    label, help: in English. more: shown under "More options".
    """

    name: str
    kind: str
    default: Any = None
    label: str = ""
    help: str = ""
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    needed: bool = False
    more: bool = False


def _lora(help: str = "The LoRA to work on.", *, needed: bool = True) -> Field:
    return Field("lora", "lora", None, "LoRA", help, needed=needed)


def _output() -> Field:
    return Field(
        "output",
        "output",
        "",
        "Name of the new file",
        "Written into the LoRA folder; nothing there is ever overwritten. Empty: a name is made up.",
    )


def _hidden(*fields: Field) -> tuple[Field, ...]:
    return tuple(replace(field, more=True) for field in fields)


SOURCE = Field("source", "base", None, "Its own base", "The base model that the LoRA was trained on.", needed=True)
TARGET = Field("target", "base", None, "New base", "The base model that the new LoRA is for.", needed=True)
BASE = Field("base", "base", None, "Base model", "Needed only for DoRA and the like, and for odd key names.")
LORAS = Field(
    "loras",
    "loras",
    "",
    "LoRAs with strengths",
    "As in a prompt: <lora:name:0.8>, or <lora:name:0.6:0.8> for 0.6 on the text encoder and 0.8 on the model. A whole "
    "prompt may be pasted; only its LoRAs are read.",
    needed=True,
)
STRENGTH = Field("strength", "number", choices.Transfer.strength, "Strength", "Multiply the update by this.")
METHOD = Field(
    "method",
    "choice",
    choices.Transfer.method,
    "Method",
    "auto chooses, and says why. copy is hard to beat between relatives.",
    ("auto", *choices.Transfer.methods),
)
MOVING = _hidden(
    Field("rank", "whole", choices.Transfer.rank, "Rank", "Cut the result to this rank; empty: no limit.", low=1),
    Field(
        "threshold",
        "number",
        choices.Transfer.threshold,
        "Threshold",
        "Mean similarity from which a weight takes part (ProLoRA: 0.8).",
        low=0,
        high=1,
    ),
    Field(
        "below_threshold",
        "choice",
        choices.Transfer.below_threshold,
        "Below the threshold",
        "auto leaves such weights out with lora-x, as its paper does, and copies them with the other methods.",
        choices.Transfer.filters,
    ),
    Field(
        "match_blocks",
        "choice",
        choices.Transfer.match_blocks,
        "Matching blocks",
        "Where depths differ: auto takes a published pruning map, if there is one, before a search.",
        choices.Transfer.matchings,
    ),
    Field(
        "fill",
        "choice",
        choices.Transfer.fill,
        "Fill",
        "Blocks of a deeper target that nothing feeds: nearest gives them the most similar one's update.",
        choices.Transfer.fills,
    ),
)
SIZE = _hidden(
    Field(
        "subspace",
        "choice",
        choices.Subspace.subspace,
        "Size of subspaces",
        "A share of a weight's smaller side, one fixed number, or as many as hold a share of its energy.",
        choices.Subspace.subspaces,
    ),
    Field("k_share", "number", choices.Subspace.k_share, "k as a share", "For share.", low=0.01, high=1),
    Field("k", "whole", choices.Subspace.k, "k", "For fixed; the LoRA-X paper takes 320.", low=1),
    Field("energy", "number", choices.Subspace.energy, "Energy", "For energy, which is slow.", low=0.01, high=1),
)
DTYPE = Field("dtype", "choice", SAME, "Number type", "Of the new file.", (SAME, *choices.File.dtypes), more=True)
LAYOUT = Field(
    "layout",
    "choice",
    choices.File.layout,
    "Key names",
    "Of the new file.",
    (SAME, *choices.File.layouts),
    more=True,
)
DEVICE = Field(
    "device", "choice", choices.Work.device, "Device", "auto takes the host's.", choices.Work.devices, more=True
)
FILE = (LAYOUT, DTYPE)
MERGING = (
    Field(
        "method",
        "choice",
        choices.Merge.method,
        "Method",
        "lego clusters ranks; concat is the exact sum of all.",
        choices.Merge.methods,
    ),
    Field(
        "rank",
        "choice",
        choices.Merge.rank,
        "Rank of the result",
        "max: the largest of the LoRAs; sum: all together; auto: what keeps the energy below; fixed: the number below.",
        (*choices.Merge.ranks, FIXED),
    ),
    Field("fixed_rank", "whole", choices.Merge.fixed_rank, "Rank as a number", "For fixed.", low=1),
    *_hidden(
        Field("energy", "number", choices.Merge.energy, "Energy", "For rank auto: share to keep.", low=0.01, high=1),
        Field(
            "density",
            "number",
            choices.Merge.density,
            "Density",
            f"Share of entries kept, with {', '.join(choices.Merge.readers['density'])}.",
            low=0.001,
            high=1,
        ),
        Field("units", "choice", choices.Merge.units, "Units", "Of lego.", choices.Merge.unit_forms),
        Field("parameter_reweighting", "flag", choices.Merge.parameter_reweighting, "Reweight parameters", "Of lego."),
        Field("output_reweighting", "flag", choices.Merge.output_reweighting, "Reweight outputs", "Of lego."),
        Field("seed", "whole", choices.Merge.seed, "Seed", "The same seed, the same file.", low=0, high=2**32 - 1),
    ),
)
RESIZING = (
    Field(
        "rule",
        "choice",
        choices.Resize.rule,
        "Rule",
        "rank: this rank; ratio: singular values above the largest divided by the amount; cumulative, energy and "
        "frobenius: the fewest that keep that share of the sum, the squares, the norm.",
        choices.Resize.rules,
    ),
    Field("amount", "number", choices.Resize.amount, "Amount", "A rank, a ratio or a share, as the rule says.", low=0),
    Field("max_rank", "whole", choices.Resize.max_rank, "Largest rank", "Empty: no limit.", low=1, more=True),
)
TEACHING = (
    Field("prompts", "lines", (), "Prompts", "One a line. Empty: made from the LoRA's training tags and the seeds."),
    Field("seeds", "lines", (), "Seed prompts", "A few prompts like those the LoRA is for, one a line."),
    Field(
        "effort",
        "choice",
        choices.Effort.effort,
        "Effort",
        "quick: for a start from a copy; normal: for most; thorough: some three times as much. What is set wins.",
        choices.Effort.efforts,
    ),
    Field("steps", "whole", choices.Distill.steps, "Steps", "Empty: as the effort says.", low=1),
    Field("start_from", "choice", choices.Pipelines.start_from, "Start from", "", choices.Pipelines.starts),
    Field("kind", "choice", choices.Distill.kind, "Kind of adapter", "", choices.Distill.kinds),
    Field("rank", "whole", choices.Distill.rank, "Rank", "Of the new adapter.", low=1),
    *_hidden(
        Field(
            "source_parts",
            "base",
            None,
            "Parts of its own base",
            "For a base in a single file: a diffusers folder of the same kind of model, for what the file lacks.",
        ),
        Field("target_parts", "base", None, "Parts of the new base", "The same for the new base."),
        Field("count", "whole", choices.Dataset.count, "Pictures", "To learn from. Empty: as the effort says.", low=2),
        Field("objective", "choice", choices.Distill.objective, "Objective", "", choices.Distill.objectives),
        Field("modules", "choice", choices.Distill.modules, "Weights that learn", "", choices.Distill.module_sets),
        Field("effect", "number", choices.Distill.effect, "Effect", "Factor on what the LoRAs do."),
        Field("match_effect", "flag", choices.Distill.match_effect, "Match the effect", "Scale the result at the end."),
        Field("learning_rate", "number", choices.Distill.learning_rate, "Learning rate", "0 chooses one.", low=0),
        Field("schedule", "choice", choices.Distill.schedule, "Schedule", "", choices.Distill.schedules),
        Field("batch", "whole", choices.Distill.batch, "Batch", "As many as memory holds.", low=1),
        Field(
            "accumulation",
            "whole",
            choices.Distill.accumulation,
            "Accumulation",
            "Batches for a step. Empty: as many as it needs.",
            low=1,
        ),
        Field("guards", "whole", choices.Distill.guards, "Guard prompts", "To measure side effects on.", low=0),
        Field("width", "whole", None, "Width", "Pixels. Empty: what suits the models.", low=64, high=4096),
        Field("height", "whole", None, "Height", "Pixels. Empty: as the width.", low=64, high=4096),
        Field("negative", "text", choices.Pipelines.negative, "Negative prompt", "Of all pictures."),
        Field("precision", "choice", choices.Pipelines.precision, "Precision", "", choices.Pipelines.precisions),
        Field("seed", "whole", choices.Distill.seed, "Seed", "", low=0, high=2**32 - 1),
    ),
)
# The sub-tabs, in their order.
JOBS: dict[str, tuple[Field, ...]] = {
    "transfer": (_lora(), SOURCE, TARGET, _output(), METHOD, STRENGTH, *MOVING, *SIZE, *FILE, DEVICE),
    "merge": (LORAS, _output(), *MERGING, replace(BASE, more=True), *FILE, DEVICE),
    "resize": (_lora(), _output(), *RESIZING, replace(BASE, more=True), *FILE),
    "similarity": (SOURCE, TARGET, _lora("Only the weights that it changes; empty: all.", needed=False), *SIZE, DEVICE),
    "convert": (_lora(), replace(LAYOUT, more=False), _output(), replace(DTYPE, more=False), BASE),
    "inspect": (
        _lora(),
        Field("tags", "whole", choices.Inspect.tags, "Training tags listed", "", low=0, high=1000),
    ),
    "shelf": (
        Field("shelf", "shelf", (), "LoRAs", "Those to move; none chosen: all of the folder."),
        SOURCE,
        TARGET,
        Field("folder", "text", "moved", "Folder for the results", "In the LoRA folder. What is there is kept."),
        METHOD,
        STRENGTH,
        *MOVING,
        *SIZE,
        *FILE,
        DEVICE,
    ),
    "distill": (LORAS, SOURCE, TARGET, _output(), *TEACHING, *FILE, DEVICE),
}


def names(kinds: Iterable[str] = JOBS) -> list[str]:
    """The names of all fields of some jobs, each once."""
    return list(dict.fromkeys(field.name for kind in kinds for field in JOBS[kind]))
