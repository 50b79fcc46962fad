"""Every list to choose from and every default that nodes, command line, Python and jobs share.

No torch here, so that menus and help cost nothing. Each class is a page of names for one job and is never made an
instance of: the plural is a list, the singular the default of the option that is called so. None stands for "not
given"; nodes, which cannot say that, show 0.

Methods, rules and kinds themselves are functions and classes in ``kernels``; tests compare their registries and
signatures, the nodes' inputs, the command line's options and the jobs' settings with what stands here.
"""

from __future__ import annotations


class Work:
    """Where to compute."""

    devices = ("auto", "cpu", "cuda")
    device = "auto"


class File:
    """How an adapter is written. ``same`` leaves things as they came."""

    layouts = ("kohya", "diffusers", "peft", "comfy")
    layout = "same"
    dtypes = ("fp16", "bf16", "fp32")
    dtype: str | None = None


class Inspect:
    tags = 30  # training tags listed


class Subspace:
    """How many singular vectors of a base weight count: k."""

    subspaces = ("share", "fixed", "energy")
    subspace = "share"
    k_share = 0.25  # of the weight's smaller side
    k = 320  # as in the LoRA-X paper
    energy = 0.9


class Transfer:
    """A method is a file in ``kernels/transfer`` and a name here, in the order of the imports there."""

    methods = ("copy", "lora-x", "prolora", "rotate")
    method = "auto"
    threshold = 0.0  # ProLoRA: 0.8
    # What becomes of a module under the threshold; auto leaves it out with lora-x, as that paper does, else copies it.
    filters = ("auto", "copy", "leave-out")
    below_threshold = "auto"
    # Which block feeds which where depths differ: a published pruning map before a search, or the search alone.
    matchings = ("auto", "search")
    match_blocks = "auto"
    # What blocks of a deeper target get that nothing feeds: nothing, or the update of the most similar block.
    fills = ("none", "nearest")
    fill = "none"
    rank: int | None = None
    strength = 1.0
    processes = 4  # at most, for many LoRAs


class Merge:
    """A method is a file in ``kernels/merge`` and a name here, in the order of the imports there."""

    methods = (
        "lego",
        "concat",
        "linear",
        "svd",
        "ties",
        "dare",
        "della",
        "magnitude",
        "knots",
        "core-ties",
        "tsv",
        "iso",
    )
    method = "lego"
    # Options that several methods read, with these methods; an option of one method alone is told with its name.
    readers = {
        "density": ("ties", "dare", "della", "magnitude", "knots", "core-ties"),
        "seed": ("lego", "dare", "della"),
    }
    ranks = ("max", "auto", "sum")
    rank = "max"
    fixed_rank = 16
    energy = 0.95  # of the sum, for rank auto
    unit_forms = ("canonical", "balanced", "paper")
    units = "canonical"
    density = 0.5
    seed = 0
    parameter_reweighting = True
    output_reweighting = True


class Resize:
    rules = ("rank", "ratio", "cumulative", "energy", "frobenius")
    rule = "rank"
    amount = 16.0
    max_rank: int | None = None


class Prompts:
    template = "{trigger}, {3::{tags}|{seed}}"
    count = 64
    seed = 0
    guard_share: float | None = None  # guard_share_known where the trigger words are known, else none
    guard_share_known = 0.25


class Drawing:
    """How teacher and target draw pictures, in a sampler node's words."""

    width = 512
    height = 512
    steps = 20
    cfg = 7.0
    sampler = "euler"
    scheduler = "simple"
    negative = ""
    batch = 4  # pictures at a time


class Effort:
    """How much a distillation may cost; what is set by itself wins. Figures: benchmarks/quality_effort.py."""

    efforts = ("quick", "normal", "thorough")
    effort = "normal"


class Budget:
    """What an effort stands for."""

    samples = {"quick": 16, "normal": 16, "thorough": 64}
    noisy_latents = {"quick": 104, "normal": 256, "thorough": 1000}
    steps = {"quick": 20, "normal": 80, "thorough": 100}
    at_once = {"quick": 16, "normal": 16, "thorough": 32}  # noisy latents for one step


class Learning:
    """How long learning is where no effort says so, as on text."""

    steps = 100
    accumulation = 4  # times the batch the 32 that were measured for quality


class Dataset:
    count: int | None = None  # as the effort says
    seed = 0
    least_action = 0.05
    least_likeness = 0.5


class Distill:
    """A student kind is a file in ``kernels/distill/students`` and a name here, in the order of the imports there."""

    objectives = ("auto", "difference", "output", "samples")
    objective = "auto"
    kinds = ("lora", "lora-x", "lora-x-diagonal", "loha", "lokr", "dora")
    kind = "lora"
    rank = 16
    alpha: float | None = None
    module_sets = ("auto", "attention", "attention + feed-forward", "linear", "linear + convolution")
    modules = "auto"
    effect = 1.0
    match_effect = False
    noisy_latents: int | None = None  # as the effort says; of steps that are set enough, at most 1024
    guards = 8  # guard prompts on which side effects are measured
    steps: int | None = None  # as the effort says
    learning_rate = 0.0  # chosen from the number of weights
    schedules = ("cosine", "linear", "constant")
    schedule = "cosine"
    batch = 8  # as much memory as was measured
    accumulation: int | None = None  # as the effort says
    dtypes = ("auto", "bf16", "fp16", "fp32")
    dtype = "auto"
    seed = 0


class Pipelines:
    """Distilling outside ComfyUI."""

    objectives = (*Distill.objectives, "answers")
    precisions = Distill.dtypes
    precision = Distill.dtype
    switches = ("auto", "on", "off")
    offload = "auto"
    checkpointing = "auto"
    checkpoint_every = 25
    # or a file; auto: a copy of one LoRA, unless the bases are strangers
    starts = ("auto", "none", "copy")
    start_from = "auto"
    negative = Drawing.negative


class Text:
    """Distilling language models; ranks, steps and rates are those of Distill."""

    objectives = ("auto", "answers", "difference")
    objective = "auto"
    kinds = (Distill.kind, "dora", "loha")
    kind = Distill.kind
    module_sets = ("auto", "linear")
    modules = "auto"
    samples = 500
    temperature = 1.0
    attempts = 20  # prompts generated at most, for each that is wanted
    least_likeness = Dataset.least_likeness
    count = 200  # prompts that a discriminator learns to tell from real ones
    guard_share: float | None = None  # of what is learnt, texts that the target writes by itself: guard_share_text
    guard_share_text = 0.5
    shipped = "discriminator"  # the folder in an adapter's own that is taken for one
    shipped_seeds = "seeds.jsonl"  # the examples there that are shown where no others are given
    max_new_tokens = 64
    stop = ""
    chat = False
    starts = ("none", "copy")
    start_from = "none"


class Page:
    """The page alone."""

    listen = "127.0.0.1"
    port = 0  # a free one
    languages = ("auto", "en", "zh")
    language = "auto"


class Batch:
    """Many prompts on several servers."""

    ahead = 2
    patience = 60.0


class Engines:
    """Where a shelf is worked on."""

    engines = ("local", "ray")
    engine = "local"
    gpus_per_task = 0.0
